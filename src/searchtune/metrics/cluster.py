"""Intervals and paired tests of figures that pool the pairs of all queries: whole queries are drawn, never pairs.

Pairs of one query stand or fall together, so that drawing pairs would promise more than the sample holds. Every figure
here is a function of sums over queries (a confusion matrix, say): a resample is a weighted sum of the queries' parts,
and the figure is computed on all resamples at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from searchtune.metrics.significance import ROUNDS, SAME, Estimate, bca_interval, chunks, resamples
from searchtune.types import FloatArray64

Statistic = Callable[[FloatArray64], FloatArray64]
"""From sums over queries to a figure, NaN where it is not defined. Shape: (..., *parts of a query) -> (...)."""
ENOUGH = 0.9
"""An interval needs this share of resamples in which the figure is defined."""


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
    n = len(parts)
    total = parts.sum(axis=0)
    points = {name: float(statistic(total)) for name, statistic in statistics.items()}
    if n < 2:
        return {name: Estimate(point if n else np.nan, np.nan, np.nan, n) for name, point in points.items()}
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
            found[name] = Estimate(points[name], np.nan, np.nan, n)
            continue
        left_out = statistic(without)
        influence = np.where(np.isfinite(left_out), np.nanmean(left_out) - left_out, 0.0)
        found[name] = bca_interval(points[name], influence, replicates, level=level)
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
