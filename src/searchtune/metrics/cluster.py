"""Intervals and paired tests of figures that pool the pairs of all queries: whole queries are drawn, never pairs.

Pairs of one query stand or fall together, so that drawing pairs would promise more than the sample holds. Every figure
here is a function of sums over queries (a confusion matrix, say): a resample is a weighted sum of the queries' parts,
and the figure is computed on all resamples at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from searchtune.metrics.significance import ALPHA, ROUNDS, SAME, Estimate, bca_interval, chunks, resamples
from searchtune.types import FloatArray64

Statistic = Callable[[FloatArray64], FloatArray64]
"""From sums over queries to a figure, NaN where it is not defined. Shape: (..., *parts of a query) -> (...)."""
ENOUGH = 0.9
"""An interval needs this share of resamples in which the figure is defined."""


class Replicates(NamedTuple):
    """A figure with what it becomes when whole queries are resampled."""

    point: float
    n: int
    influence: FloatArray64
    """Shape: (queries,); empty where there is no interval."""
    drawn: FloatArray64
    """The figure on each resample in which it is defined."""

    def interval(self, alpha: float = ALPHA) -> Estimate:
        """The BCa interval of confidence 1 - alpha; NaN where there is none."""
        if not len(self.influence):
            return Estimate(self.point, np.nan, np.nan, self.n)
        return bca_interval(self.point, self.influence, self.drawn, level=1 - alpha)


class Exchange(NamedTuple):
    """A difference that is no mean over queries: what resampling makes of it, and the p-value of its test.

    These are two methods, which may disagree. The interval then gives way: it is stretched to 0 where the test does not
    reject, so that it leaves out 0 only where both say that there is a difference.
    """

    replicates: Replicates
    p_value: float

    def interval(self, alpha: float = ALPHA) -> Estimate:
        """The BCa interval of confidence 1 - alpha, stretched to 0 where the p-value is not below alpha."""
        found = self.replicates.interval(alpha)
        if self.p_value < alpha or math.isnan(found.low):
            return found
        return found._replace(low=min(found.low, 0.0), high=max(found.high, 0.0))

    @property
    def estimate(self) -> Estimate:
        return self.interval()


def cluster_bootstrap(
    parts: FloatArray64,
    statistics: Mapping[str, Statistic],
    *,
    seed: int,
    level: float = 0.95,
    rounds: int = ROUNDS,
) -> dict[str, Estimate]:
    """Each statistic of the sum over queries, with its BCa interval over resampled queries; all see the same resamples.

    Bias-corrected and accelerated (Efron 1987, JASA 82:397), the acceleration from leaving out one query at a time.
    A figure that is not defined on all queries, or in more than a tenth of the resamples, has no interval: NaN. So has
    any figure of a single query. Resamples in which it is not defined are left out.

    Shape: parts (queries, ...).
    """
    found = cluster_replicates(parts, statistics, seed=seed, rounds=rounds)
    return {name: it.interval(1 - level) for name, it in found.items()}


def cluster_replicates(
    parts: FloatArray64, statistics: Mapping[str, Statistic], *, seed: int, rounds: int = ROUNDS
) -> dict[str, Replicates]:
    """What `cluster_bootstrap` makes its intervals of. Shape: parts (queries, ...)."""
    n, none = len(parts), np.empty(0)
    total = parts.sum(axis=0)
    points = {name: float(statistic(total)) for name, statistic in statistics.items()}
    if n < 2:
        return {name: Replicates(point if n else np.nan, n, none, none) for name, point in points.items()}
    flat = parts.reshape(n, -1)
    drawn: dict[str, list[FloatArray64]] = {name: [] for name in statistics}
    for weights in resamples(n, seed, rounds):
        sums = (weights @ flat).reshape(len(weights), *parts.shape[1:])
        for name, statistic in statistics.items():
            drawn[name].append(statistic(sums))
    without = total - parts  # (queries, ...): the sum without each query
    found = {}
    for name, statistic in statistics.items():
        replicates = np.concatenate(drawn[name])
        replicates = replicates[np.isfinite(replicates)]
        if np.isnan(points[name]) or len(replicates) < ENOUGH * rounds:
            found[name] = Replicates(points[name], n, none, none)
            continue
        left_out = statistic(without)
        influence = np.where(np.isfinite(left_out), np.nanmean(left_out) - left_out, 0.0)
        found[name] = Replicates(points[name], n, influence, replicates)
    return found


def paired_swap(a: FloatArray64, b: FloatArray64, statistic: Statistic, *, seed: int, rounds: int = ROUNDS) -> float:
    """Two-sided p-value of statistic(b) - statistic(a) under random exchange of a and b, query by query.

    The paired randomisation test (Smucker et al. 2007, CIKM) for figures that are no means over queries. The observed
    labelling counts as one more draw, so that p is never 0. NaN where there is no query or the difference is not
    defined; draws in which it is not defined are left out. Shape: a and b (queries, ...), alike.
    """
    n = len(a)
    if not n:
        return float("nan")
    observed = abs(float(statistic(b.sum(axis=0)) - statistic(a.sum(axis=0))))
    if np.isnan(observed):
        return float("nan")
    total, flat = (a + b).sum(axis=0), (b - a).reshape(n, -1)
    rng = np.random.default_rng(seed)
    extreme = defined = 0
    for size in chunks(rounds, n):
        swapped = rng.integers(0, 2, size=(size, n)).astype(np.float64)
        first = a.sum(axis=0) + (swapped @ flat).reshape(size, *a.shape[1:])
        differences = statistic(total - first) - statistic(first)
        defined += int(np.isfinite(differences).sum())
        extreme += int((np.abs(differences) >= observed - SAME).sum())
    return (1 + extreme) / (1 + defined)


def by_query(rows: FloatArray64, queries: np.ndarray) -> FloatArray64:
    """Rows summed within each query, queries in ascending order. Shape: (pairs, ...) -> (queries, ...)."""
    distinct, place = np.unique(queries, return_inverse=True)
    sums = np.zeros((len(distinct), *rows.shape[1:]))
    np.add.at(sums, place, rows)
    return sums
