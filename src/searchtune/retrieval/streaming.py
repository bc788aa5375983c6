"""Exact inner-product search over a corpus that comes in shards and is never held as a whole.

Shards of any sizes are cut anew into blocks of `BLOCK` documents, so the same documents meet the same matrix products
however they were sharded, and the run is the same to the last bit. Products are padded to multiples of 16 queries and
64 documents: in the odd rows and columns of a product BLAS adds up in another order, equal vectors would get scores
that differ in the last bit, and chance would decide between duplicates.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np

from searchtune.retrieval.index import check_dimensions, check_finite, check_queries, empty_run, excluded
from searchtune.retrieval.topk import TopK
from searchtune.types import NO_DOC, FloatArray, IntArray, Run

BLOCK = 4096
"""Documents in one matrix product."""
BATCH = 1024
"""Queries in one matrix product."""
_GROUP = 64
"""Queries whose best documents one thread selects at a time."""
_SCORES = 2**25
"""Scores that are gathered before the best are sought, save that one block always is: 128 MiB."""
_ROWS, _COLUMNS = 16, 64

Map = Callable[..., list[Any]]


def search_shards(
    queries: IntArray,
    vectors: FloatArray,
    shards: Iterable[FloatArray],
    depth: int,
    *,
    exclude: IntArray | None = None,
) -> Run:
    """The `depth` documents of the greatest inner products with each query; equal ones by the greater position.

    `shards` hold the vectors of consecutive documents, as any floats; each is read once and may be overwritten when the
    next is asked for. Documents in `exclude` are left out. Memory: a block, its scores, and some 28 bytes x depth for
    each query. Selection runs in as many threads as `OMP_NUM_THREADS` says, all processors by default.

    Shape: queries (n,), vectors (n, dim), each shard (any, dim) -> (n, depth), fewer columns where documents run out.

    Raises:
        DataError: another number of dimensions, or a vector with NaN or an infinity.
        ValueError: not one vector for each query, a depth below 0, or a position in `exclude` that no document has.
    """
    vectors = check_queries(queries, vectors, depth)
    gone = excluded(exclude, 2**32)
    if not len(queries) or not depth:
        return empty_run(queries)
    search, documents = _BlockSearch(vectors, depth), 0
    with _threads() as spread:
        for block in _blocks(shards, vectors.shape[1]):
            search.add(block, documents, gone, spread)
            documents += len(block)
        excluded(gone, documents)
        docs, scores = search.ranked(spread)
    left = min(depth, documents - len(gone))
    return Run(np.asarray(queries, np.int64), docs[:, :left], scores[:, :left])


class _BlockSearch:
    """Queries, and the best documents of the blocks they have met.

    Scores of several blocks are gathered before the best are sought: the more documents, the nearer to the last place a
    bound can be set at once, and the fewer scores need more than one comparison.
    """

    def __init__(self, vectors: FloatArray, depth: int) -> None:
        """Shape: vectors (queries, dim)."""
        self._batches = [_padded(vectors[start : start + BATCH], _ROWS) for start in range(0, len(vectors), BATCH)]
        self._best = [TopK(min(_GROUP, len(vectors) - start), depth) for start in range(0, len(vectors), _GROUP)]
        self._rows = sum(map(len, self._batches))
        self._together = max(1, _SCORES // (self._rows * BLOCK))
        self._held: list[tuple[int, FloatArray]] = []
        self._memory: list[FloatArray] = []

    def add(self, block: FloatArray, first: int, gone: IntArray, spread: Map) -> None:
        """Score documents `first`, `first + 1` and so on; keep the best. Shape: block (at most BLOCK, dim)."""
        check_finite(block, "document vector", first)
        hidden = gone[np.searchsorted(gone, first) : np.searchsorted(gone, first + len(block))] - first
        padded = _padded(block, _COLUMNS)
        scores = self._space(len(padded))
        for number, batch in enumerate(self._batches):
            _multiply(batch, padded, scores[number * BATCH :][: len(batch)])
        scores[:, len(block) :] = -np.inf
        scores[:, hidden] = -np.inf
        self._held.append((first, scores))
        if len(self._held) == self._together:
            self._select(spread)

    def _space(self, columns: int) -> FloatArray:
        """Memory for the scores of one more block, used again and again. Shape: (all queries, columns)."""
        if len(self._held) == len(self._memory):
            self._memory.append(np.empty(self._rows * (BLOCK + _COLUMNS), dtype=np.float32))
        return self._memory[len(self._held)][: self._rows * columns].reshape(self._rows, columns)

    def _select(self, spread: Map) -> None:
        """Keep the best of the blocks that are held, and let go of these."""

        def offer(number: int) -> None:
            best = self._best[number]
            best.offer([(first, scores[number * _GROUP :][: best.rows]) for first, scores in self._held])

        spread(offer, range(len(self._best)))
        self._held.clear()

    def ranked(self, spread: Map) -> tuple[IntArray, FloatArray]:
        """Documents and scores, best first. Shape: (queries, depth or fewer)."""
        if self._held:
            self._select(spread)
        parts = spread(TopK.ranked, self._best)
        shape = sum(len(docs) for docs, _ in parts), max(docs.shape[1] for docs, _ in parts)
        all_docs, all_scores = np.full(shape, NO_DOC, np.int64), np.full(shape, -np.inf, np.float32)
        start = 0
        for docs, scores in parts:
            all_docs[start : start + len(docs), : docs.shape[1]] = docs
            all_scores[start : start + len(docs), : docs.shape[1]] = scores
            start += len(docs)
        return all_docs, all_scores


def _blocks(shards: Iterable[FloatArray], dim: int) -> Iterator[FloatArray]:
    """The documents of all shards in float32 arrays of `BLOCK` rows, the last one shorter."""
    held = np.empty((BLOCK, dim), dtype=np.float32)
    count = 0
    for shard in shards:
        check_dimensions(dim, shard.shape[-1])
        start = 0
        while start < len(shard):
            piece = shard[start : start + BLOCK - count]
            start += len(piece)
            if len(piece) == BLOCK:
                yield np.ascontiguousarray(piece, dtype=np.float32)
                continue
            held[count : count + len(piece)] = piece
            count += len(piece)
            if count == BLOCK:
                yield held
                count = 0
    if count:
        yield held[:count]


def _multiply(queries: FloatArray, documents: FloatArray, out: FloatArray) -> None:
    """All inner products in float32, into `out`. Shape: (q, dim), (d, dim), out (q, d), all contiguous.

    By torch, whose products take four fifths of the time of numpy's where MKL is behind them.
    """
    import torch

    torch.mm(torch.from_numpy(queries), torch.from_numpy(documents).T, out=torch.from_numpy(out))


def _padded(rows: FloatArray, multiple: int) -> FloatArray:
    """The rows, with rows of zeros after them up to a multiple; a copy where they are read-only, as torch takes none.

    Shape: (n, dim) -> (n or more, dim), contiguous.
    """
    missing = -len(rows) % multiple
    if missing:
        return np.concatenate([rows, np.zeros((missing, rows.shape[1]), np.float32)])
    return np.require(rows, np.float32, ["C", "W"])


@contextmanager
def _threads() -> Iterator[Map]:
    """`map` into a list, over threads where there is more than one processor to use."""
    allowed = os.environ.get("OMP_NUM_THREADS", "")
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    count = max(1, min(processors, int(allowed) if allowed.isdigit() else processors))
    if count == 1:
        yield lambda function, *arguments: list(map(function, *arguments))
        return
    with ThreadPoolExecutor(count) as pool:
        yield lambda function, *arguments: list(pool.map(function, *arguments))
