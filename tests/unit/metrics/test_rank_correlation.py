"""Correlations of system rankings against scipy and hand-made values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from searchtune.metrics.rank_correlation import rank_correlation, tau_ap, tau_b


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("ties", [False, True])
def test_tau_b_is_scipys(seed: int, ties: bool) -> None:
    rng = np.random.default_rng(seed)
    x, y = (rng.integers(0, 5, 12) if ties else rng.permutation(12) for _ in range(2))
    assert tau_b(x.astype(float), y.astype(float)) == pytest.approx(stats.kendalltau(x, y).statistic)


def test_tau_ap_by_hand() -> None:
    truth = np.array([4.0, 3.0, 2.0, 1.0])
    assert tau_ap(truth, truth) == 1
    assert tau_ap(truth, -truth) == -1
    # a swap at the top: of ranks 2, 3, 4 the shares above that belong there are 0/1, 2/2, 3/3
    assert tau_ap(truth, np.array([3.0, 4.0, 2.0, 1.0])) == pytest.approx(2 / 3 * 2 - 1)
    # a swap at the bottom: 1/1, 2/2, 2/3
    assert tau_ap(truth, np.array([4.0, 3.0, 1.0, 2.0])) == pytest.approx(2 / 3 * (1 + 1 + 2 / 3) - 1)
    # tau-b does not tell the two apart
    assert tau_b(truth, np.array([3.0, 4.0, 2.0, 1.0])) == tau_b(truth, np.array([4.0, 3.0, 1.0, 2.0]))


def test_ties_lie_between_the_orders_that_they_allow() -> None:
    truth = np.array([4.0, 3.0, 2.0, 1.0])
    swapped = tau_ap(truth, np.array([3.0, 4.0, 2.0, 1.0]))
    assert tau_ap(truth, np.array([4.0, 4.0, 2.0, 1.0])) == pytest.approx((1 + swapped) / 2)
    assert tau_ap(truth, np.full(4, 0.5)) == pytest.approx(0)
    assert tau_ap(np.array([4.0, 4.0, 1.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(2 / 2 * (0.5 + 1) - 1)


def test_no_order_no_correlation() -> None:
    for one, two in (([1.0], [1.0]), ([1.0, 1.0], [1.0, 2.0]), ([], [])):
        assert math.isnan(tau_b(np.array(one), np.array(two)))
        assert math.isnan(tau_ap(np.array(one), np.array(two)))


def test_intervals_draw_queries() -> None:
    rng = np.random.default_rng(4)
    truth = rng.normal(np.arange(6) / 5, 0.5, (50, 6))
    found = rank_correlation(truth, truth + rng.normal(0, 0.3, (50, 6)), rounds=400)
    assert found.tau.low <= found.tau.mean <= found.tau.high <= 1
    assert found.tau.low < found.tau.high
    assert found.tau_ap.n == 50
    assert found.tau.mean == pytest.approx(stats.kendalltau(truth.mean(0), truth.mean(0)).statistic, abs=0.4)


def test_small_and_broken_samples() -> None:
    one = rank_correlation(np.array([[0.1, 0.2]]), np.array([[0.3, 0.2]]))
    assert one.tau.mean == -1
    assert math.isnan(one.tau.low)
    assert math.isnan(rank_correlation(np.empty((0, 3)), np.empty((0, 3))).tau.mean)
    with pytest.raises(ValueError, match="without a score"):
        rank_correlation(np.array([[0.1, np.nan]]), np.array([[0.1, 0.2]]))
    with pytest.raises(ValueError, match="expected"):
        rank_correlation(np.zeros((2, 2)), np.zeros((2, 3)))


def test_equal_means_stay_equal_in_every_resample() -> None:
    scores = np.repeat(np.random.default_rng(0).random((20, 1)), 3, axis=1)
    found = rank_correlation(scores, scores, rounds=50)
    assert math.isnan(found.tau.mean)
    assert math.isnan(found.tau.high)
