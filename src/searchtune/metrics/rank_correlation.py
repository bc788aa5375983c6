"""Whether two ways of measuring put systems into the same order: Kendall's tau and AP correlation, with intervals.

Scores are means over queries, one for each system, higher is better. The functions take any number of rows of systems
at once and give NaN where an order does not exist: fewer than two systems, or all equal.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from searchtune.metrics.cluster import cluster_bootstrap
from searchtune.metrics.significance import Estimate
from searchtune.types import FloatArray64

ROUNDS = 2_000
"""Resamples of the queries."""


class RankCorrelation(NamedTuple):
    """Two correlations of one pair of rankings, with intervals over resampled queries."""

    tau: Estimate
    tau_ap: Estimate


def tau_b(x: FloatArray64, y: FloatArray64) -> FloatArray64:
    """Kendall's tau-b: concordant minus discordant pairs of systems, corrected for ties (Kendall 1945, Biometrika 33).

    Shape: (..., systems) each -> (...).
    """
    agree, apart_x, apart_y = (np.zeros(x.shape[:-1]) for _ in range(3))
    for i in range(1, x.shape[-1]):
        one, two = np.sign(x[..., :i] - x[..., i : i + 1]), np.sign(y[..., :i] - y[..., i : i + 1])
        agree += (one * two).sum(-1)
        apart_x += np.abs(one).sum(-1)
        apart_y += np.abs(two).sum(-1)
    below = np.sqrt(apart_x * apart_y)
    found: FloatArray64 = np.divide(agree, below, out=np.full(below.shape, np.nan), where=below > 0)
    return found


def tau_ap(truth: FloatArray64, other: FloatArray64) -> FloatArray64:
    """AP correlation of the ranking `other` with `truth` (Yilmaz, Aslam and Robertson 2008, SIGIR).

    2 / (n - 1) x sum over ranks i > 1 of the share of systems above rank i that belong above it, minus 1: a swap at the
    top costs more than one at the bottom. It is not symmetric. Systems that `truth` ties count half; those that `other`
    ties give the mean of their best and their worst order. NaN below two systems and where `truth` ties all.

    Shape: (..., systems) each -> (...).
    """
    n = truth.shape[-1]
    if n < 2:
        return np.full(truth.shape[:-1], np.nan)
    found = np.zeros(truth.shape[:-1])
    for sign in (-1.0, 1.0):
        ordered = np.take_along_axis(truth, np.lexsort((sign * truth, -other), axis=-1), axis=-1)
        for i in range(1, n):
            right = np.sign(ordered[..., :i] - ordered[..., i : i + 1])
            found += (0.5 + 0.5 * right).mean(-1)
    found = found / (n - 1) - 1  # the mean over both orders of ties, times 2, minus 1
    return np.where(np.ptp(truth, axis=-1) > 0, found, np.nan)


def rank_correlation(
    truth: FloatArray64, other: FloatArray64, *, seed: int = 0, rounds: int = ROUNDS
) -> RankCorrelation:
    """Both correlations of the systems' means, with intervals that draw whole queries.

    Shape: (queries, systems) each, one metric value for each query and system, NaN nowhere.

    Raises:
        ValueError: arrays that are not parallel, or that hold NaN.
    """
    if truth.shape != other.shape or truth.ndim != 2:
        raise ValueError(f"scores of shapes {truth.shape} and {other.shape}: expected (queries, systems) twice")
    both = np.stack([truth, other], axis=1).astype(np.float64)  # (queries, 2, systems)
    if np.isnan(both).any():
        raise ValueError("a query without a score: leave it out of both arrays")
    figures = {
        # sums over queries order systems as means do; rounding keeps equal systems equal in every resample
        "tau": lambda sums: tau_b(*_sides(sums)),
        "tau_ap": lambda sums: tau_ap(*_sides(sums)),
    }
    found = cluster_bootstrap(both, figures, seed=seed, rounds=rounds)
    return RankCorrelation(found["tau"], found["tau_ap"])


def _sides(sums: FloatArray64) -> tuple[FloatArray64, FloatArray64]:
    rounded = np.round(sums, 9)
    return rounded[..., 0, :], rounded[..., 1, :]
