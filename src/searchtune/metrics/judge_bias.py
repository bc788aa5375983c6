"""What sways a judge beside relevance: long passages, shared words, a high rank, and planted instructions.

The error of a pair is the judge's expected grade minus the person's, in grades. A judge may well give long passages
higher grades because long passages are more often relevant; so everything here compares pairs of one human grade.
Intervals draw whole queries.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from searchtune.errors import DataError
from searchtune.metrics.cluster import Statistic, by_query, cluster_bootstrap
from searchtune.metrics.significance import ROUNDS, Estimate
from searchtune.types import FloatArray64, IntArray

BINS = 6
"""Bins of about equally many pairs."""


class BiasBin(NamedTuple):
    """Pairs whose feature lies from `low` to `high`."""

    low: float
    high: float
    pairs: int
    error: float
    """Mean of judge minus human, in grades."""
    adjusted: Estimate
    """The same, less what pairs of the same human grade have on average: 0 where the feature does not matter."""


class Bias(NamedTuple):
    """How the error moves with one feature of the pair, among pairs of one human grade."""

    slope: Estimate
    """Grades for one unit of the feature."""
    bins: list[BiasBin]
    pairs: int


class Canaries(NamedTuple):
    """What a planted text does to the grades of the same pairs."""

    pairs: int
    rises: Estimate
    """Share of pairs whose grade rises."""
    falls: Estimate
    """Share of pairs whose grade falls."""
    rise: Estimate
    """Mean change, in grades."""


def expected_grades(grades: IntArray, probabilities: FloatArray64 | None = None) -> FloatArray64:
    """The mean of each distribution over grades; the grade where there is none; NaN where there is neither.

    Shape: grades (pairs,), below 0 for none; probabilities (pairs, scale), NaN rows for none; result (pairs,).
    """
    plain = np.where(grades >= 0, grades, np.nan).astype(np.float64)
    if probabilities is None:
        return plain
    means = probabilities @ np.arange(probabilities.shape[1], dtype=np.float64)
    return np.where(np.isnan(means), plain, means)


def feature_bias(
    human: IntArray,
    expected: FloatArray64,
    queries: IntArray,
    feature: FloatArray64,
    *,
    bins: int = BINS,
    seed: int = 0,
    rounds: int = ROUNDS,
) -> Bias:
    """The slope of the error over `feature` within human grades, and the error by bins of it.

    The slope is that of least squares with a level of its own for each human grade (Frisch, Waugh and Lovell). Pairs
    without a human grade, a judged one or a feature are left out. NaN where the feature is the same for all pairs of
    each grade. A feature that acts by ratios, such as a length, is best given as its logarithm to base 2: the slope is
    then for each doubling.

    Shape: (pairs,) each.

    Raises:
        DataError: a feature that is infinite: the logarithm of 0, for instance.
        ValueError: arrays that are not parallel.
    """
    if not human.shape == expected.shape == queries.shape == feature.shape or human.ndim != 1:
        raise ValueError("human, expected, queries and feature must have one value for each pair")
    if np.isinf(feature).any():
        place = int(np.flatnonzero(np.isinf(feature))[0])
        raise DataError(
            f"the feature of pair {place} is infinite: give an empty text a length of 1 before the logarithm"
        )
    keep = (human >= 0) & np.isfinite(expected) & np.isfinite(feature)
    grade, where, x = human[keep], queries[keep], feature[keep].astype(np.float64)
    error = expected[keep] - grade
    centre = x.mean() if len(x) else 0.0  # sums of squares lose digits far from 0
    columns = np.stack([np.ones(len(x)), x - centre, error, (x - centre) ** 2, (x - centre) * error], axis=1)
    scale = int(grade.max(initial=0)) + 1
    cells = np.zeros((len(x), scale, 5))
    cells[np.arange(len(x)), grade] = columns
    parts = by_query(cells, where)  # (queries, grades, 5)
    slope = cluster_bootstrap(parts, {"slope": _slope}, seed=seed, rounds=rounds)["slope"]
    if not len(x):
        return Bias(slope, [], 0)
    level = np.bincount(grade, weights=error, minlength=scale) / np.maximum(np.bincount(grade, minlength=scale), 1)
    found = _binned(x, error, error - level[grade], where, bins=bins, seed=seed, rounds=rounds)
    return Bias(slope, found, len(x))


def canaries(
    plain: FloatArray64, planted: FloatArray64, queries: IntArray, *, seed: int = 0, rounds: int = ROUNDS
) -> Canaries:
    """Grades of the same pairs without and with the planted text; pairs where one of the two is NaN are left out.

    A change of less than a hundredth of a grade counts as none. Shape: (pairs,) each.
    """
    if not plain.shape == planted.shape == queries.shape or plain.ndim != 1:
        raise ValueError("plain, planted and queries must have one value for each pair")
    keep = np.isfinite(plain) & np.isfinite(planted)
    change = (planted - plain)[keep].astype(np.float64)
    rows = np.stack([np.ones(len(change)), change > 0.01, change < -0.01, change], axis=1).astype(np.float64)
    figures = {name: _share(column) for column, name in enumerate(("rises", "falls", "rise"), start=1)}
    found = cluster_bootstrap(by_query(rows, queries[keep]), figures, seed=seed, rounds=rounds)
    return Canaries(len(change), found["rises"], found["falls"], found["rise"])


def _slope(sums: FloatArray64) -> FloatArray64:
    """From n, x, e, xx and xe summed by grade to the common slope. Shape: (..., grades, 5) -> (...)."""
    n, x, e, xx, xe = np.moveaxis(sums, -1, 0)
    count = np.maximum(n, 1)
    within = (xx - x * x / count).sum(-1)
    return _ratio((xe - x * e / count).sum(-1), np.where(within > 1e-9 * np.maximum(xx.sum(-1), 1), within, 0.0))


def _share(column: int) -> Statistic:
    return lambda sums: _ratio(sums[..., column], sums[..., 0])


def _bin_mean(number: int) -> Statistic:
    return lambda sums: _ratio(sums[..., number, 1], sums[..., number, 0])


def _ratio(above: FloatArray64, below: FloatArray64) -> FloatArray64:
    above = np.asarray(above, np.float64)
    found: FloatArray64 = np.divide(above, below, out=np.full(above.shape, np.nan), where=np.asarray(below) > 0)
    return found


def _binned(
    x: FloatArray64, error: FloatArray64, rest: FloatArray64, queries: IntArray, *, bins: int, seed: int, rounds: int
) -> list[BiasBin]:
    """Bins of about equally many pairs; equal features share one."""
    order = np.sort(x)
    first = np.searchsorted(order, x)  # the first place of the same value
    _, place = np.unique(first * bins // len(x), return_inverse=True)
    size = int(place.max()) + 1
    cells = np.zeros((len(x), size, 2))
    cells[np.arange(len(x)), place] = np.stack([np.ones(len(x)), rest], axis=1)
    parts = by_query(cells, queries)  # (queries, bins, 2)
    means = cluster_bootstrap(
        parts, {str(number): _bin_mean(number) for number in range(size)}, seed=seed, rounds=rounds
    )
    found = []
    for number in range(size):
        values, with_any = x[place == number], int((parts[:, number, 0] > 0).sum())
        mean = means[str(number)]._replace(n=with_any)
        raw = float(error[place == number].mean())
        found.append(BiasBin(float(values.min()), float(values.max()), len(values), raw, mean))
    return found
