"""Biases that were built into made-up judges are found, and honest judges have none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchtune.errors import DataError
from searchtune.metrics.judge_bias import canaries, expected_grades, feature_bias

RNG = np.random.default_rng(8)
QUERIES = np.repeat(np.arange(50), 20)
HUMAN = RNG.integers(0, 4, 1000)
LENGTH = RNG.normal(6, 1, 1000) + 0.5 * HUMAN  # what is relevant is longer


def test_expected_grades() -> None:
    grades = np.array([2, -1, 1, -1])
    assert expected_grades(grades) == pytest.approx([2, np.nan, 1, np.nan], nan_ok=True)
    nothing = [np.nan] * 3
    chances = np.array([[0.5, 0.25, 0.25], [0, 0, 1], nothing, nothing])
    assert expected_grades(grades, chances) == pytest.approx([0.75, 2, 1, np.nan], nan_ok=True)


def test_an_honest_judge_has_no_slope_though_length_goes_with_relevance() -> None:
    found = feature_bias(HUMAN, HUMAN * 0.5 + 0.7 + RNG.normal(0, 0.3, 1000), QUERIES, LENGTH, rounds=400)
    assert found.slope.low < 0 < found.slope.high
    assert found.slope.n == 50
    assert all(it.adjusted.low < 0.03 and it.adjusted.high > -0.03 for it in found.bins)
    assert [it.pairs for it in found.bins] == pytest.approx([1000 / 6] * 6, abs=1)


def test_a_built_in_slope_is_found() -> None:
    found = feature_bias(HUMAN, HUMAN * 0.5 + 0.2 * LENGTH + RNG.normal(0, 0.3, 1000), QUERIES, LENGTH, rounds=400)
    assert found.slope.low < 0.2 < found.slope.high
    assert found.slope.low > 0.15
    assert found.bins[0].adjusted.mean < found.bins[-1].adjusted.mean
    assert found.bins[0].high < found.bins[1].low


def test_the_slope_is_least_squares_with_a_level_for_each_grade() -> None:
    expected = RNG.normal(1.5, 1, 1000)
    dummies = (HUMAN[:, None] == np.arange(4)).astype(float)
    design = np.column_stack([dummies, LENGTH])
    wanted = np.linalg.lstsq(design, expected - HUMAN, rcond=None)[0][-1]
    assert feature_bias(HUMAN, expected, QUERIES, LENGTH, rounds=20).slope.mean == pytest.approx(wanted)
    assert feature_bias(HUMAN, expected, QUERIES, LENGTH + 1e6, rounds=20).slope.mean == pytest.approx(wanted, rel=1e-4)


def test_pairs_that_miss_something_are_left_out() -> None:
    human, expected, feature = HUMAN.copy(), HUMAN + 0.1, LENGTH.copy()
    human[:10], expected[10:30], feature[30:60] = -1, np.nan, np.nan
    assert feature_bias(human, expected, QUERIES, feature, rounds=20).pairs == 940


def test_what_cannot_be_told_is_nan() -> None:
    empty = np.empty(0)
    nothing = feature_bias(empty.astype(np.int64), empty, empty.astype(np.int64), empty)
    assert math.isnan(nothing.slope.mean)
    assert nothing.bins == []
    same = feature_bias(HUMAN, HUMAN + 0.3, QUERIES, np.full(1000, 7.3), rounds=50)
    assert math.isnan(same.slope.mean)
    assert len(same.bins) == 1
    one = feature_bias(HUMAN[:20], HUMAN[:20] + LENGTH[:20], QUERIES[:20], LENGTH[:20])
    assert one.slope.mean == pytest.approx(1)
    assert math.isnan(one.slope.low)


def test_an_infinite_feature_is_an_error() -> None:
    with pytest.raises(DataError, match="pair 1 is infinite"):
        feature_bias(np.zeros(2, np.int64), np.zeros(2), np.arange(2), np.array([1.0, -np.inf]))
    with pytest.raises(ValueError, match="each pair"):
        feature_bias(np.zeros(2, np.int64), np.zeros(3), np.arange(2), np.zeros(2))


def test_canaries_by_hand() -> None:
    plain = np.array([0.0, 1, 2, 3, 1, np.nan])
    planted = np.array([3.0, 1, 2.005, 2, np.nan, 3])
    found = canaries(plain, planted, np.arange(6), rounds=200)
    assert found.pairs == 4
    assert found.rises.mean == 0.25
    assert found.falls.mean == 0.25
    assert found.rise.mean == pytest.approx((3 + 0 + 0.005 - 1) / 4)
    assert found.rise.low < found.rise.mean < found.rise.high


def test_canaries_that_do_nothing_and_none_at_all() -> None:
    found = canaries(np.ones(30), np.ones(30), np.arange(30), rounds=50)
    assert found.rises == (0, 0, 0, 30)
    none = canaries(np.empty(0), np.empty(0), np.empty(0, np.int64))
    assert none.pairs == 0
    assert math.isnan(none.rises.mean)
    with pytest.raises(ValueError, match="each pair"):
        canaries(np.ones(2), np.ones(3), np.arange(2))
