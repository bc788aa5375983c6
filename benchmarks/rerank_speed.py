"""Claim: on a CPU, a cross-encoder is trained and run in a fraction of the time sentence-transformers takes.

The same MiniLM body with a new head, the same LoRA (rank 16, every linear layer, head trained), pairs, lengths, loss
(binary cross-entropy over pairs) and threads, side by side in one process. Every round gives one batch to every system
in turn, so that a busy machine slows all of them, and a ratio is taken within a round.

Training: one step is forward, backward, clipping and AdamW, tokenising left out on both sides (the peer's own loss does
it in every step). Peers are sentence-transformers' `CrossEncoder` as it comes (float32, the base's dropout), and
without dropout under bf16 autocast as the trainer's `bf16=True` has it, or with bf16 weights under float32 LoRA; sdpa
or eager attention.

Scoring: from texts to scores, tokenising included. Peers are `CrossEncoder.predict`: as it comes (float32, batches of
32), and in bf16 with batches of several sizes. Both sides open one adapter trained for a few steps, so that scores can
be compared: the largest difference from float32's, and nDCG@10 of the reranked lists.

The best peer is the one with the highest median of this very run, so chance favours it.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peer import BASE
from peft import LoraConfig, TaskType
from sentence_transformers import CrossEncoder
from torch import Tensor, nn

from searchtune.data.tasks import load_task, open_collection
from searchtune.metrics.ranking import score
from searchtune.models.adapters import add_lora
from searchtune.models.inputs import length_sorted_chunks
from searchtune.models.pairs import pair_store
from searchtune.models.precision import compute_dtype
from searchtune.models.reranker import Reading, Reranker, load_reranker
from searchtune.models.sources import resolve_model
from searchtune.retrieval.bm25 import BM25Index
from searchtune.specs.recipe import LoraMethod
from searchtune.types import FloatArray, IntArray, Run

OURS = "searchtune"
CPU = torch.device("cpu")
METHOD = LoraMethod(rank=16, alpha=32)


@dataclass
class System:
    """Something that takes batch after batch."""

    name: str
    run: Callable[[int], Any]
    seconds: list[float] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)

    def take(self, batch: int) -> None:
        start = time.perf_counter()
        self.results.append(self.run(batch))
        self.seconds.append(time.perf_counter() - start)


class Material:
    """Pairs of the pystdlib test collection: each query with its best documents by BM25."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.collection = open_collection(load_task("pystdlib"))
        self.qrels = self.collection.qrels["test"].select(
            np.arange(len(self.collection.qrels["test"])) < options.queries
        )
        texts = [self.collection.query_texts[int(query)] for query in self.qrels.queries]
        self.run: Run = BM25Index(self.collection.documents).search(self.qrels.queries, texts, options.depth)
        self.queries: IntArray = np.repeat(self.qrels.queries, self.run.depth)
        self.docs: IntArray = self.run.docs.ravel()
        there = self.docs >= 0
        self.queries, self.docs, self.there = self.queries[there], self.docs[there], there
        rng = np.random.default_rng(0)
        self.order = rng.permutation(len(self.docs))

    def texts(self, rows: IntArray) -> list[list[str]]:
        queries, documents = self.collection.query_texts, self.collection.documents
        return [[queries[int(self.queries[row])], documents[int(self.docs[row])]] for row in rows]

    def batch(self, number: int) -> IntArray:
        """The rows of one training batch."""
        size = self.options.batch_size
        return np.take(self.order, np.arange(number * size, (number + 1) * size), mode="wrap")

    def labels(self, rows: IntArray) -> Tensor:
        """1 for a relevant pair."""
        stride = len(self.collection.doc_ids)
        good = self.qrels.label_queries * stride + self.qrels.docs
        return torch.from_numpy(np.isin(self.queries[rows] * stride + self.docs[rows], good).astype(np.float32))

    def ndcg(self, scores: FloatArray) -> float:
        values = np.full(self.run.docs.size, -np.inf, dtype=np.float32)
        values[self.there] = scores
        ranked = Run.ranked(self.run.queries, self.run.docs, values.reshape(self.run.docs.shape))
        return float(score(ranked, self.qrels, ["ndcg@10"])["ndcg@10"].mean())


def our_reranker(tokens: int, dtype: torch.dtype, attention: Any = "eager") -> Reranker:
    return load_reranker(
        resolve_model(BASE), Reading(max_tokens=tokens), dtype=dtype, device=CPU, attention=attention, seed=13
    )


def our_training(material: Material) -> System:
    tokens = material.options.tokens
    reranker = our_reranker(tokens, compute_dtype("auto", CPU))
    adapter = add_lora(reranker, METHOD, seed=13, task_type="SEQ_CLS", head=reranker.head_modules)
    collection = material.collection
    store = pair_store(reranker.tokenizer, list(collection.query_texts), collection.documents, reranker.form)
    trained = list(adapter.parameters.values())
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0)

    def step(number: int) -> float:
        rows = material.batch(number)
        queries, docs = material.queries[rows], material.docs[rows]
        groups = list(length_sorted_chunks(store.lengths(queries, docs), 16384))
        scores = reranker([store.chunk(queries[group], docs[group], CPU) for group in groups])
        labels = material.labels(rows)[torch.from_numpy(np.concatenate(groups))]
        return optimise(nn.functional.binary_cross_entropy_with_logits(scores, labels), trained, optimiser)

    return System(OURS, step)


def peer_training(material: Material, how: str) -> System:
    attention = "eager" if how.endswith("eager") else "sdpa"
    model = peer_model(material.options.tokens, bf16="weights" in how, attention=attention)
    config = LoraConfig(
        r=METHOD.rank,
        lora_alpha=int(METHOD.alpha),
        lora_dropout=0.0,
        target_modules=["query", "key", "value", "dense"],
        task_type=TaskType.SEQ_CLS,
        exclude_modules=".*pooler.*",
        modules_to_save=["classifier", "pooler"],
    )
    model.model.add_adapter(config)
    model.train()
    if how != "default":
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
    if "weights" in how:
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = parameter.data.float()
    trained = [p for p in model.parameters() if p.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=1e-4, weight_decay=0.0, fused=True)
    count = material.options.warmup + material.options.rounds
    features = [model.preprocess(material.texts(material.batch(number))) for number in range(count)]
    autocast = how != "default"

    def step(number: int) -> float:
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            scores = model(dict(features[number]))["scores"].view(-1)
            value = nn.functional.binary_cross_entropy_with_logits(scores, material.labels(material.batch(number)))
        return optimise(value, trained, optimiser)

    return System(how, step)


def optimise(loss: Tensor, trained: list[nn.Parameter], optimiser: torch.optim.Optimizer) -> float:
    value = float(loss.detach())
    loss.backward()
    nn.utils.clip_grad_norm_(trained, 1.0)
    optimiser.step()
    optimiser.zero_grad()
    return value


def peer_model(tokens: int, *, bf16: bool, attention: str = "sdpa", folder: str | None = None) -> CrossEncoder:
    torch.manual_seed(13)
    options: dict[str, Any] = {"attn_implementation": attention}
    if bf16:
        options["dtype"] = torch.bfloat16
    return CrossEncoder(
        folder or str(resolve_model(BASE)),
        device="cpu",
        num_labels=1,
        max_length=tokens,
        local_files_only=True,
        model_kwargs=options,
        activation_fn=nn.Identity(),
    )


def scoring_systems(material: Material, folder: Path) -> list[System]:
    """Every system scores all pairs, under one and the same trained head."""
    tokens = material.options.tokens
    plain = our_reranker(tokens, torch.float32)
    adapter = add_lora(plain, METHOD, seed=13, task_type="SEQ_CLS", head=plain.head_modules)
    with torch.no_grad():  # a head and an adapter that say something, whatever
        for name, parameter in adapter.parameters.items():
            if "lora_B" in name:
                parameter.normal_(0, 0.01, generator=torch.Generator().manual_seed(1))
    merged = adapter.peft_model.merge_and_unload()
    merged.save_pretrained(folder)
    plain.tokenizer.save_pretrained(folder)
    ours = load_reranker(folder, Reading(max_tokens=tokens), dtype=compute_dtype("auto", CPU), device=CPU)
    collection = material.collection
    texts = material.texts(np.arange(len(material.docs)))
    asked, query_rows = np.unique(material.queries, return_inverse=True)
    found, doc_rows = np.unique(material.docs, return_inverse=True)
    queries = [collection.query_texts[int(query)] for query in asked]
    documents = [collection.documents[int(doc)] for doc in found]

    def run_ours(_: int) -> FloatArray:
        store = pair_store(ours.tokenizer, queries, documents, ours.form)
        return ours.score_store(store, query_rows, doc_rows)

    systems = [System(OURS, run_ours)]
    default = peer_model(tokens, bf16=False, folder=str(folder))
    systems.append(System("default", lambda _: np.asarray(default.predict(texts, show_progress_bar=False))))
    half = peer_model(tokens, bf16=True, folder=str(folder))
    for size in material.options.batch_sizes:
        systems.append(
            System(
                f"bf16, batch {size}",
                lambda _, size=size: np.asarray(half.predict(texts, batch_size=size, show_progress_bar=False)),
            )
        )
    return systems


def rounds(systems: list[System], count: int, warmup: int) -> None:
    for number in range(warmup + count):
        for system in systems:
            system.take(number)
        taken = ", ".join(f"{system.name} {system.seconds[-1]:.2f}" for system in systems)
        print(f"round {number + 1} of {warmup + count}: {taken} s", flush=True)
    for system in systems:
        system.seconds = system.seconds[warmup:]


def table(systems: list[System], pairs: int) -> dict[str, list[float]]:
    """Print pairs per second and the ratios against the default and the best other peer."""
    rates = {system.name: [pairs / second for second in system.seconds] for system in systems}
    print("\n| system | pairs/s, median | min..max |\n| --- | --- | --- |")
    for name, each in rates.items():
        print(f"| {name} | {statistics.median(each):.0f} | {min(each):.0f}..{max(each):.0f} |")
    others = [name for name in rates if name not in (OURS, "default")]
    best = max(others, key=lambda name: statistics.median(rates[name]))
    print("\n| searchtune over | times, median of rounds | min..max |\n| --- | --- | --- |")
    ratios = {}
    for peer in ("default", best):
        each = [a / b for a, b in zip(rates[OURS], rates[peer], strict=True)]
        ratios[peer] = each
        print(f"| {peer} | {statistics.median(each):.2f} | {min(each):.2f}..{max(each):.2f} |")
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them that do not")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--queries", type=int, default=40, help="test queries whose pairs are used")
    parser.add_argument("--depth", type=int, default=30, help="documents of each query")
    parser.add_argument("--batch-size", type=int, default=128, help="pairs in a training step")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[16, 32, 64], help="of the bf16 peer's predict")
    parser.add_argument("--tokens", type=int, default=128, help="pairs are cut here")
    parser.add_argument("--parts", nargs="+", choices=["training", "scoring"], default=["training", "scoring"])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    material = Material(options)
    found: dict[str, Any] = {}
    if "training" in options.parts:
        found |= compare_training(material)
    if "scoring" in options.parts:
        found |= compare_scoring(material)
    found |= {
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers", "peft")},
    }
    if options.json:
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")


def compare_training(material: Material) -> dict[str, Any]:
    """Time the training steps of all systems, and print the tables."""
    options = material.options
    print("## training step\n")
    hows = ["default", "autocast sdpa", "autocast eager", "weights sdpa", "weights eager"]
    training = [our_training(material), *(peer_training(material, how) for how in hows)]
    rounds(training, options.rounds, options.warmup)
    ratios = table(training, options.batch_size)
    print(f"\nfirst losses: {', '.join(f'{system.name} {system.results[0]:.4f}' for system in training)}")
    return {"training": ratios}


def compare_scoring(material: Material) -> dict[str, Any]:
    """Time the scoring of all systems, compare what they give, and print the tables."""
    options = material.options
    print("\n## scoring\n")
    with tempfile.TemporaryDirectory() as folder:
        systems = scoring_systems(material, Path(folder))
        rounds(systems, options.rounds, options.warmup)
    ratios = table(systems, len(material.docs))
    differences = {}
    truth = next(system for system in systems if system.name == "default").results[-1]
    print("\n| system | largest score difference from float32 | nDCG@10 difference |\n| --- | --- | --- |")
    for system in systems:
        scores = np.asarray(system.results[-1], dtype=np.float32)
        worst = float(np.abs(scores - truth).max())
        print(f"| {system.name} | {worst:.4f} | {material.ndcg(scores) - material.ndcg(truth):+.4f} |")
        differences[system.name] = worst
    return {"scoring": ratios, "largest_difference": differences}


if __name__ == "__main__":
    main()
