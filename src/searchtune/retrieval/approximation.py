"""What an approximate index loses against exact search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchtune.types import NO_DOC, Run


def loss_against_exact(approximate: Run, exact: Run, ks: Sequence[int] = (10, 100)) -> dict[int, float]:
    """For each k, the share of the exact top k that is in the approximate top k, mean over queries.

    A query with fewer than k documents counts those it has; one with none, and a run without queries, counts 1.

    Raises:
        ValueError: the runs are over different queries.
    """
    if not np.array_equal(approximate.queries, exact.queries):
        raise ValueError("the two runs are over different queries: search both indexes with the same ones")
    return {k: _kept(approximate, exact, k) for k in ks}


def _kept(approximate: Run, exact: Run, k: int) -> float:
    ours, theirs = approximate.docs[:, :k], exact.docs[:, :k]
    width = 1 + max(int(ours.max(initial=0)), int(theirs.max(initial=0)))
    rows = np.arange(len(theirs))[:, None] * width
    wanted = theirs != NO_DOC
    found = np.isin(rows + theirs, (rows + ours)[ours != NO_DOC]) & wanted
    counts = wanted.sum(axis=1)
    shares = np.where(counts > 0, found.sum(axis=1) / np.maximum(counts, 1), 1.0)
    return float(shares.mean()) if len(shares) else 1.0
