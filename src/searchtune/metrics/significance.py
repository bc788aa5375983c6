"""How far a mean over queries can be trusted: intervals, paired tests and the smallest effect a sample can show.

In every paired function `a` is the reference, `b` the candidate, and differences are `b - a`: above 0 means that `b` is
better. Whatever draws random numbers takes a seed and gives the same answer for it.

An interval or a p-value that the sample cannot give is NaN: nothing from no query, no spread from a single one.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from scipy import special

from searchtune.types import FloatArray64

ROUNDS = 10_000
"""Resamples of a bootstrap and sign flips of a test: the smallest p-value is 1 / (ROUNDS + 1)."""
CHUNK = 4_000_000
"""Random draws held in memory at once."""
SAME = 1e-9
"""Values nearer than this are equal: far above rounding in double precision, far below any metric's smallest step."""


class Estimate(NamedTuple):
    """A mean over `n` queries with its confidence interval; NaN where `n` is too small to tell."""

    mean: float
    low: float
    high: float
    n: int


class Tally(NamedTuple):
    """On how many queries the candidate was better, equal and worse."""

    wins: int
    ties: int
    losses: int


def bootstrap(values: FloatArray64, *, seed: int, level: float = 0.95, rounds: int = ROUNDS) -> Estimate:
    """The mean of `values` with its BCa bootstrap interval (see `bootstrap_columns`). Shape: values (n,)."""
    return bootstrap_columns(np.asarray(values, np.float64)[:, None], seed=seed, level=level, rounds=rounds)[0]


def bootstrap_columns(values: FloatArray64, *, seed: int, level: float = 0.95, rounds: int = ROUNDS) -> list[Estimate]:
    """Bias-corrected and accelerated bootstrap interval of each column's mean (Efron 1987, JASA 82:397).

    Queries are resampled, and every column sees the same resamples. No row: all NaN. One row: its value as the mean,
    NaN as the interval. Rows that are all equal: the interval is that value.

    Shape: values (n, columns).
    """
    n, columns = values.shape
    if n < 2:
        means = values[0] if n else np.full(columns, np.nan)
        return [Estimate(float(mean), np.nan, np.nan, n) for mean in means]
    replicates = np.concatenate([weights @ values for weights in _resamples(n, seed, rounds)]) / n  # (rounds, columns)
    return [_bca(values[:, c], replicates[:, c], level) for c in range(columns)]


def paired_randomisation(a: FloatArray64, b: FloatArray64, *, seed: int, rounds: int = ROUNDS) -> float:
    """Two-sided p-value of mean(b - a) under random sign flips (Smucker et al. 2007, CIKM).

    The observed labelling counts as one more draw, p = (1 + as extreme) / (1 + rounds), so that p is never 0
    (Phipson & Smyth 2010). NaN where there is no query. Shape: a and b (n,).
    """
    return paired_randomisation_columns(np.asarray(b - a, np.float64)[:, None], seed=seed, rounds=rounds)[0]


def paired_randomisation_columns(differences: FloatArray64, *, seed: int, rounds: int = ROUNDS) -> list[float]:
    """`paired_randomisation` of each column, with the same sign flips for all. Shape: differences (n, columns)."""
    n, columns = differences.shape
    if n == 0:
        return [np.nan] * columns
    rng = np.random.default_rng(seed)
    observed = np.abs(differences.sum(axis=0))
    extreme = np.zeros(columns, dtype=np.int64)
    for size in _chunks(rounds, n):
        signs = 2.0 * rng.integers(0, 2, size=(size, n), dtype=np.int8) - 1.0  # (size, n)
        extreme += (np.abs(signs @ differences) >= observed - SAME).sum(axis=0)
    return [float(p) for p in (1 + extreme) / (1 + rounds)]


def paired_t_test_columns(differences: FloatArray64) -> list[float]:
    """Two-sided p-value of each column's mean by Student's paired t-test, a second opinion on the randomisation test.

    NaN below two rows; 1 where all differences are 0, and 0 where they all are the same other value.
    Shape: differences (n, columns).
    """
    n, columns = differences.shape
    if n < 2:
        return [np.nan] * columns
    mean, error = differences.mean(axis=0), differences.std(axis=0, ddof=1) / np.sqrt(n)
    with np.errstate(divide="ignore", invalid="ignore"):
        t = np.where(np.abs(mean) <= SAME, 0.0, np.abs(mean) / np.where(error <= SAME, 0.0, error))
    return [float(p) for p in 2 * special.stdtr(n - 1, -t)]


def effect_size(differences: FloatArray64) -> float:
    """Cohen's d_z: the mean difference in standard deviations of the differences (Cohen 1988, ch. 2).

    0 where nothing differs; NaN below two queries and where all differ by the same. Shape: differences (n,).
    """
    if len(differences) < 2:
        return float("nan")
    mean, spread = float(np.mean(differences)), float(np.std(differences, ddof=1))
    if spread <= SAME:
        return 0.0 if abs(mean) <= SAME else float("nan")
    return mean / spread


def holm(p_values: FloatArray64) -> FloatArray64:
    """P-values adjusted for their number (Holm 1979), in the order given; NaN stays NaN and does not count.

    Shape: p_values (tests,) -> (tests,).
    """
    adjusted = np.full(len(p_values), np.nan)
    there = np.flatnonzero(~np.isnan(p_values))
    order = there[np.argsort(p_values[there], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    adjusted[order] = np.minimum(np.maximum.accumulate(p_values[order] * factors), 1.0)
    return adjusted


def win_tie_loss(a: FloatArray64, b: FloatArray64, tolerance: float = SAME) -> Tally:
    """How often `b` beats, equals (within `tolerance`) and trails `a`. Shape: a and b (n,)."""
    difference = np.asarray(b) - np.asarray(a)
    wins, losses = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return Tally(wins, len(difference) - wins - losses, losses)


def minimum_detectable_effect(differences: FloatArray64, alpha: float = 0.05, power: float = 0.8) -> float:
    """The smallest true mean difference that a two-sided paired test of this size would find with chance `power`.

    (t[1 - alpha/2] + t[power]) x standard error with n - 1 degrees of freedom (Sakai 2018, Laboratory Experiments in
    Information Retrieval, ch. 6), in the metric's own unit. NaN below two queries. Shape: differences (n,).
    """
    n = len(differences)
    if n < 2:
        return float("nan")
    error = np.std(differences, ddof=1) / np.sqrt(n)
    return float((special.stdtrit(n - 1, 1 - alpha / 2) + special.stdtrit(n - 1, power)) * error)


def _bca(values: FloatArray64, replicates: FloatArray64, level: float) -> Estimate:
    """Shape: values (n,); replicates (rounds,)."""
    mean, n = float(values.mean()), len(values)
    spread = values - mean
    variance = float((spread**2).sum())
    if np.ptp(values) < SAME:
        return Estimate(mean, mean, mean, n)
    below = (replicates < mean - SAME).mean() + 0.5 * (np.abs(replicates - mean) <= SAME).mean()
    bias = special.ndtri(np.clip(below, 1 / (len(replicates) + 1), 1 - 1 / (len(replicates) + 1)))
    acceleration = float((spread**3).sum()) / (6 * variance**1.5)
    z = bias + special.ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(replicates, special.ndtr(bias + z / (1 - acceleration * z)))
    return Estimate(mean, float(low), float(high), n)


def _resamples(n: int, seed: int, rounds: int) -> Iterator[FloatArray64]:
    """How often each row is drawn in each resample, some resamples at a time. Shape: (part of rounds, n)."""
    rng = np.random.default_rng(seed)
    for size in _chunks(rounds, n):
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def _chunks(rounds: int, n: int) -> Iterator[int]:
    """Parts that add up to `rounds`, each small enough that part x n stays within `CHUNK`."""
    size = max(1, CHUNK // n)
    for start in range(0, rounds, size):
        yield min(size, rounds - start)
