"""Predicted probabilities against what is relevant."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from searchtune.errors import DataError
from searchtune.evaluation.calibration import reliability, wilson


def test_by_hand() -> None:
    found = reliability(np.array([0.05, 0.08, 0.95, 1.0, 0.1]), np.array([False, True, True, True, False]))
    assert [(it.low, it.high, it.relevant.n) for it in found.bins] == [(0.0, 0.1, 2), (0.1, 0.2, 1), (0.9, 1.0, 2)]
    assert [it.predicted for it in found.bins] == pytest.approx([0.065, 0.1, 0.975])
    assert [it.relevant.mean for it in found.bins] == [0.5, 0.0, 1.0]
    assert found.error == pytest.approx((2 * 0.435 + 1 * 0.1 + 2 * 0.025) / 5)
    assert found.brier == pytest.approx((0.05**2 + 0.92**2 + 0.05**2 + 0 + 0.1**2) / 5)
    assert found.n == 5


def test_probabilities_that_are_right_have_a_small_error() -> None:
    rng = np.random.default_rng(5)
    chance = rng.random(20_000)
    relevant = rng.random(20_000) < chance
    good, bold = reliability(chance, relevant), reliability(np.where(chance > 0.5, 1.0, 0.0), relevant)
    assert good.error < 0.02 < bold.error
    assert good.brier == pytest.approx(1 / 6, abs=0.005)
    assert good.brier < bold.brier
    assert all(abs(it.relevant.mean - it.predicted) < 0.04 for it in good.bins)


@pytest.mark.parametrize(("hits", "n"), [(0, 1), (1, 1), (0, 30), (7, 30), (30, 30), (500, 1000)])
def test_wilson_is_scipys(hits: int, n: int) -> None:
    expected = stats.binomtest(hits, n).proportion_ci(method="wilson")
    found = wilson(hits, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert (found.mean, found.n) == (hits / n, n)


def test_nothing_and_one_pair() -> None:
    nothing = reliability(np.empty(0), np.empty(0, dtype=bool))
    assert (nothing.n, nothing.bins) == (0, [])
    assert math.isnan(nothing.error)
    assert math.isnan(wilson(0, 0).mean)
    one = reliability(np.array([1.0]), np.array([True]))
    assert (one.error, one.brier, len(one.bins)) == (0.0, 0.0, 1)


@pytest.mark.parametrize("wrong", [math.nan, -0.1, 1.5, math.inf])
def test_what_is_no_probability_is_refused(wrong: float) -> None:
    with pytest.raises(DataError, match="of pair 1 is not from 0 to 1: calibrate scores first"):
        reliability(np.array([0.2, wrong]), np.array([True, False]))


def test_arrays_must_be_parallel() -> None:
    with pytest.raises(ValueError, match=r"shape \(2,\), labels \(3,\)"):
        reliability(np.array([0.2, 0.3]), np.array([True, False, True]))
