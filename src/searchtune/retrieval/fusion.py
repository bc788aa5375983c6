"""Fusing runs into one: reciprocal ranks (Cormack, Clarke and Buettcher 2009) and the Comb family (Fox and Shaw 1994).

A document that a run did not find gets nothing from it. Weights for a fusion are found on labelled queries by `tuning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.types import NO_DOC, FloatArray64, IntArray, Run

Method = Literal["rrf", "combsum", "combmnz", "combmax"]
"""What becomes of a document's gains: `rrf` and `combsum` add them up (with weights: the weighted sum), `combmnz` also
multiplies by the number of runs that found it, `combmax` takes the greatest."""
Normalisation = Literal["none", "min-max", "z-score", "rank"]
"""What a run's scores for a query become, before they are weighed: themselves; (s - min) / (max - min), 1 where all are
equal; (s - mean) / standard deviation, 0 where all are equal; (n - rank + 1) / n for n documents found."""


def fuse(
    runs: Sequence[Run],
    method: Method = "rrf",
    *,
    weights: Sequence[float] | None = None,
    normalisation: Normalisation = "min-max",
    depth: int = 100,
    k: float = 60,
) -> Run:
    """One run out of several over the same queries, from the top `depth` of each, cut to `depth`.

    With `rrf` a run gives a document 1 / (k + rank), and `normalisation` is not looked at; otherwise its normalised
    score. Either is multiplied by the run's weight, 1 by default.

    Shape: runs of (queries, any depth) -> (queries, depth).

    Raises:
        ConfigError: an unknown method or normalisation, weights that do not fit the runs, or k below 0.
        DataError: a score that is NaN or infinite.
        ValueError: no run, or runs over different queries.
    """
    return Candidates(runs, method, normalisation=normalisation, depth=depth, k=k).fuse(weights)


class Candidates:
    """All documents that the runs found for each query, with each run's gain, laid out so that equal ones adjoin.

    Made once and fused with many weights.
    """

    def __init__(
        self,
        runs: Sequence[Run],
        method: Method,
        *,
        normalisation: Normalisation = "min-max",
        depth: int = 100,
        k: float = 60,
    ) -> None:
        """See `fuse`."""
        _check(runs, method, normalisation, k)
        self.method, self.depth, self.runs = method, depth, len(runs)
        self.queries = runs[0].queries
        tops = [Run(run.queries, run.docs[:, :depth], run.scores[:, :depth]) for run in runs]
        docs = np.concatenate([top.docs for top in tops], axis=1)  # (queries, candidates)
        gains = [_reciprocal(top, k) if method == "rrf" else _normal(top, normalisation) for top in tops]
        source = np.repeat(np.arange(len(tops)), [top.depth for top in tops])
        order = np.argsort(docs, axis=1, kind="stable")
        self._docs = np.take_along_axis(docs, order, axis=1)
        self._gains = np.take_along_axis(np.concatenate(gains, axis=1), order, axis=1)
        self._source = source[order]
        first = np.ones_like(docs, dtype=np.bool_)
        first[:, 1:] = self._docs[:, 1:] != self._docs[:, :-1]
        self._first = first
        self._starts: IntArray = np.flatnonzero(first)

    def fuse(self, weights: Sequence[float] | None = None) -> Run:
        """The run for these weights, one for each run that was fused. Shape: (queries, depth)."""
        gains = self._gains * _weights(weights, self.runs)[self._source]
        totals = self._merge(np.maximum if self.method == "combmax" else np.add, gains)
        if self.method == "combmnz":
            totals *= self._merge(np.add, np.ones_like(gains))
        ranked = Run.ranked(self.queries, np.where(self._first, self._docs, NO_DOC), totals.astype(np.float32))
        return Run(ranked.queries, ranked.docs[:, : self.depth], ranked.scores[:, : self.depth])

    def _merge(self, function: np.ufunc, values: FloatArray64) -> FloatArray64:
        """`function` over a document's values, at its first place; 0 at its others. Shape: (queries, candidates)."""
        merged = np.zeros(values.size)
        if len(self._starts):
            merged[self._starts] = function.reduceat(values.ravel(), self._starts)
        return merged.reshape(values.shape)


def _check(runs: Sequence[Run], method: str, normalisation: str, k: float) -> None:
    if not runs:
        raise ValueError("there is no run to fuse")
    if any(not np.array_equal(run.queries, runs[0].queries) for run in runs):
        raise ValueError("runs over different queries cannot be fused")
    if method not in get_args(Method):
        raise ConfigError(f"unknown fusion {method!r}{did_you_mean(method, get_args(Method))}")
    if normalisation not in get_args(Normalisation):
        hint = did_you_mean(normalisation, get_args(Normalisation))
        raise ConfigError(f"unknown normalisation {normalisation!r}{hint}")
    if not 0 <= k < np.inf:
        raise ConfigError(f"k {k}: reciprocal rank fusion needs a number from 0 on; 60 is usual")
    for number, run in enumerate(runs):
        broken = np.argwhere((run.docs != NO_DOC) & ~np.isfinite(run.scores))
        if len(broken):
            row, column = broken[0].tolist()
            raise DataError(
                f"run {number} scores document {run.docs[row, column]} {run.scores[row, column]} for query "
                f"{run.queries[row]}: such scores cannot be fused; look for NaN in the vectors behind it"
            )


def _weights(weights: Sequence[float] | None, runs: int) -> FloatArray64:
    """One weight a run. Shape: (runs,)."""
    values = np.ones(runs) if weights is None else np.array(weights, dtype=np.float64)
    if values.shape != (runs,) or not np.isfinite(values).all() or (values < 0).any() or not values.any():
        raise ConfigError(f"weights {weights}: {runs} runs need as many numbers from 0 on, not all of them 0")
    return values


def _reciprocal(run: Run, k: float) -> FloatArray64:
    """1 / (k + rank), 0 where a row has ended. Shape: (queries, depth)."""
    return np.where(run.docs == NO_DOC, 0.0, 1.0 / (k + np.arange(1, run.depth + 1)))


def _normal(run: Run, how: Normalisation) -> FloatArray64:
    """Normalised scores, 0 where a row has ended. Shape: (queries, depth)."""
    found = run.docs != NO_DOC
    counts = found.sum(axis=1, keepdims=True)
    scores = np.where(found, run.scores, 0.0).astype(np.float64)
    if how == "rank":
        scores = (counts - np.arange(run.depth)) / np.maximum(counts, 1)
    elif how == "min-max":
        low = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
        spread = np.where(found, scores, -np.inf).max(axis=1, keepdims=True, initial=-np.inf) - low
        flat = ~(spread > 0)
        scores = np.where(flat, 1.0, (scores - np.where(flat, 0, low)) / np.where(flat, 1, spread))
    elif how == "z-score":
        mean = scores.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
        deviation = np.sqrt((np.where(found, scores - mean, 0) ** 2).sum(axis=1, keepdims=True) / np.maximum(counts, 1))
        scores = _over(scores - mean, deviation)
    return np.where(found, scores, 0.0)


def _over(values: FloatArray64, spread: FloatArray64) -> npt.NDArray[np.float64]:
    """`values / spread`, 0 where the spread is no more than rounding. Shape: (queries, depth), (queries, 1)."""
    real = spread > 1e-12
    return np.where(real, values / np.where(real, spread, 1), 0.0)
