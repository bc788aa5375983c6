"""How far a mean over queries can be trusted: intervals, paired tests and the smallest effect a sample can show.

In every paired function `a` is the reference, `b` the candidate, and differences are `b - a`: above 0 means that `b` is
better. Whatever draws random numbers takes a seed and gives the same answer for it.

An interval or a p-value that the sample cannot give is NaN: nothing from no query, no spread from a single one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from searchtune.errors import ConfigError
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
    replicates = np.concatenate([weights @ values for weights in resamples(n, seed, rounds)]) / n  # (rounds, columns)
    means = values.mean(axis=0)
    return [
        bca_interval(float(means[c]), values[:, c] - means[c], replicates[:, c], level=level) for c in range(columns)
    ]


def bca_interval(point: float, influence: FloatArray64, replicates: FloatArray64, *, level: float = 0.95) -> Estimate:
    """`point` with the BCa interval that its bootstrap `replicates` give (Efron 1987).

    `influence` is what each resampled unit adds to the figure, up to a common factor: its distance from the mean, or
    the mean of the leave-one-out figures minus the one without the unit. Where no resample changes anything, the
    interval is the point. Shape: influence (n,), replicates (rounds,).
    """
    n, variance = len(influence), float((influence**2).sum())
    if np.ptp(influence) < SAME and np.ptp(replicates) < SAME:
        return Estimate(point, point, point, n)
    below = (replicates < point - SAME).mean() + 0.5 * (np.abs(replicates - point) <= SAME).mean()
    bias = special.ndtri(np.clip(below, 1 / (len(replicates) + 1), 1 - 1 / (len(replicates) + 1)))
    acceleration = float((influence**3).sum()) / (6 * variance**1.5) if np.ptp(influence) >= SAME else 0.0
    z = bias + special.ndtri([(1 - level) / 2, (1 + level) / 2])
    low, high = np.quantile(replicates, special.ndtr(bias + z / (1 - acceleration * z)))
    return Estimate(point, float(low), float(high), n)


def resamples(n: int, seed: int, rounds: int) -> Iterator[FloatArray64]:
    """How often each row is drawn in each resample, some resamples at a time. Shape: (part of rounds, n)."""
    rng = np.random.default_rng(seed)
    for size in chunks(rounds, n):
        drawn = rng.integers(0, n, size=(size, n)) + n * np.arange(size)[:, None]
        yield np.bincount(drawn.ravel(), minlength=size * n).reshape(size, n).astype(np.float64)


def chunks(rounds: int, n: int) -> Iterator[int]:
    """Parts that add up to `rounds`, each small enough that part x n stays within `CHUNK`."""
    size = max(1, CHUNK // n)
    for start in range(0, rounds, size):
        yield min(size, rounds - start)


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
    for size in chunks(rounds, n):
        signs = 2.0 * rng.integers(0, 2, size=(size, n), dtype=np.int8) - 1.0  # (size, n)
        extreme += (np.abs(signs @ differences) >= observed - SAME).sum(axis=0)
    return [float(p) for p in (1 + extreme) / (1 + rounds)]


def paired_t(a: FloatArray64, b: FloatArray64) -> float:
    """Two-sided p-value of Student's paired t-test of mean(b - a) = 0, with n - 1 degrees of freedom.

    The test that agrees best with randomisation on retrieval figures (Urbano et al. 2019, SIGIR), and a quick check of
    it. NaN below two queries; where all differences are the same, 1 if they are 0 and otherwise 0. Shape: a and b (n,).
    """
    return paired_t_columns(np.asarray(b - a, np.float64)[:, None])[0]


def paired_t_columns(differences: FloatArray64) -> list[float]:
    """`paired_t` of each column. Shape: differences (n, columns)."""
    n, columns = differences.shape
    if n < 2:
        return [np.nan] * columns
    means, spreads = _means_and_spreads(differences)
    errors = spreads / np.sqrt(n)
    t = np.divide(means, errors, out=np.where(np.abs(means) > SAME, np.inf, 0.0), where=errors > 0)
    return [float(p) for p in 2 * special.stdtr(n - 1, -np.abs(t))]


def effect_size(a: FloatArray64, b: FloatArray64) -> float:
    """Cohen's d_z of paired values: mean(b - a) in units of the standard deviation of b - a (Cohen 1988, ch. 2).

    It does not grow with the number of queries, as -log p does: .2 is called small, .5 medium, .8 large. A gain that is
    steady over queries has a large d_z however small it is. NaN below two queries and where all differences are the
    same, save that no difference at all is 0. Shape: a and b (n,).
    """
    return effect_size_columns(np.asarray(b - a, np.float64)[:, None])[0]


def effect_size_columns(differences: FloatArray64) -> list[float]:
    """`effect_size` of each column. Shape: differences (n, columns)."""
    n, columns = differences.shape
    if n < 2:
        return [np.nan] * columns
    means, spreads = _means_and_spreads(differences)
    sizes = np.divide(means, spreads, out=np.where(np.abs(means) > SAME, np.nan, 0.0), where=spreads > 0)
    return [float(size) for size in sizes]


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for having run several tests, in the order given (Holm 1979, Scand. J. Statist. 6:65).

    The smallest of m is multiplied by m, the next one by m - 1 and so on; none falls below one before it, none exceeds
    1. Whatever stays below .05 is significant with a chance of at most 5% that any of them is a false alarm. A NaN is
    no test: it stays NaN and does not count in m. A value outside of 0 to 1 is a `ConfigError`.
    """
    p = np.asarray(p_values, dtype=np.float64)
    if (wrong := p[(p < 0) | (p > 1)]).size:
        raise ConfigError(f"p-value {wrong[0]:g} is not between 0 and 1: give the p-values of the tests themselves")
    tested = np.flatnonzero(~np.isnan(p))
    order = tested[np.argsort(p[tested], kind="stable")]
    corrected = p.copy()
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1)
    return [float(value) for value in corrected]


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


def _means_and_spreads(differences: FloatArray64) -> tuple[FloatArray64, FloatArray64]:
    """Mean and standard deviation of each column; differences that only rounding tells apart have a deviation of 0."""
    spreads = np.where(np.ptp(differences, axis=0) < SAME, 0.0, differences.std(axis=0, ddof=1))
    return np.asarray(differences.mean(axis=0)), spreads
