"""When to abstain: by hand, and against trying every threshold."""

import numpy as np
import pytest

from searchtune.errors import ArtifactError, DataError
from searchtune.metrics.abstention import (
    DEFAULT_RULE,
    AbstentionRule,
    Evidence,
    abstention_f1,
    answerable_auc,
    expected_f1_threshold,
    fit_abstention,
)


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


def made_up(seed, count, *, reading, words):
    """Shares and evidence of questions of which reading and words say so much."""
    rng = np.random.default_rng(seed)
    answerable = rng.random(count) < 0.5
    yes = 1 / (1 + np.exp(-(reading * (2 * answerable - 1) + rng.normal(size=count) - 3)))  # nearly always below a half
    others = np.stack([words * answerable + rng.normal(size=count), rng.normal(size=count)], axis=1)
    return np.stack([1 - yes, yes], axis=1), Evidence(others, answerable)


def test_fit_turns_readings_into_a_decision():
    shares, dev = made_up(1, 300, reading=2.0, words=0.0)
    rule = fit_abstention(shares, dev)
    assert rule.others == () and rule.reading > 0
    assert abstention_f1(~rule.answers(shares, dev.others), dev.answerable) > 0.9
    assert abstention_f1(~DEFAULT_RULE.answers(shares, dev.others), dev.answerable) < 0.8
    assert np.allclose(DEFAULT_RULE.likelihood(shares, dev.others), shares[:, 1])


def test_words_help_where_readings_do_not_say_all():
    _, train = made_up(2, 400, reading=0.0, words=2.0)
    shares, dev = made_up(3, 60, reading=0.7, words=2.0)
    test_shares, test = made_up(4, 2000, reading=0.7, words=2.0)
    both, alone = fit_abstention(shares, dev, train), fit_abstention(shares, dev)
    auc = [answerable_auc(rule.likelihood(test_shares, test.others), test.answerable) for rule in (both, alone)]
    assert auc[0] > auc[1] + 0.05
    assert abs(both.others[1]) < 0.3 < both.others[0], "a number that says nothing gets no weight"


def test_words_are_kept_where_readings_are_noise():
    _, train = made_up(2, 400, reading=0.0, words=2.0)
    shares, dev = made_up(3, 40, reading=0.0, words=2.0)
    test_shares, test = made_up(4, 2000, reading=0.0, words=2.0)
    rule = fit_abstention(shares, dev, train)
    assert answerable_auc(rule.likelihood(test_shares, test.others), test.answerable) > 0.88


def test_a_rule_as_json():
    rule = AbstentionRule(0.5, (1.0, -2.0), 0.1, 0.7)
    assert AbstentionRule.from_json(rule.to_json()) == rule
    for wrong in ({}, {**rule.to_json(), "bias": None}, {**rule.to_json(), "threshold": float("nan")}):
        with pytest.raises(ArtifactError, match="rule of abstention"):
            AbstentionRule.from_json(wrong)
    with pytest.raises(DataError, match="3 further numbers for a rule of 2"):
        rule.likelihood(np.array([[0.5, 0.5]]), np.zeros((1, 3)))


def test_what_could_not_be_read_stays_unread():
    rule = AbstentionRule(1.0, (1.0,))
    shares = np.array([[np.nan, np.nan], [0.0, 1.0], [1.0, 0.0]])
    found = rule.likelihood(shares, np.zeros((3, 1)))
    assert np.isnan(found[0]) and found[1] > 0.99 and found[2] < 0.01
    assert rule.answers(shares, np.zeros((3, 1))).tolist() == [False, True, False]


def test_what_cannot_be_fitted():
    shares = np.array([[0.5, 0.5], [np.nan, np.nan]])
    for known, words in (([True, False], "all 1 questions are answerable"), ([False, True], "not answerable")):
        with pytest.raises(DataError, match=words):
            fit_abstention(shares, Evidence(np.zeros((2, 0)), np.array(known)))
    with pytest.raises(DataError, match="all 0 questions"):
        fit_abstention(shares[1:], Evidence(np.zeros((1, 0)), np.array([True])))


def test_auc():
    assert answerable_auc(np.array([0.1, 0.9, 0.5, 0.5]), np.array([0, 1, 0, 1], bool)) == pytest.approx(0.875)
    assert np.isnan(answerable_auc(np.array([0.1]), np.array([True])))
