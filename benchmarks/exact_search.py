"""Claim: exact search takes a fraction of the time of BEIR's, keeps up with FAISS, and needs no corpus in memory.

Random unit vectors, given to all; every system ranks the same queries to the same depth with inner products in float32.
Peers: BEIR's `DenseRetrievalExactSearch`, its model replaced by one that hands out the vectors, and FAISS's
`IndexFlatIP`, filled beforehand. Every round gives each system one search in turn, so that a busy machine slows all of
them, and a ratio is taken within a round. Before timing, the scores at every place must agree.

`--memory` writes a corpus to a temporary folder instead, searches it mapped from disk, and reports the greatest private
memory of the process (RssAnon of /proc/self/status, watched by a thread; Linux) over what it had before the search. The
run must be that of the same vectors in memory, to the bit.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import faiss
import numpy as np

from searchtune.retrieval.exact import ExactIndex
from searchtune.types import FloatArray, Run

OURS = "searchtune"
CHUNK = 50_000


def unit(rows: int, dim: int, seed: int) -> FloatArray:
    """Random directions. Shape: (rows, dim)."""
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def beir_search(documents: FloatArray, queries: FloatArray, depth: int) -> Callable[[], Any]:
    """BEIR's own search, vectors given. Its documents carry their position as text, all of one length."""
    import torch
    from beir.retrieval.search.dense.exact_search import DenseRetrievalExactSearch

    class Given:
        def encode_queries(self, texts: list[str], **_: Any) -> torch.Tensor:
            return torch.from_numpy(queries)

        def encode_corpus(self, corpus: list[dict[str, str]], **_: Any) -> torch.Tensor:
            first = int(corpus[0]["text"])
            return torch.from_numpy(documents[first : first + len(corpus)])

    corpus = {f"{i:09d}": {"title": "", "text": f"{i:09d}"} for i in range(len(documents))}
    asked = {f"q{i}": "" for i in range(len(queries))}
    return lambda: DenseRetrievalExactSearch(Given()).search(corpus, asked, depth, "dot")


def systems(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """A search to call, for each system."""
    documents, queries = unit(options.documents, options.dim, 0), unit(options.queries, options.dim, 1)
    numbers, exact = np.arange(options.queries), ExactIndex(documents)
    flat = faiss.IndexFlatIP(options.dim)
    flat.add(documents)
    found = {
        OURS: lambda: exact.search(numbers, queries, options.depth),
        "faiss IndexFlatIP": lambda: flat.search(queries, options.depth),
        "BEIR": beir_search(documents, queries, options.depth),
    }
    run: Run = found[OURS]()
    scores = found["faiss IndexFlatIP"]()[0]
    if not np.allclose(run.scores, scores, atol=1e-5):
        raise SystemExit("searchtune and FAISS rank differently: nothing to compare")
    theirs = found["BEIR"]()
    lists = np.array([sorted(theirs[f"q{i}"].values(), reverse=True) for i in range(options.queries)])
    if not np.allclose(run.scores, lists, atol=1e-5):
        raise SystemExit("searchtune and BEIR rank differently: nothing to compare")
    return found


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """Rounds of all systems; prints both tables."""
    found = systems(options)
    clock = time.process_time if options.cpu_time else time.perf_counter
    seconds: dict[str, list[float]] = {name: [] for name in found}
    for number in range(options.rounds):
        for name, search in found.items():
            start = clock()
            search()
            seconds[name].append(clock() - start)
        taken = ", ".join(f"{name} {each[-1]:.3f}" for name, each in seconds.items())
        print(f"round {number + 1} of {options.rounds}: {taken} s", flush=True)
    what = "processor seconds" if options.cpu_time else "seconds"
    print(f"\n| system | {what}, median | min..max |\n| --- | --- | --- |")
    for name, each in seconds.items():
        print(f"| {name} | {statistics.median(each):.3f} | {min(each):.3f}..{max(each):.3f} |")
    print("\n| searchtune is faster than | times, median of rounds | min..max |\n| --- | --- | --- |")
    ratios = {
        name: [theirs / ours for theirs, ours in zip(each, seconds[OURS], strict=True)]
        for name, each in seconds.items()
        if name != OURS
    }
    for name, ratio in ratios.items():
        print(f"| {name} | {statistics.median(ratio):.2f} | {min(ratio):.2f}..{max(ratio):.2f} |")
    return {"claim": "exact search", "clock": what, "seconds": seconds, "ratios": ratios}


class PrivateMemory:
    """Watches the private memory of this process; `peak` is its greatest value in bytes."""

    def __init__(self) -> None:
        self.peak = self.now()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    @staticmethod
    def now() -> int:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("RssAnon:"))

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self.peak = max(self.peak, self.now())

    def __enter__(self) -> PrivateMemory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self.peak = max(self.peak, self.now())


def memory(options: argparse.Namespace) -> dict[str, Any]:
    """A corpus on disk: private memory while it is searched, and whether the run is that of memory."""
    queries, numbers = unit(options.queries, options.dim, 1), np.arange(options.queries)
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        file = Path(folder) / "vectors.npy"
        shape = (options.documents, options.dim)
        written = np.lib.format.open_memmap(file, mode="w+", dtype=np.float32, shape=shape)
        for start in range(0, len(written), CHUNK):
            part = written[start : start + CHUNK]
            part[:] = unit(len(part), options.dim, start + 2)
        written.flush()
        del written
        before = PrivateMemory.now()
        with PrivateMemory() as watch:
            mapped = ExactIndex(np.load(file, mmap_mode="r")).search(numbers, queries, options.depth)
        in_memory = ExactIndex(np.load(file)).search(numbers, queries, options.depth)
    same = mapped.docs.tobytes() == in_memory.docs.tobytes() and mapped.scores.tobytes() == in_memory.scores.tobytes()
    size = options.documents * options.dim * 4
    print("| corpus on disk | private memory at most | of it before the search | same run as in memory |")
    print(f"| --- | --- | --- | --- |\n| {_mb(size)} | {_mb(watch.peak)} | {_mb(before)} | {'yes' if same else 'NO'} |")
    if not same:
        raise SystemExit("the run from disk is not the run from memory")
    return {"claim": "exact search from disk", "corpus": size, "peak": watch.peak, "before": before, "same": same}


def _mb(size: int) -> str:
    return f"{size / 2**20:,.0f} MiB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, help="default 57000, with --memory 1000000")
    parser.add_argument("--queries", type=int, default=648)
    parser.add_argument("--dim", type=int, default=384)
    parser.add_argument("--depth", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--memory", action="store_true", help="measure private memory with the corpus on disk")
    parser.add_argument("--cpu-time", action="store_true", help="count processor time of all threads, not the clock")
    parser.add_argument("--folder", type=Path, help="where --memory writes its corpus (default: the system's choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    options.documents = options.documents or (1_000_000 if options.memory else 57_000)
    result = memory(options) if options.memory else speed(options)
    result |= {
        **{name: getattr(options, name) for name in ("documents", "queries", "dim", "depth")},
        "threads": os.environ.get("OMP_NUM_THREADS", "all"),
        "machine": platform.machine(),
        "versions": {name: version(name) for name in ("numpy", "faiss-cpu", "beir", "torch")},
    }
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
