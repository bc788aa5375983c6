"""When to abstain: by hand, and against trying every threshold."""

import numpy as np
import pytest

from searchtune.errors import DataError
from searchtune.metrics.abstention import abstention_f1, answerable_auc, expected_f1_threshold, fit_abstention


def test_f1_by_hand():
    abstained, answerable = np.array([1, 1, 0, 0], bool), np.array([0, 1, 0, 1], bool)
    assert abstention_f1(abstained, answerable) == pytest.approx(0.5)
    assert abstention_f1(np.ones(4, bool), answerable) == pytest.approx(2 / 3), "always abstaining on halves"
    assert abstention_f1(np.zeros(4, bool), np.ones(4, bool)) == 0


def test_the_threshold_is_the_best_of_all():
    rng = np.random.default_rng(0)
    for _ in range(50):
        chances = np.round(rng.random(int(rng.integers(1, 30))), 1)

        def expected(threshold, chances=chances):
            abstained = chances < threshold
            return 2 * (1 - chances)[abstained].sum() / max(1e-9, abstained.sum() + (1 - chances).sum())

        found = expected_f1_threshold(chances)
        assert expected(found) >= max(expected(t) for t in np.linspace(0, 1.01, 103)) - 1e-9


def test_fit_turns_shares_into_a_decision():
    rng = np.random.default_rng(1)
    answerable = rng.random(200) < 0.5
    yes = 1 / (1 + np.exp(-(answerable * 4 - 5 + rng.normal(size=200))))  # nearly always below a half
    fitted = fit_abstention(np.stack([1 - yes, yes], axis=1), answerable)
    abstained = fitted.grades(np.stack([1 - yes, yes], axis=1)) == 0
    assert abstention_f1(abstained, answerable) > 0.9 > abstention_f1(yes < 0.5, answerable)
    assert answerable_auc(yes, answerable) > 0.9


def test_what_cannot_be_fitted():
    shares = np.array([[0.5, 0.5], [np.nan, np.nan]])
    for known, words in (([True, False], "all 1 questions are answerable"), ([False, True], "not answerable")):
        with pytest.raises(DataError, match=words):
            fit_abstention(shares, np.array(known))
    with pytest.raises(DataError, match="all 0 questions"):
        fit_abstention(shares[1:], np.array([True]))


def test_auc():
    assert answerable_auc(np.array([0.1, 0.9, 0.5, 0.5]), np.array([0, 1, 0, 1], bool)) == pytest.approx(0.875)
    assert np.isnan(answerable_auc(np.array([0.1]), np.array([True])))
