"""Claim: on a CPU, searchtune encodes a collection in a fraction of the time sentence-transformers takes.

The same MiniLM, texts, length and threads; from texts to vectors, tokenising included. Every round gives all texts to
every system in turn, so that a busy machine slows all of them, and a ratio is taken within a round. Peers, all
`SentenceTransformer.encode`:

    default             as it comes: float32, batches of 32
    TYPE, batch N       weights in our encoder's type, batches of N, texts sorted by length as it does by itself

The best peer is the one with the highest median of this very run, so chance favours it. Quality is told beside speed:
the least and the mean cosine with the default's vectors, and nDCG@10 on the test queries over the documents encoded.

The share of the peak is work done over work possible. Done: the multiplications and additions of the linear layers and
of attention, counted from the weights' shapes for the tokens of each text, so that padding is no work. Possible: matrix
products alone, in the type that our encoder computes in here (`precision: auto`), measured in every round of the same
run: squares of several sizes, and each of the model's own linear layers on 4,096 tokens. Each is repeated for a fifth
of a second. `sustained` is the highest rate over such a fifth, of any shape and round; `burst` is that of the fastest
single product, which a processor may not keep up.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from peer import BASE
from sentence_transformers import SentenceTransformer
from torch import nn

from searchtune.data.tasks import load_task, open_collection
from searchtune.metrics.ranking import score
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.inputs import tokenise
from searchtune.models.precision import compute_dtype
from searchtune.models.sources import resolve_model
from searchtune.models.stack import layer_stack
from searchtune.retrieval.dense import DenseIndex
from searchtune.types import Collection, FloatArray, IntArray, Qrels

OURS = "searchtune"
DEFAULT = "default"
COSINE = 0.999


@dataclass
class System:
    """Something that encodes."""

    name: str
    encode: Callable[[list[str]], FloatArray]
    seconds: list[float] = field(default_factory=list)
    vectors: FloatArray = field(default_factory=lambda: np.zeros((0, 0), dtype=np.float32))

    def run(self, texts: list[str]) -> None:
        start = time.perf_counter()
        self.vectors = self.encode(texts)
        self.seconds.append(time.perf_counter() - start)


class Bench:
    """The texts, and the systems that encode them."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.collection, self.labels, kept = part_of(open_collection(load_task(options.task)), options.texts)
        self.texts = [self.collection.documents[int(document)] for document in kept]
        self.encoder = load_encoder(
            resolve_model(BASE), dtype=compute_dtype("auto", torch.device("cpu")), device=torch.device("cpu")
        )
        self.systems = [System(OURS, self._ours), *self._peers()]
        self.model_seconds: list[float] = []
        self.peaks: dict[str, list[tuple[float, float]]] = {}

    def _ours(self, texts: list[str]) -> FloatArray:
        return self.encoder.encode(texts, max_tokens=self.options.tokens)

    def _peers(self) -> list[System]:
        found = [System(DEFAULT, peer(torch.float32, 32, self.options.tokens))]
        kind = self.encoder.dtype
        for size in self.options.batch_sizes:
            found.append(System(f"{str(kind)[6:]}, batch {size}", peer(kind, size, self.options.tokens)))
        return found

    def run(self) -> None:
        """All rounds, warm-up included; the model alone and the peak are timed in each round too."""
        store = tokenise(self.encoder.tokenizer, self.texts, self.options.tokens)
        self.work = encoding_flops(self.encoder, store.lengths)
        rounds = self.options.warmup + self.options.rounds
        for number in range(rounds):
            for system in self.systems:
                system.run(self.texts)
            start = time.perf_counter()
            self.encoder.encode_store(store)
            self.model_seconds.append(time.perf_counter() - start)
            for shape, rates in matrix_rates(self.encoder).items():
                self.peaks.setdefault(shape, []).append(rates)
            taken = ", ".join(f"{system.name} {system.seconds[-1]:.2f}" for system in self.systems)
            print(f"round {number + 1} of {rounds}: {taken} s", flush=True)
        for times in (*(system.seconds for system in self.systems), self.model_seconds, *self.peaks.values()):
            del times[: self.options.warmup]

    def ndcg(self, system: System) -> float:
        """nDCG@10 of the test queries, which this system encodes too, over the encoded documents; NaN without any."""
        if not len(self.labels):
            return float("nan")
        queries = system.encode([self.collection.query_texts[int(query)] for query in self.labels.queries])
        run = DenseIndex(system.vectors).search(self.labels.queries, queries, 10)
        return float(score(run, self.labels, ("ndcg@10",), min_grade=self.collection.min_grade)["ndcg@10"].mean())


def part_of(collection: Collection, most: int | None) -> tuple[Collection, Qrels, IntArray]:
    """Some documents, evenly spread, and the test labels among them, renumbered to their positions."""
    count = len(collection.doc_ids)
    kept = np.unique(np.linspace(0, count - 1, num=min(most or count, count), dtype=np.int64))
    labels = collection.split("test")
    here = np.isin(labels.docs, kept)
    places = np.searchsorted(kept, labels.docs[here])
    return collection, Qrels.from_triples(labels.label_queries[here], places, labels.grades[here]), kept


def peer(dtype: torch.dtype, batch_size: int, tokens: int) -> Callable[[list[str]], FloatArray]:
    """`SentenceTransformer.encode` at one precision and batch size."""
    model = SentenceTransformer(
        str(resolve_model(BASE)), device="cpu", local_files_only=True, model_kwargs={"dtype": dtype}
    )
    model.max_seq_length = tokens

    def encode(texts: list[str]) -> FloatArray:
        found = model.encode(texts, batch_size=batch_size, show_progress_bar=False, convert_to_tensor=True)
        return np.asarray(found.float().cpu().numpy(), dtype=np.float32)

    return encode


def encoding_flops(encoder: Encoder, lengths: IntArray) -> float:
    """Multiplications and additions to encode texts of these lengths, padding, norms and activations not counted.

    A linear layer takes 2 x in x out a token. Attention takes, for each pair of tokens of a text, 2 x dim for the
    score and 2 x dim for the weighted sum, in every layer.
    """
    _, layers = layer_stack(encoder.backbone)
    linear = sum(2 * module.weight.numel() for module in layers.modules() if isinstance(module, nn.Linear))
    pairs = float((lengths.astype(np.float64) ** 2).sum())
    return linear * float(lengths.sum()) + 4 * encoder.dim * len(layers) * pairs


def matrix_rates(encoder: Encoder, seconds: float = 0.2) -> dict[str, tuple[float, float]]:
    """Multiplications and additions a second of products in the encoder's type, by shape.

    Over `seconds` of them, and in the fastest.
    """
    _, layers = layer_stack(encoder.backbone)
    own = {tuple(module.weight.shape) for module in layers.modules() if isinstance(module, nn.Linear)}
    width = encoder.dim
    shapes = [(size, size, size) for size in (512, 1024, 2048, 4096)]
    shapes += [(4096, inner, outer) for outer, inner in sorted(own | {(3 * width, width)})]
    found = {}
    for rows, inner, outer in shapes:
        left, right = torch.randn(rows, inner).to(encoder.dtype), torch.randn(outer, inner).to(encoder.dtype).T
        out = torch.empty(rows, outer, dtype=encoder.dtype)
        torch.mm(left, right, out=out)
        times = []
        while sum(times) < seconds:
            start = time.perf_counter()
            torch.mm(left, right, out=out)
            times.append(time.perf_counter() - start)
        work = 2 * rows * inner * outer
        found[f"{rows} x {inner} x {outer}"] = work * len(times) / sum(times), work / min(times)
    return found


def cosines(a: FloatArray, b: FloatArray) -> FloatArray:
    """Cosine of each row with its partner. Shape: (texts, dim) twice -> (texts,)."""
    lengths = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    return np.asarray((a * b).sum(axis=1) / np.maximum(lengths, 1e-12), dtype=np.float32)


def spread(values: Sequence[float], digits: int = 2) -> str:
    return f"{statistics.median(values):.{digits}f} | {min(values):.{digits}f}..{max(values):.{digits}f}"


def report(bench: Bench) -> dict[str, object]:
    """Print the tables and return what they say."""
    systems = {system.name: system for system in bench.systems}
    ours, default = systems[OURS], systems[DEFAULT]
    quality = {}
    print("\n| system | texts/s, median | min..max | least cosine | mean cosine | nDCG@10 | difference |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    reference = bench.ndcg(default)
    for name, system in systems.items():
        near, found = cosines(system.vectors, default.vectors), bench.ndcg(system)
        quality[name] = {"cosine_min": float(near.min()), "cosine_mean": float(near.mean()), "ndcg@10": found}
        rates = spread([len(bench.texts) / seconds for seconds in system.seconds], 1)
        print(f"| {name} | {rates} | {near.min():.5f} | {near.mean():.5f} | {found:.4f} | {found - reference:+.4f} |")
    others = [system for name, system in systems.items() if name not in (OURS, DEFAULT)]
    best = min(others, key=lambda system: statistics.median(system.seconds)) if others else default
    ratios = {peer.name: [b / a for a, b in zip(ours.seconds, peer.seconds, strict=True)] for peer in (default, best)}
    print("\n| searchtune over sentence-transformers' | times, median of rounds | min..max |\n| --- | --- | --- |")
    for name, each in ratios.items():
        print(f"| {name} | {spread(each)} |")
    shares = shares_of_peak(bench, ours)
    near_enough = quality[OURS]["cosine_min"] >= COSINE
    print(f"\nleast cosine {'at least' if near_enough else 'BELOW'} {COSINE}")
    return {
        "claim": "encoding speed",
        "seconds": {name: system.seconds for name, system in systems.items()},
        "model_seconds": bench.model_seconds,
        "ratios": ratios,
        "quality": quality,
        "near_enough": near_enough,
        "work_flops": bench.work,
        "matrix_flops": bench.peaks,
        "shares_of_peak": shares,
        "texts": len(bench.texts),
        "queries": len(bench.labels),
        "tokens": bench.options.tokens,
        "dtype": str(bench.encoder.dtype),
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("torch", "transformers", "sentence-transformers")},
    }


def shares_of_peak(bench: Bench, ours: System) -> dict[str, list[float]]:
    """Print and return the share of each kind of peak, with tokenising and without."""
    shares = {}
    print(f"\n{bench.work / 1e9:,.0f} GFLOP of work\n")
    kind = str(bench.encoder.dtype).removeprefix("torch.")
    print(f"| share of the {kind} matrix peak | GFLOP/s | of products | texts to vectors, median | tokens to vectors |")
    print("| --- | --- | --- | --- | --- |")
    for place, which in enumerate(("sustained", "burst")):
        peak, shape = max((rates[place], shape) for shape, rounds in bench.peaks.items() for rates in rounds)
        for name, seconds in (("texts to vectors", ours.seconds), ("tokens to vectors", bench.model_seconds)):
            shares[f"{which}, {name}"] = [bench.work / each / peak for each in seconds]
        cells = " | ".join(spread(each).replace(" | ", ", ") for name, each in shares.items() if name.startswith(which))
        print(f"| {which} | {peak / 1e9:,.0f} | {shape} | {cells} |")
    return shares


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", default="pystdlib", help="a task name or BEIR folder with a test split")
    parser.add_argument("--texts", type=int, help="documents to encode, evenly spread (default: all)")
    parser.add_argument("--tokens", type=int, default=256, help="texts are cut here")
    parser.add_argument("--rounds", type=int, default=5, help="rounds that count")
    parser.add_argument("--warmup", type=int, default=1, help="rounds before them that do not")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--batch-sizes", type=int, nargs="*", default=[16, 32, 64, 128], help="of the peer in our type")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    bench = Bench(options)
    bench.run()
    result = report(bench)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
