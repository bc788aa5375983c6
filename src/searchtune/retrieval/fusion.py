"""Fusing runs: reciprocal rank fusion (Cormack, Clarke and Buettcher 2009)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchtune.types import NO_DOC, IntArray, Run


def reciprocal_rank_fusion(runs: Sequence[Run], depth: int = 100, *, k: int = 60) -> Run:
    """Sum of 1 / (k + rank) over the top `depth` of each run, cut to `depth`. All runs must judge the same queries.

    Shape: runs of (queries, any depth) -> (queries, depth).
    """
    queries = runs[0].queries
    if any(not np.array_equal(run.queries, queries) for run in runs):
        raise ValueError("runs over different queries cannot be fused")
    docs = np.concatenate([run.docs[:, :depth] for run in runs], axis=1)  # (queries, candidates)
    ranks = np.concatenate([np.arange(1, min(depth, run.depth) + 1) for run in runs])
    gains = np.where(docs == NO_DOC, 0.0, 1.0 / (k + ranks))
    order = np.argsort(docs, axis=1, kind="stable")
    docs, gains = np.take_along_axis(docs, order, axis=1), np.take_along_axis(gains, order, axis=1)
    first = np.ones_like(docs, dtype=np.bool_)
    first[:, 1:] = docs[:, 1:] != docs[:, :-1]
    totals = _sum_repeats(gains, first)
    ranked = Run.ranked(queries, np.where(first, docs, NO_DOC), totals)
    return Run(ranked.queries, ranked.docs[:, :depth], ranked.scores[:, :depth])


def _sum_repeats(gains: np.ndarray, first: np.ndarray) -> np.ndarray:
    """At the first place of each group of equal neighbours in a row, the sum of the group; elsewhere anything."""
    flat_first = first.ravel()
    starts: IntArray = np.flatnonzero(flat_first)
    sums = np.zeros(gains.size)
    sums[starts] = np.add.reduceat(gains.ravel(), starts) if len(starts) else 0.0
    return sums.reshape(gains.shape)
