"""What an approximate index loses against exact search, and what it gains."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from searchtune.retrieval.index import VectorIndex
from searchtune.types import NO_DOC, Run


@dataclass(frozen=True)
class IndexReport:
    """An index beside exact search over the same vectors."""

    kind: str
    documents: int
    bytes: int
    build_seconds: float
    ms_per_query: float
    """Time of one search divided by its queries, in milliseconds."""
    kept: dict[int, float]
    """For each k, the mean share of the exact top k that the index has in its own top k."""


def loss_against_exact(approximate: Run, exact: Run, ks: Sequence[int] = (10, 100)) -> dict[int, float]:
    """For each k, the share of the exact top k that is in the approximate top k, mean over queries.

    A query with fewer than k documents counts those it has; one with none, and a run without queries, counts 1.

    Raises:
        ValueError: the runs are over different queries.
    """
    if not np.array_equal(approximate.queries, exact.queries):
        raise ValueError("the two runs are over different queries: search both indexes with the same ones")
    return {k: _kept(approximate, exact, k) for k in ks}


def report_index(index: VectorIndex, run: Run, exact: Run, seconds: float) -> IndexReport:
    """The facts of an index whose search gave `run` in `seconds`, beside the exact run of the same depth."""
    depth = max(run.depth, exact.depth)
    kept = loss_against_exact(run, exact, [k for k in (10, 100) if k <= depth] or [depth])
    ms = 1000 * seconds / max(1, len(run.queries))
    return IndexReport(index.kind, index.documents, index.bytes, index.build_seconds, ms, kept)


def _kept(approximate: Run, exact: Run, k: int) -> float:
    ours, theirs = approximate.docs[:, :k], exact.docs[:, :k]
    width = 1 + max(int(ours.max(initial=0)), int(theirs.max(initial=0)))
    rows = np.arange(len(theirs))[:, None] * width
    wanted = theirs != NO_DOC
    found = np.isin(rows + theirs, (rows + ours)[ours != NO_DOC]) & wanted
    counts = wanted.sum(axis=1)
    shares = np.where(counts > 0, found.sum(axis=1) / np.maximum(counts, 1), 1.0)
    return float(shares.mean()) if len(shares) else 1.0
