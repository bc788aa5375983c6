"""How far a mean over queries can be trusted: intervals and paired tests.

In every paired function `a` is the reference, `b` the candidate, and differences are `b - a`: above 0 means that `b` is
better. Whatever draws random numbers takes a seed and gives the same answer for it.

Differences are tested by sign flips, and their interval holds every shift that this very test does not reject, so that
the two cannot contradict each other (`sign_flips`). Single means have a bootstrap interval.

An interval or a p-value that the sample cannot give is NaN: nothing from no query, no spread from a single one.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from scipy import special

from searchtune.errors import ConfigError
from searchtune.types import FloatArray64

ROUNDS = 10_000
"""Resamples of a bootstrap and sign flips of a test: the smallest p-value is 1 / (ROUNDS + 1)."""
ALPHA = 0.05
"""A difference counts where its p-value is below this; no more than this share of intervals misses the truth."""
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


@dataclass(frozen=True, eq=False)
class Shifts:
    """A column's paired randomisation test, and all shifts of the column that it does not reject (see `sign_flips`)."""

    mean: float
    n: int
    lower: FloatArray64
    """By sign flip: it is as extreme as what was seen wherever the true mean is taken for this or more (and less than
    the mean). Shape: (flips,)."""
    upper: FloatArray64
    """The same from above."""

    @property
    def p_value(self) -> float:
        """Two-sided, of a true mean of 0: (1 + as extreme) / (1 + flips), never 0 (Phipson & Smyth 2010)."""
        if self.n == 0:
            return math.nan
        if abs(self.mean) <= SAME:
            return 1.0
        extreme = (self.lower <= 0).sum() if self.mean > 0 else (self.upper >= 0).sum()
        return float((1 + extreme) / (1 + len(self.lower)))

    def interval(self, alpha: float = ALPHA) -> Estimate:
        """The shifts that are not rejected at `alpha`; 0 is among them exactly where the p-value is not below it.

        NaN where the sample is so small that no shift would be rejected: below 6 rows for an alpha of 0.05.
        """
        reach = math.ceil(alpha * (1 + len(self.lower)) - 1e-9) - 1  # so many flips may be as extreme
        if self.n == 0 or reach < 1:
            return Estimate(self.mean, np.nan, np.nan, self.n)
        low = float(np.partition(self.lower, reach - 1)[reach - 1])
        high = float(-np.partition(-self.upper, reach - 1)[reach - 1])
        bounded = math.isfinite(low) and math.isfinite(high)
        return Estimate(self.mean, low, high, self.n) if bounded else Estimate(self.mean, np.nan, np.nan, self.n)


def sign_flips(differences: FloatArray64, *, seed: int, rounds: int = ROUNDS) -> list[Shifts]:
    """The paired randomisation test of each column's mean (Smucker et al. 2007, CIKM), and its interval.

    Were both systems one, each difference might as well have the other sign: a flip of signs counts as extreme where
    its sum is as far from 0 as the one seen. Taking away a shift t first tests a true mean of t. The flip of a set F of
    rows is then as extreme exactly where mean(F) <= t <= mean, so that the interval's ends are order statistics of the
    means of subsets (Hartigan 1969, JASA 64:1303), and test and interval are one method. Rows are taken to be
    symmetric around the true mean; ties stay ties in the test of 0.

    A flip and its opposite count as one. Where all flips are no more than `rounds`, every one is taken and the test is
    exact (up to 14 rows for 10,000); otherwise `rounds` of them are drawn, the same for all columns.

    Shape: differences (n, columns).
    """
    n, columns = differences.shape
    lower, upper = [], []
    totals = differences.sum(axis=0)
    for signs in _signs(n, seed, rounds):  # (part, n)
        flipped = signs @ differences  # (part, columns)
        kept = (n + signs.sum(axis=1, keepdims=True)) / 2  # rows whose sign stays
        with np.errstate(divide="ignore", invalid="ignore"):
            means = np.stack([(totals + flipped) / (2 * kept), (totals - flipped) / (2 * (n - kept))])
        means[np.abs(means) < SAME] = 0.0
        whole = (kept == 0) | (kept == n)  # nothing is flipped, or all: as extreme whatever the shift
        lower.append(np.where(whole, -np.inf, means.min(axis=0)))
        upper.append(np.where(whole, np.inf, means.max(axis=0)))
    low, high = (np.concatenate([*parts, np.empty((0, columns))]) for parts in (lower, upper))
    averages = totals / n if n else np.full(columns, np.nan)
    return [Shifts(float(averages[c]), n, low[:, c], high[:, c]) for c in range(columns)]


def _signs(n: int, seed: int, rounds: int) -> Iterator[FloatArray64]:
    """Signs of the rows in each flip, some flips at a time: all there are, or as many as `rounds`. Shape: (part, n)."""
    if 2 ** (n - 1) - 1 <= rounds:
        every = np.arange(1, 2 ** max(n - 1, 0))
        if len(every):
            yield (1 - 2 * ((every[:, None] >> np.arange(n)) & 1)).astype(np.float64)
        return
    rng = np.random.default_rng(seed)
    for size in chunks(rounds, n):
        yield (2 * rng.integers(0, 2, size=(size, n), dtype=np.int8) - 1).astype(np.float64)


def paired_randomisation(a: FloatArray64, b: FloatArray64, *, seed: int, rounds: int = ROUNDS) -> float:
    """Two-sided p-value of mean(b - a) by `sign_flips`; NaN where there is no query. Shape: a and b (n,)."""
    return sign_flips(np.asarray(b - a, np.float64)[:, None], seed=seed, rounds=rounds)[0].p_value


def mean_shift(differences: FloatArray64, *, seed: int, rounds: int = ROUNDS) -> Estimate:
    """The mean of paired differences with its 95% interval by `sign_flips`. Shape: differences (n,)."""
    return sign_flips(np.asarray(differences, np.float64)[:, None], seed=seed, rounds=rounds)[0].interval()


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
    steps = np.round(p[order] * np.arange(len(order), 0, -1), 12)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return [float(value) for value in corrected]


def holm_levels(p_values: Sequence[float], alpha: float = ALPHA) -> list[float]:
    """The level at which Holm's method decides each test: its p-value is below it exactly where `holm` gives < alpha.

    The smallest of m p-values is held against alpha / m, the next one against alpha / (m - 1) and so on, until one is
    not below its level: that level is the one of all further tests. An interval of confidence 1 - level says the
    same as the corrected test. Errors and NaN as in `holm`.
    """
    corrected = np.array(holm(p_values))
    levels = np.full(len(corrected), alpha)
    order = np.argsort(np.asarray(p_values, np.float64), kind="stable")[: np.count_nonzero(~np.isnan(corrected))]
    rejected = int((corrected[order] < alpha).sum())
    left = len(order) - np.minimum(np.arange(len(order)), rejected)  # tests not yet decided
    levels[order] = alpha / left
    return [float(level) for level in levels]


def win_tie_loss(a: FloatArray64, b: FloatArray64, tolerance: float = SAME) -> Tally:
    """How often `b` beats, equals (within `tolerance`) and trails `a`. Shape: a and b (n,)."""
    difference = np.asarray(b) - np.asarray(a)
    wins, losses = int((difference > tolerance).sum()), int((difference < -tolerance).sum())
    return Tally(wins, len(difference) - wins - losses, losses)


def _means_and_spreads(differences: FloatArray64) -> tuple[FloatArray64, FloatArray64]:
    """Mean and standard deviation of each column; differences that only rounding tells apart have a deviation of 0."""
    spreads = np.where(np.ptp(differences, axis=0) < SAME, 0.0, differences.std(axis=0, ddof=1))
    return np.asarray(differences.mean(axis=0)), spreads
