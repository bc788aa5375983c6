"""Predicted gains: features by hand, thresholds against brute force, a rule that is found, and noise that is not."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.metrics.gain_features import (
    GainFeatures,
    agreement,
    retriever_features,
    run_features,
    text_features,
)
from searchtune.metrics.gain_prediction import Aim, GainPredictor, best_threshold, fit_gain
from searchtune.types import NO_DOC, Run


def ranking(*rows):
    """A run from rows of (document, score)."""
    depth = max(map(len, rows), default=0)
    docs = np.full((len(rows), depth), NO_DOC)
    scores = np.zeros((len(rows), depth))
    for i, row in enumerate(rows):
        for j, (doc, value) in enumerate(row):
            docs[i, j], scores[i, j] = doc, value
    return Run.ranked(np.arange(len(rows)), docs, scores)


def drawn(queries=200, features=4, seed=0):
    values = np.random.default_rng(seed).normal(size=(queries, features))
    return GainFeatures(tuple(f"f{i}" for i in range(features)), values)


def column(features, name):
    return features.values[:, features.names.index(name)].tolist()


def test_features_of_rankings_by_hand():
    first = ranking([(1, 4.0), (2, 3.0)], [(1, 2.0), (2, 2.0), (3, 2.0)], [])
    second = ranking([(1, 12.0), (2, 3.0)], [(4, 2.0)], [(1, 1.0)])
    features = run_features(first, second)
    assert column(features, "original_margin") == [0.25, 0, 0]
    assert column(features, "original_margin_10") == [0.25, 0, 0]
    assert column(features, "original_found") == pytest.approx([0.2, 0.3, 0])
    shares = np.exp([1, -1]) / np.exp([1, -1]).sum()
    even = -(shares * np.log(shares)).sum() / np.log(2)
    assert column(features, "original_entropy") == pytest.approx([even, 1, 0])
    assert column(features, "score_rise") == pytest.approx([0.5, 0, 1])
    assert column(features, "runs_jaccard") == [1, 0, 0]


def test_agreement_by_hand():
    same, other = ranking([(1, 3.0), (2, 2.0)]), ranking([(2, 3.0), (1, 2.0)])
    found = agreement(same, other)
    assert found["jaccard"].tolist() == [1] and found["first"].tolist() == [0.5]
    weights = 0.9 ** np.arange(10)
    assert found["rbo"] == pytest.approx((weights.sum() - 1) / weights.sum())  # only the first rank differs
    assert agreement(same, same)["rbo"] == pytest.approx([1])
    nothing = ranking([])
    assert [values.tolist() for values in agreement(nothing, nothing).values()] == [[1], [1], [1]]
    assert [values.tolist() for values in agreement(nothing, same).values()] == [[0], [0], [0]]


def test_features_do_not_depend_on_the_other_queries():
    rng = np.random.default_rng(3)
    rows = [[(int(doc), float(rng.normal())) for doc in rng.permutation(30)[:12]] for _ in range(12)]
    whole = run_features(ranking(*rows[:6]), ranking(*rows[6:]))
    for i in range(6):
        alone = run_features(ranking(rows[i]), ranking(rows[6 + i]))
        assert alone.values[0] == pytest.approx(whole.values[i])
    assert np.isfinite(whole.values).all()


def test_features_of_texts_by_hand():
    idf = {"copy": 2.0, "file": 1.0, "path": 4.0}
    features = text_features([["copy", "it"], []], [["copy", "path", "zz"], []], idf)
    assert column(features, "kept") == [0.5, 1]
    assert column(features, "new") == pytest.approx([2 / 3, 0])
    assert column(features, "new_known") == [0.5, 1]
    assert column(features, "query_idf") == [0.5, 0]
    assert column(features, "new_idf") == [1, 0]
    assert column(features, "rewrite_words") == pytest.approx([math.log(4), 0])
    assert len(text_features([], [], {})) == 0


def test_features_that_do_not_fit():
    one, two = ranking([(1, 1.0)]), ranking([(1, 1.0)], [(2, 1.0)])
    with pytest.raises(DataError, match="rankings of 1 and of 2 queries"):
        run_features(one, two)
    with pytest.raises(DataError, match="1 queries and 0 rewrites"):
        text_features([["a"]], [], {})
    with pytest.raises(DataError, match="cannot stand side by side"):
        run_features(one, one).beside(run_features(two, two))
    with pytest.raises(ConfigError, match="no feature 'runs_jacard'; did you mean 'runs_jaccard'"):
        run_features(one, one).only(["runs_jacard"])
    with pytest.raises(DataError, match=r"query 1: feature 'f0' is nan"):
        GainFeatures(("f0",), np.array([[0.0], [np.nan]]))
    assert retriever_features(one, one).names == ("retrievers_jaccard", "retrievers_rbo", "retrievers_first")


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 0.0, 0.5, 2.0, 3.0]), st.sampled_from([-1.0, -0.25, 0.0, 0.5])), max_size=9),
    st.sampled_from([None, 0.0, 0.2]),
)  # fmt: skip
def test_the_threshold_is_the_best_there_is(pairs, bound):
    predicted, gains = (np.array([pair[i] for pair in pairs], dtype=float) for i in (0, 1))
    threshold = best_threshold(predicted, gains, bound)
    used = predicted > threshold
    options = [predicted > t for t in [-np.inf, *predicted.tolist(), np.inf]]
    if bound is not None:
        allowed = [use for use in options if (gains[use] < 0).sum() <= bound * len(gains) + 1e-9]
        assert (gains[used] < 0).sum() <= bound * len(gains) + 1e-9
        options = allowed
    assert gains[used].sum() == pytest.approx(max(gains[use].sum() for use in options))


def test_of_equal_thresholds_the_one_that_rewrites_least():
    assert best_threshold(np.array([3.0, 2.0, 1.0]), np.array([1.0, 0.0, 0.0])) == 2.5
    assert best_threshold(np.array([1.0, 0.5]), np.zeros(2)) == np.inf
    assert best_threshold(np.array([1.0, 0.5]), np.ones(2)) == -np.inf
    assert best_threshold(np.zeros(0), np.zeros(0)) == np.inf


def test_a_planted_rule_is_found_and_holds_on_other_queries():
    features, fresh = drawn(seed=1), drawn(seed=2)
    rng = np.random.default_rng(5)

    def gains(of):
        return 0.3 * np.sign(of.values[:, 1] - 0.5) + rng.normal(scale=0.1, size=len(of))

    predictor = fit_gain(features, gains(features), seed=3)
    assert predictor.use == "predicted"
    assert predictor.expected.low > 0
    true, used = gains(fresh), predictor.decide(fresh)
    assert true[used].mean() > 0.15
    assert (used == (fresh.values[:, 1] > 0.5)).mean() > 0.85
    assert true.mean() < 0 < np.where(used, true, 0).mean()
    assert "a rewrite is used where its predicted gain is above" in predictor.reading


def test_rewrites_that_always_help_are_always_used():
    predictor = fit_gain(drawn(), np.random.default_rng(0).uniform(0.1, 0.3, size=200), seed=3)
    assert predictor.use == "always"
    assert predictor.decide(drawn(7, seed=9)).all()


def test_noise_seldom_makes_it_rewrite_and_costs_little_where_it_does():
    used, losses = 0, []
    for seed in range(40):
        gains = np.random.default_rng(100 + seed).normal(loc=-0.05, scale=0.2, size=60)
        predictor = fit_gain(drawn(60, seed=seed), gains, seed=seed)
        used += predictor.use != "never"
        losses.append(0.05 * predictor.decide(drawn(400, seed=1000 + seed)).mean())
    assert used <= 6  # certainty .9, and rewriting harms on average
    assert np.mean(losses) < 0.005


def test_a_bound_on_harm_holds_on_dev():
    features = drawn(seed=4)
    gains = 0.2 + 0.3 * features.values[:, 0]
    free, bound = fit_gain(features, gains, seed=1), fit_gain(features, gains, 1, Aim(max_harmed=0.0))
    assert (gains[bound.decide(features)] < 0).sum() <= (gains[free.decide(features)] < 0).sum()
    assert (gains[bound.decide(features)] < 0).mean() <= 0.01


@pytest.mark.parametrize(("gains", "reading"), [
    (np.array([0.5]), "1 dev queries are too few"),
    (np.zeros(0), "0 dev queries are too few"),
    (np.zeros(30), "no rewrite changed the metric on dev"),
    (np.full(30, -0.2), "no gain that is sure at 90%"),
])  # fmt: skip
def test_dev_that_shows_no_gain_never_rewrites(gains, reading):
    features = drawn(len(gains))
    predictor = fit_gain(features, gains, seed=0)
    assert predictor.use == "never" and reading in predictor.reading
    assert not predictor.decide(drawn(5)).any()
    assert GainPredictor.from_json(json.loads(json.dumps(predictor.to_json(), allow_nan=False))).use == "never"


@pytest.mark.parametrize("gains", [np.full(30, np.nan), np.zeros(29), np.zeros((30, 1))])
def test_gains_that_are_wrong(gains):
    with pytest.raises(DataError, match="for 30 queries, or not finite"):
        fit_gain(drawn(30), gains, seed=0)


def test_a_constant_feature_weighs_nothing_even_where_it_moves_later():
    features = drawn(50)
    features = GainFeatures(features.names, np.where(np.arange(4) == 2, 7.0, features.values))
    predictor = fit_gain(features, features.values[:, 0], seed=0)
    moved = GainFeatures(features.names, features.values + 100 * (np.arange(4) == 2))
    assert predictor.predict(moved) == pytest.approx(predictor.predict(features))


def test_the_same_seed_gives_the_same_and_json_keeps_it():
    features = drawn()
    gains = features.values[:, 0] / 5 + np.random.default_rng(1).normal(scale=0.1, size=200)
    predictor = fit_gain(features, gains, seed=3)
    again = fit_gain(features, gains, seed=3)
    assert predictor.to_json() == again.to_json()
    read = GainPredictor.from_json(json.loads(json.dumps(predictor.to_json(), allow_nan=False)))
    fresh = drawn(31, seed=8)
    assert np.array_equal(read.predict(fresh), predictor.predict(fresh))
    assert np.array_equal(read.decide(fresh), predictor.decide(fresh))
    shuffled = fresh.only(fresh.names[::-1])
    assert read.predict(shuffled) == pytest.approx(predictor.predict(fresh))
    with pytest.raises(ConfigError, match="no feature"):
        read.predict(fresh.only(["f0"]))


@pytest.mark.parametrize("change", [
    {"weights": [1.0]}, {"threshold": math.inf}, {"scale": [0.0, 1, 1, 1]}, {"use": "sometimes"}, {"centre": None},
    {"expected": [1.0]}, {"intercept": "x"}, {"names": 4},
])  # fmt: skip
def test_json_that_is_wrong(change):
    data = fit_gain(drawn(), drawn().values[:, 0], seed=3).to_json()
    with pytest.raises(ArtifactError, match="predictor of gains"):
        GainPredictor.from_json({**data, **change})
    del data["threshold"]
    with pytest.raises(ArtifactError, match="threshold"):
        GainPredictor.from_json(data)
