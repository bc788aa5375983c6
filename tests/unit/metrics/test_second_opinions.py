"""The t-test, the effect size and Holm's correction, against scipy and worked examples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from searchtune.metrics.significance import effect_size, holm, paired_t_test_columns


def test_t_test_is_scipys() -> None:
    values = np.random.default_rng(1).normal(0.1, 1, (40, 3))
    assert paired_t_test_columns(values) == pytest.approx(stats.ttest_1samp(values, 0).pvalue)


def test_t_test_of_little() -> None:
    assert all(math.isnan(p) for p in paired_t_test_columns(np.ones((1, 2))))
    assert paired_t_test_columns(np.array([[0.0, 0.5], [0.0, 0.5]])) == [1.0, 0.0]
    assert paired_t_test_columns(np.empty((3, 0))) == []


def test_effect_size() -> None:
    assert effect_size(np.array([0.0, 1.0])) == pytest.approx(0.5 / math.sqrt(0.5))
    assert effect_size(np.zeros(5)) == 0
    assert math.isnan(effect_size(np.ones(5)))
    assert math.isnan(effect_size(np.ones(1)))


@pytest.mark.parametrize(
    ("given", "wanted"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),
        ([0.5, 0.6], [1.0, 1.0]),
        ([0.02, math.nan, 0.01], [0.02, math.nan, 0.02]),
        ([], []),
    ],
)
def test_holm(given: list[float], wanted: list[float]) -> None:
    assert holm(np.array(given)) == pytest.approx(np.array(wanted), nan_ok=True)
