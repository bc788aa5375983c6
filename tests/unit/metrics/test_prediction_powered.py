"""Means from few people and many judged queries: coverage by simulation, and the samples that are too small."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from searchtune.errors import DataError
from searchtune.metrics.prediction_powered import prediction_powered, prediction_powered_difference


def world(rng: np.random.Generator, *, noise: float, labelled: int = 30, queries: int = 300):
    """True values around .5, a judge that is .15 too generous; people label a random part."""
    truth = rng.beta(2, 2, queries)
    judge = truth + 0.15 + rng.normal(0, noise, queries)
    human = np.full(queries, np.nan)
    chosen = rng.permutation(queries)[:labelled]
    human[chosen] = truth[chosen]
    return human, judge


@pytest.mark.parametrize("noise", [0.02, 0.15, 5.0])
def test_coverage_is_near_95_percent_and_never_much_wider_than_people_alone(noise: float) -> None:
    rng = np.random.default_rng(int(noise * 100))
    inside, wider, judge_inside = 0, [], 0
    for _ in range(1000):
        found = prediction_powered(*world(rng, noise=noise))
        inside += found.estimate.low <= 0.5 <= found.estimate.high
        judge_inside += found.judge_only.low <= 0.5 <= found.judge_only.high
        widths = [it.high - it.low for it in (found.estimate, found.human_only)]
        wider.append(widths[0] / widths[1])
    assert 0.93 <= inside / 1000 <= 0.97
    assert max(wider) < 1.1
    assert np.mean(wider) < (0.5 if noise < 0.1 else 1.005)
    if noise < 1:
        assert judge_inside < 10  # the judge alone is surely wrong


def test_by_hand() -> None:
    human = np.array([1.0, 0.0, np.nan, np.nan, np.nan, np.nan])
    judge = np.array([1.0, 0.0, 1.0, 1.0, 0.0, 1.0])
    found = prediction_powered(human, judge)
    # cov .5; variance of the judge over all six .2667; 1 + n/N = 1.5: 1.25, kept to 1
    assert found.weight == 1
    assert found.estimate.mean == pytest.approx(0.75)  # the judge's mean of the others; nothing to correct
    assert found.human_only.mean == 0.5
    assert found.judge_only.mean == pytest.approx(4 / 6)
    assert (found.human_only.n, found.estimate.n) == (2, 6)


def test_a_perfect_judge_is_worth_nearly_all_queries_and_a_useless_one_no_harm() -> None:
    rng = np.random.default_rng(1)
    perfect = prediction_powered(*world(rng, noise=0.0))
    assert perfect.weight == pytest.approx(1, abs=0.3)
    assert perfect.effective > 150
    human, _ = world(rng, noise=0.0)
    constant = prediction_powered(human, np.full(len(human), 0.3))
    assert constant.weight == 0
    assert constant.estimate[:3] == pytest.approx(constant.human_only[:3])
    assert constant.effective == pytest.approx(30)
    against = prediction_powered(human, -np.nan_to_num(human))
    assert against.weight == 0


def test_people_alone_get_students_interval() -> None:
    values = np.random.default_rng(2).random(25)
    found = prediction_powered(values, np.zeros(25))
    low, high = stats.t.interval(0.95, 24, values.mean(), stats.sem(values))
    assert found.estimate == pytest.approx((values.mean(), low, high, 25))
    assert found.p_value == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_difference_of_two_systems() -> None:
    rng = np.random.default_rng(3)
    rejected = inside = 0
    for _ in range(400):
        human_a, judge_a = world(rng, noise=0.1)
        gain = rng.normal(0.1, 0.1, len(human_a))
        found = prediction_powered_difference(
            (human_a, human_a + gain), (judge_a, judge_a + gain + rng.normal(0, 0.05, len(gain)))
        )
        inside += found.estimate.low <= 0.1 <= found.estimate.high
        rejected += found.p_value < 0.05
    assert 0.92 <= inside / 400 <= 0.98
    assert rejected > 390


def test_small_samples_have_no_interval() -> None:
    for human in ([np.nan] * 3, [0.5, np.nan, np.nan], []):
        found = prediction_powered(np.array(human), np.linspace(0, 1, len(human)))
        assert math.isnan(found.estimate.low)
        assert math.isnan(found.p_value)
        assert math.isnan(found.effective)
    assert prediction_powered(np.array([0.5, np.nan]), np.array([0.4, 0.4])).estimate.mean == 0.5


def test_equal_values_have_a_width_of_zero() -> None:
    found = prediction_powered(np.array([0.5, 0.5, np.nan]), np.array([0.4, 0.4, 0.4]))
    assert found.estimate == (0.5, 0.5, 0.5, 3)
    assert found.p_value == 0
    assert prediction_powered(np.zeros(3), np.zeros(3)).p_value == 1


def test_a_query_that_nobody_judged_is_an_error() -> None:
    with pytest.raises(DataError, match="no value for query 1"):
        prediction_powered(np.array([0.5, 0.5]), np.array([0.5, np.nan]))
    with pytest.raises(ValueError, match="one value of each"):
        prediction_powered(np.zeros(2), np.zeros(3))
