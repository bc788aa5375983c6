"""Claim: on a CPU, one all-layer LoRA step takes searchtune a fraction of the time it takes sentence-transformers.

The same MiniLM, LoRA (rank 16, every linear layer), texts, batches and threads; in-batch negatives in one direction
at temperature .05. A step is forward, backward, clipping and AdamW. Every round gives one batch to every system in
turn, so that a busy machine slows all of them, and a ratio is taken within a round. The peer's texts are tokenised
beforehand, which its trainer does while it trains. Peers, all from sentence-transformers:

    cached, default     CachedMultipleNegativesRankingLoss as it comes: float32, mini-batches of 32, the base's dropout
    cached, bf16 ...    the same in bf16 and without dropout: autocast as the trainer's `bf16=True` has it, or bf16
                        weights under float32 LoRA; sdpa or eager attention
    plain, bf16 ...     MultipleNegativesRankingLoss, which caches no gradients, in the same four ways

The best peer is the one with the highest median of this very run, so chance favours it.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from itertools import cycle, islice
from pathlib import Path

import torch
from peer import BASE, autocast_bf16, lora_sentence_transformer
from sentence_transformers.sentence_transformer.losses import (
    CachedMultipleNegativesRankingLoss,
    MultipleNegativesRankingLoss,
)
from torch import Tensor, nn

from searchtune.models.adapters import add_lora
from searchtune.models.encoder import load_encoder
from searchtune.models.precision import compute_dtype
from searchtune.models.sources import resolve_model
from searchtune.specs.recipe import ContrastiveObjective, EmbedRecipe, LoraMethod, Optimiser
from searchtune.training.contrastive import InBatchContrastive, PairBatch, Pairs, Texts
from searchtune.workflows.bank import Bank, build_bank
from searchtune.workflows.progress import SILENT
from searchtune.workflows.training_set import TrainingSet, open_training_set

OURS = ("searchtune", "searchtune, caching", "searchtune, float32")
DEFAULT_PEER = "cached, default"
BF16 = ("autocast sdpa", "autocast eager", "weights sdpa", "weights eager")
PEERS = (DEFAULT_PEER, *(f"{loss}, bf16 {how}" for loss in ("cached", "plain") for how in BF16))


@dataclass
class System:
    """Something that trains. `loss` takes the number of a batch; `fused` is the optimiser's implementation."""

    name: str
    module: nn.Module
    loss: Callable[[int], Tensor]
    fused: bool = False

    def __post_init__(self) -> None:
        self.trained = [p for p in self.module.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(self.trained, lr=1e-4, weight_decay=0.0, fused=self.fused or None)
        self.losses: list[float] = []
        self.seconds: list[float] = []

    def step(self, batch: int) -> None:
        start = time.perf_counter()
        loss = self.loss(batch)
        self.losses.append(float(loss.detach()))
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.seconds.append(time.perf_counter() - start)


class Bench:
    """The batches, and the systems that train on them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.recipe = EmbedRecipe(
            task="pystdlib",
            base=BASE,
            max_tokens=options.tokens,
            method=LoraMethod(rank=16, alpha=32),
            objective=ContrastiveObjective(temperature=0.05, symmetric=False),
            optim=Optimiser(batch_size=options.batch_size),
        )
        self.training: TrainingSet = open_training_set(self.recipe, "fail", SILENT)
        self.bank: Bank | None = None
        first = self._ours(OURS[0])
        self.batches: list[PairBatch] = list(islice(cycle(first.batches(0)), options.warmup + options.rounds))

    def system(self, name: str) -> System:
        if name in OURS:
            objective = self._ours(name)
            return System(name, objective.trainable, lambda step: objective.loss(self.batches[step]))
        return self._peer(name)

    def _ours(self, name: str) -> InBatchContrastive:
        """The objects of `workflows/embed.py`."""
        recipe, cpu = self.recipe, torch.device("cpu")
        dtype = torch.float32 if name.endswith("float32") else compute_dtype("auto", cpu)
        encoder = load_encoder(resolve_model(recipe.base), dtype=dtype, device=cpu, attention="eager")
        add_lora(encoder, recipe.method, seed=recipe.seed)
        if self.bank is None:
            self.bank = build_bank(self.training.collection, encoder, recipe, Path(), positives=self.training.relevant)
        recompute = True if name.endswith("caching") else None
        texts = Texts(self.bank.training, self.bank.queries, recipe.tokens_per_chunk, recompute)
        pairs = Pairs(self.training.relevant, self.training.known)
        size = recipe.optim.batch_size
        return InBatchContrastive(encoder, texts, pairs, recipe.objective, batch_size=size, seed=recipe.seed)

    def _peer(self, name: str) -> System:
        caching, _, how = name.partition(", ")
        model = lora_sentence_transformer(
            self.recipe.method,
            max_tokens=self.recipe.max_tokens,
            attention="eager" if how.endswith("eager") else "sdpa",
            dropout=how == "default",
            bf16_weights="weights" in how,
        )
        if "autocast" in how:
            autocast_bf16(model)
        model.train()
        scale = 1 / self.recipe.objective.temperature
        loss = (
            CachedMultipleNegativesRankingLoss(model, scale=scale, mini_batch_size=self.options.mini_batch_size)
            if caching == "cached"
            else MultipleNegativesRankingLoss(model, scale=scale)
        )
        collection = self.training.collection
        features = [
            [
                model.preprocess([collection.query_texts[query] for query in batch.queries.tolist()]),
                model.preprocess([collection.documents[doc] for doc in batch.docs.tolist()]),
            ]
            for batch in self.batches
        ]
        labels = torch.zeros(0)
        return System(name, model, lambda step: loss([dict(side) for side in features[step]], labels), fused=True)

    def run(self) -> list[System]:
        """All rounds of all chosen systems, warm-up included."""
        chosen = [name for name in (*OURS, *PEERS) if any(fnmatch.fnmatch(name, p) for p in self.options.systems)]
        if not chosen:
            raise SystemExit(f"no system matches {self.options.systems}; there are: {'; '.join((*OURS, *PEERS))}")
        systems = [self.system(name) for name in chosen]
        if len({sum(p.numel() for p in system.trained) for system in systems}) != 1:
            raise SystemExit("the systems do not train equally many parameters: the comparison would be unfair")
        print("; ".join(chosen))
        for number in range(len(self.batches)):
            for system in systems:
                system.step(number)
            taken = ", ".join(f"{system.seconds[-1]:.2f}" for system in systems)
            print(f"round {number + 1} of {len(self.batches)}: {taken} s", flush=True)
        warmup = self.options.warmup
        for system in systems:
            system.seconds = system.seconds[warmup:]
        return systems


def report(bench: Bench, systems: list[System]) -> dict[str, object]:
    """Print both tables and return what they say."""
    pairs = [len(batch.queries) for batch in bench.batches[bench.options.warmup :]]
    rates = {s.name: [n / t for n, t in zip(pairs, s.seconds, strict=True)] for s in systems}
    print("\n| system | pairs/s, median | min..max | loss of the first step |\n| --- | --- | --- | --- |")
    for system in systems:
        rate = rates[system.name]
        middle = statistics.median(rate)
        print(f"| {system.name} | {middle:.1f} | {min(rate):.1f}..{max(rate):.1f} | {system.losses[0]:.4f} |")

    def best(kind: str) -> list[str]:
        found = [name for name in rates if name in PEERS and name.startswith(kind) and name != DEFAULT_PEER]
        return [max(found, key=lambda name: statistics.median(rates[name]))] if found else []

    against = [name for name in (DEFAULT_PEER,) if name in rates] + best("cached") + best("plain")
    ratios = {}
    print(
        "\n| speed of | over sentence-transformers' | times, median of rounds | min..max |\n| --- | --- | --- | --- |"
    )
    for ours in (name for name in OURS if name in rates):
        for peer in against:
            each = [a / b for a, b in zip(rates[ours], rates[peer], strict=True)]
            ratios[f"{ours} / {peer}"] = each
            print(f"| {ours} | {peer} | {statistics.median(each):.2f} | {min(each):.2f}..{max(each):.2f} |")
    return {
        "claim": "step throughput",
        "pairs_per_second": rates,
        "ratios": ratios,
        "first_losses": {system.name: system.losses[0] for system in systems},
        "batch_size": bench.options.batch_size,
        "tokens": bench.options.tokens,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "peft")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=2, help="rounds before them that do not")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--tokens", type=int, default=128, help="texts are cut here")
    parser.add_argument("--mini-batch-size", type=int, default=32, help="of the cached peer; 32 is its default")
    parser.add_argument(
        "--systems", nargs="+", default=["*"], metavar="PATTERN", help="names as in the tables, * allowed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    result = report(bench, bench.run())
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
