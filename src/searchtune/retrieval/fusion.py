"""Fusing runs into one: reciprocal ranks (Cormack, Clarke and Buettcher 2009) and the Comb family (Fox and Shaw 1994).

No document loses by being found: what a run gives starts at 0 with its last document, and a document that it did not
find gets 0. A query that a run lacks is an empty ranking. Weights are found on labelled queries by `tuning`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.types import NO_DOC, FloatArray64, IntArray, Run

Method = Literal["rrf", "combsum", "combmnz", "combmax"]
"""What becomes of a document's gains: `rrf` and `combsum` add them up (with weights: the weighted sum), `combmnz` also
multiplies by the number of runs that found it, `combmax` takes the greatest."""
Normalisation = Literal["none", "min-max", "z-score", "rank"]
"""What a run's scores for a query become, before they are weighed: themselves, less the lowest where that is below 0;
(s - min) / (max - min); (s - min) / standard deviation; (n - rank + 1) / n for n documents found. Where all scores are
equal, the second and third are 1.

The third is the z-score less that of the list's last document. With CombSUM that ranks as z-scores do (Montague and
Aslam 2001) when a document that a list lacks has the lowest of that list. Were it the mean of 0 instead, a document in
the lower half of two lists would fall below one that only one of them found."""

_ROUNDING = 1e-12
"""A standard deviation of no more than this is rounding."""


def fuse(
    runs: Sequence[Run],
    method: Method = "rrf",
    *,
    weights: Sequence[float] | None = None,
    normalisation: Normalisation = "min-max",
    depth: int = 100,
    k: float = 60,
) -> Run:
    """One run out of several, over all of their queries, from the top `depth` of each, cut to `depth`.

    With `rrf` a run gives a document 1 / (k + rank), and `normalisation` is not looked at; otherwise its normalised
    score. Either is multiplied by the run's weight, 1 by default.

    Shape: runs of (queries, any depth) -> (queries, depth).

    Raises:
        ConfigError: an unknown method or normalisation, weights that do not fit the runs, or k below 0.
        DataError: a score that is NaN or infinite.
        ValueError: no run.
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
        self.queries: IntArray = np.unique(np.concatenate([run.queries for run in runs]))
        tops = [run.over(self.queries).top(depth) for run in runs]
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
        return ranked.top(self.depth)

    def _merge(self, function: np.ufunc, values: FloatArray64) -> FloatArray64:
        """`function` over a document's values, at its first place; 0 at its others. Shape: (queries, candidates)."""
        merged = np.zeros(values.size)
        if len(self._starts):
            merged[self._starts] = function.reduceat(values.ravel(), self._starts)
        return merged.reshape(values.shape)


def _check(runs: Sequence[Run], method: str, normalisation: str, k: float) -> None:
    if not runs:
        raise ValueError("there is no run to fuse")
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
    """Normalised scores from 0 on, 0 where a row has ended. Shape: (queries, depth)."""
    found = run.docs != NO_DOC
    counts = found.sum(axis=1, keepdims=True)
    scores = np.where(found, run.scores, 0.0).astype(np.float64)
    low = np.where(found, scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)
    low = np.where(counts, low, 0.0)
    if how == "rank":
        scores = (counts - np.arange(run.depth)) / np.maximum(counts, 1)
    elif how == "none":
        scores = scores - np.minimum(low, 0.0)
    else:
        spread = np.where(found, scores - low, 0.0).max(axis=1, keepdims=True, initial=0.0)
        flat = ~(spread > 0)
        if how == "z-score":
            mean = scores.sum(axis=1, keepdims=True) / np.maximum(counts, 1)
            squares = np.where(found, scores - mean, 0) ** 2
            spread = np.sqrt(squares.sum(axis=1, keepdims=True) / np.maximum(counts, 1))
            flat |= ~(spread > _ROUNDING)
        scores = np.where(flat, 1.0, (scores - low) / np.where(flat, 1, spread))
    return np.where(found, scores, 0.0)
