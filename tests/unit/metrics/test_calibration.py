"""Probabilities from scores: fits against scipy and brute force, and a stated rule for every odd sample."""

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import isotonic_regression, minimize

from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.metrics.calibration import (
    FITS,
    Calibration,
    brier,
    choose_calibration,
    expected_calibration_error,
    fit_isotonic,
    fit_platt,
    fit_temperature,
    log_loss,
    reliability,
)

SAMPLE = st.lists(
    st.tuples(st.sampled_from([-1e6, -3.0, -0.5, 0.0, 0.1, 0.1000001, 2.0, 7.5, 4e4]), st.booleans()), min_size=1
)
every_kind = pytest.mark.parametrize("kind", FITS)


def sample(pairs):
    return np.array([score for score, _ in pairs]), np.array([label for _, label in pairs], dtype=bool)


def drawn(n=4000, *, scale=1.5, bias=-2.0, seed=0):
    """Scores of which sigmoid(scale x score + bias) are relevant, four to a query."""
    random = np.random.default_rng(seed)
    scores = random.normal(size=n) * 2
    return scores, random.random(n) < 1 / (1 + np.exp(-scale * scores - bias)), np.arange(n) // 4


def smoothed_loss(scale, bias, scores, relevant):
    targets = np.where(relevant, (relevant.sum() + 1) / (relevant.sum() + 2), 1 / ((~relevant).sum() + 2))
    logits = scale * scores + bias
    return float((np.logaddexp(0, logits) - targets * logits).mean())


@pytest.mark.parametrize("unit", [1.0, 1e-4, 300.0])
def test_platt_is_the_maximum_likelihood(unit):
    scores, relevant, _ = drawn(400)
    found = fit_platt(scores * unit + unit, relevant).params
    best = minimize(lambda x: smoothed_loss(*x, scores, relevant), [0, 0], tol=1e-12)
    assert found["scale"][0] * unit == pytest.approx(best.x[0], rel=1e-3)
    assert found["bias"][0] + found["scale"][0] * unit == pytest.approx(best.x[1], rel=1e-3)


def test_the_true_curve_is_found():
    scores, relevant, _ = drawn(40_000)
    found = fit_platt(scores, relevant).params
    assert found["scale"][0] == pytest.approx(1.5, rel=0.05)
    assert found["bias"][0] == pytest.approx(-2, rel=0.05)
    scores, relevant, _ = drawn(40_000, scale=0.3, bias=0)
    assert fit_temperature(scores, relevant).params["scale"][0] == pytest.approx(0.3, rel=0.05)
    curve = fit_isotonic(scores, relevant)
    for score in (-3, 0, 3):
        assert curve(np.array(score)) == pytest.approx(1 / (1 + math.exp(-0.3 * score)), abs=0.05)


def test_temperature_is_the_maximum_likelihood():
    scores, relevant, _ = drawn(400)
    best = minimize(lambda x: smoothed_loss(x[0], 0, scores, relevant), [0], tol=1e-12).x[0]
    assert fit_temperature(scores, relevant).params["scale"][0] == pytest.approx(best, rel=1e-3)


@settings(deadline=None, max_examples=25)
@given(pairs=SAMPLE)
def test_isotonic_is_scipys(pairs):
    scores, relevant = sample(pairs)
    _, inverse = np.unique(scores, return_inverse=True)
    weights = np.bincount(inverse)
    expected = isotonic_regression(np.bincount(inverse, weights=relevant) / weights, weights=weights).x[inverse]
    n = len(scores)
    assert fit_isotonic(scores, relevant)(scores) == pytest.approx(expected.clip(1 / (n + 2), (n + 1) / (n + 2)))


def test_isotonic_by_hand():
    scores, relevant = sample([(1, False), (2, True), (3, False), (5, True), (5, True), (9, True)])
    found = fit_isotonic(scores, relevant)
    assert found.params["scores"] == (1, 2, 3, 5, 9)
    assert found.params["probabilities"] == pytest.approx((1 / 8, 1 / 2, 1 / 2, 7 / 8, 7 / 8))
    assert found(np.array([-np.inf, 0, 1.5, 2.5, 4, 99])) == pytest.approx(
        [1 / 8, 1 / 8, 5 / 16, 1 / 2, 11 / 16, 7 / 8]
    )


@every_kind
@settings(deadline=None, max_examples=25)
@given(pairs=SAMPLE)
def test_every_fit_rises_and_is_a_probability(kind, pairs):
    scores, relevant = sample(pairs)
    curve = FITS[kind](scores, relevant)
    values = curve(np.array([-np.inf, *np.sort(scores), np.inf]))
    assert (np.diff(values) >= 0).all()
    assert ((values >= 0) & (values <= 1)).all()
    assert Calibration.from_json(json.loads(json.dumps(curve.to_json(), allow_nan=False))) == curve


@every_kind
def test_shapes_are_kept_and_nan_stays(kind):
    scores, relevant, _ = drawn(200)
    curve = FITS[kind](scores.astype(np.float32), relevant)
    table = curve(np.array([[0, np.nan, 1], [-np.inf, 2, np.inf]], np.float32))
    assert table.shape == (2, 3)
    assert table.dtype == np.float64
    assert np.isnan(table).sum() == np.isnan(table[0, 1]) == 1
    assert curve(np.float32(0)).shape == ()


@pytest.mark.parametrize(("relevant", "expected"), [(True, 9 / 10), (False, 1 / 10)])
def test_one_label_alone_gives_one_probability(relevant, expected):
    scores, labels = np.arange(8.0), np.full(8, relevant)
    probes = np.array([-np.inf, -5, 0, 3.3, 50, np.inf])
    assert fit_platt(scores, labels)(probes) == pytest.approx([expected] * 6)
    assert fit_isotonic(scores, labels)(probes) == pytest.approx([expected] * 6)
    for seed in range(20):
        odd = np.random.default_rng(seed).normal(size=7)
        assert fit_platt(odd, np.full(7, relevant)).params["scale"] == (0,), "rounding makes no slope"
    scaled = fit_temperature(scores, labels)(probes[1:5])
    assert (np.diff(scaled) > 0).all() if relevant else (scaled == 0.5).all()


def test_pairs_parted_cleanly_stay_short_of_certainty():
    scores, relevant = np.array([-2.0, -1, 1, 2]), np.array([False, False, True, True])
    for kind, fit in FITS.items():
        values = fit(scores, relevant)(scores)
        assert 0.01 < values[0] < 0.3 < 0.7 < values[3] < 0.99, kind


def test_scores_the_wrong_way_round_say_nothing():
    scores, relevant, _ = drawn(300)
    assert fit_platt(-scores, relevant).params["scale"] == (0,)
    assert fit_platt(-scores, relevant)(scores) == pytest.approx(relevant.mean(), abs=0.01)
    assert fit_temperature(-scores, relevant)(scores) == pytest.approx(0.5)
    assert len(set(fit_isotonic(-scores, relevant)(scores))) < 20


@pytest.mark.parametrize("score", [0.0, 0.1, -7.3])
def test_equal_scores_give_the_share_of_relevant_pairs(score):
    scores, relevant = np.full(10, score), np.arange(10) < 3
    target = (3 * 4 / 5 + 7 * 1 / 9) / 10
    assert fit_platt(scores, relevant).params["scale"] == (0,)
    assert fit_platt(scores, relevant)(scores) == pytest.approx(target)
    assert fit_isotonic(scores, relevant)(scores) == pytest.approx(0.3)
    assert np.isfinite(fit_temperature(scores, relevant)(scores)).all()


def test_the_best_kind_is_chosen_on_held_out_queries():
    scores, relevant, queries = drawn(4000, scale=1, bias=0)
    chosen = choose_calibration(scores, relevant, queries)
    assert chosen.calibration == FITS[chosen.calibration.kind](scores, relevant)
    assert min(chosen.log_loss, key=chosen.log_loss.get) == chosen.calibration.kind
    assert chosen.log_loss["platt"] == pytest.approx(log_loss(fit_platt(scores, relevant)(scores), relevant), abs=0.005)
    shifted = choose_calibration(scores + 3, relevant, queries)
    assert shifted.calibration.kind == "platt"
    assert shifted.log_loss["temperature"] > shifted.log_loss["platt"] + 0.05
    random = np.random.default_rng(1)
    steps = np.where(np.abs(scores) > 2, 0.9, 0.5) * (scores > 0) + 0.05
    odd = choose_calibration(np.exp(4 * scores), random.random(4000) < steps, queries)
    assert odd.calibration.kind == "isotonic"


def test_a_query_is_never_in_two_folds():
    """Scores name the query, and half of all queries are relevant throughout: what a fold leaks, isotonic would use."""
    queries = np.repeat(np.arange(40), 6)
    relevant = np.random.default_rng(0).permutation(40)[queries] < 20
    chosen = choose_calibration(queries.astype(float), relevant, queries)
    assert chosen.log_loss["isotonic"] > 0.6


def test_few_queries():
    scores, relevant, _ = drawn(40)
    alone = choose_calibration(scores, relevant, np.zeros(40, np.int64))
    assert alone.calibration == fit_platt(scores, relevant)
    assert alone.log_loss == {}
    two = choose_calibration(scores, relevant, np.arange(40) % 2 * 7)
    assert set(two.log_loss) == set(FITS)
    one_label = choose_calibration(scores, np.ones(40, bool), np.arange(40))
    assert all(math.isfinite(loss) for loss in one_label.log_loss.values())


def test_the_same_choice_every_time():
    scores, relevant, queries = drawn(200)
    assert choose_calibration(scores, relevant, queries) == choose_calibration(scores, relevant, queries)
    order = np.random.default_rng(0).permutation(200)
    moved = choose_calibration(scores[order], relevant[order], queries[order])
    assert moved.log_loss["platt"] == pytest.approx(choose_calibration(scores, relevant, queries).log_loss["platt"])


def test_measures_by_hand():
    probabilities, relevant = sample([(0.1, False), (0.3, True), (0.6, False), (1.0, True)])
    assert brier(probabilities, relevant) == pytest.approx((0.01 + 0.49 + 0.36 + 0) / 4)
    assert log_loss(probabilities, relevant) == pytest.approx(-(math.log(0.9) + math.log(0.3) + math.log(0.4)) / 4)
    assert log_loss(np.array([0.0]), np.array([True])) == pytest.approx(-math.log(1e-12))
    found = reliability(probabilities, relevant, bins=2)
    assert found.predicted.tolist() == pytest.approx([0.2, 0.8])
    assert found.observed.tolist() == [0.5, 0.5]
    assert found.counts.tolist() == [2, 2]
    assert expected_calibration_error(probabilities, relevant, bins=2) == pytest.approx(0.3)
    assert expected_calibration_error(probabilities, relevant, bins=1) == pytest.approx(0)
    uneven = expected_calibration_error(probabilities[:3], relevant[:3], bins=2)
    assert uneven == pytest.approx((2 * 0.3 + 0.6) / 3), "bins count by their pairs"


@settings(deadline=None, max_examples=25)
@given(
    pairs=st.lists(st.tuples(st.sampled_from([0.0, 0.2, 0.25, 0.7, 1.0]), st.booleans()), min_size=1),
    bins=st.integers(1, 12),
    seed=st.integers(0, 9),
)
def test_bins_hold_everything_once_and_ignore_order(pairs, bins, seed):
    probabilities, relevant = sample(pairs)
    found = reliability(probabilities, relevant, bins)
    assert found.counts.sum() == len(pairs)
    assert 1 <= len(found.counts) <= bins
    assert (found.counts @ found.predicted) == pytest.approx(probabilities.sum())
    assert (found.counts @ found.observed) == pytest.approx(relevant.sum())
    assert (np.diff(found.predicted) > 0).all()
    order = np.random.default_rng(seed).permutation(len(pairs))
    again = reliability(probabilities[order], relevant[order], bins)
    assert again.counts.tolist() == found.counts.tolist()
    assert again.observed.tolist() == pytest.approx(found.observed.tolist())


def test_what_cannot_be_fitted():
    scores, relevant = np.array([0.0, np.nan, 1, -np.inf]), np.array([True, False, True, False])
    for fit in (*FITS.values(), brier, log_loss, reliability, expected_calibration_error):
        with pytest.raises(DataError, match=r"2 of 4 values are not finite, the first is nan at place 1"):
            fit(scores, relevant)
        with pytest.raises(DataError, match="no labelled pair"):
            fit(np.zeros(0), np.zeros(0, bool))
        with pytest.raises(ValueError, match="one boolean for each value"):
            fit(np.zeros(3), np.zeros(3))
        with pytest.raises(ValueError, match="one boolean"):
            fit(np.zeros(3), np.zeros(4, bool))
    good, labels = np.zeros(4), np.arange(4) > 1
    with pytest.raises(ConfigError, match="bins 0"):
        reliability(good, labels, 0)
    with pytest.raises(ConfigError, match="folds 1"):
        choose_calibration(good, labels, np.arange(4), folds=1)
    with pytest.raises(ValueError, match="4 scores, but queries"):
        choose_calibration(good, labels, np.arange(3))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "unknown calibration None"),
        ({"kind": "plat", "params": {}}, "did you mean 'platt'"),
        ({"kind": ["platt"], "params": {}}, "unknown calibration"),
        ({"kind": "platt"}, "lacks numbers"),
        ({"kind": "platt", "params": {"scale": [1]}}, "lacks numbers"),
        ({"kind": "platt", "params": {"scale": 1, "bias": 0}}, "lacks numbers"),
        ({"kind": "platt", "params": {"scale": ["x"], "bias": [0]}}, "lacks numbers"),
        ({"kind": "platt", "params": {"scale": [-1], "bias": [0]}}, "no rising function"),
        ({"kind": "platt", "params": {"scale": [1, 2], "bias": [0]}}, "no rising function"),
        ({"kind": "temperature", "params": {"scale": [math.nan]}}, "no rising function"),
        ({"kind": "temperature", "params": {"scale": []}}, "no rising function"),
        ({"kind": "isotonic", "params": {"scores": [1, 1], "probabilities": [0, 1]}}, "no rising function"),
        ({"kind": "isotonic", "params": {"scores": [1, 2], "probabilities": [0.5, 0.4]}}, "no rising function"),
        ({"kind": "isotonic", "params": {"scores": [1, 2], "probabilities": [0.5]}}, "no rising function"),
        ({"kind": "isotonic", "params": {"scores": [1, 2], "probabilities": [0.5, 1.5]}}, "no rising function"),
    ],
)
def test_what_is_no_calibration(data, message):
    with pytest.raises(ArtifactError, match=message):
        Calibration.from_json(data)
