"""Exact search over vectors in memory or on disk: the reference that other indexes are compared with."""

from __future__ import annotations

import numpy as np

from searchtune.retrieval.index import check_dimensions, check_queries, empty_run, excluded
from searchtune.retrieval.streaming import BATCH, search_shards
from searchtune.types import FloatArray, IntArray, Run

_TOGETHER = 4 * BATCH
"""Queries that share one pass over the documents."""


class ExactIndex:
    """All inner products in float32, block by block, on the CPU; equal scores by the greater position at every place.

    The vectors are used where they are: a `np.memmap` is read from disk in passing and never copied as a whole, and
    float16 is widened block by block.
    """

    kind = "exact"
    exact = True
    build_seconds = 0.0

    def __init__(self, vectors: FloatArray) -> None:
        """Shape: vectors (documents, dim), of any float type."""
        if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.floating):
            raise ValueError(f"documents need (documents, dim) floats, not {vectors.dtype} of shape {vectors.shape}")
        self.vectors = vectors
        self.documents = len(vectors)
        self.bytes = int(vectors.nbytes)

    def search(self, queries: IntArray, vectors: FloatArray, depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out; errors as `search_shards`.

        Shape: queries (n,), vectors (n, dim) -> (n, depth), or as many columns as documents are left.
        """
        vectors = check_queries(queries, vectors, depth)
        depth = min(depth, self.documents - len(excluded(exclude, self.documents)))
        check_dimensions(vectors.shape[1], self.vectors.shape[1])
        if not len(queries) or not depth:
            return empty_run(queries)
        parts = [
            search_shards(queries[part], vectors[part], [self.vectors], depth, exclude=exclude)
            for part in (slice(start, start + _TOGETHER) for start in range(0, len(queries), _TOGETHER))
        ]
        if len(parts) == 1:
            return parts[0]
        return Run(
            np.asarray(queries, np.int64),
            np.concatenate([part.docs for part in parts]),
            np.concatenate([part.scores for part in parts]),
        )
