"""Vector scaling of grades, and the threshold at which a pair counts as relevant."""

import numpy as np
import pytest

from searchtune.errors import ArtifactError, DataError
from searchtune.metrics.grade_calibration import (
    Centring,
    GradeCalibration,
    best_threshold,
    fit_grade_calibration,
    plain_calibration,
)


def drawn(n, shift, seed=0):
    """Grades drawn from softmax(logits + shift), and softmax(logits): what a judge with a wrong prior says."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(n, 4)) * 2
    true = np.exp(logits + shift)
    true /= true.sum(1, keepdims=True)
    said = np.exp(logits)
    said /= said.sum(1, keepdims=True)
    grades = np.array([rng.choice(4, p=row) for row in true])
    return said, true, grades


def test_a_wrong_prior_is_mended():
    said, true, grades = drawn(6000, np.array([2.0, 0.0, -1.0, -1.0]))
    found = fit_grade_calibration(said, grades, 2)
    assert np.abs(found(said) - true).mean() < 0.02
    assert np.abs(said - true).mean() > 0.1
    assert found.scale == pytest.approx(1, abs=0.1)
    assert found.shifts[0] == 0
    np.testing.assert_allclose(found.shifts[1:], [-2, -3, -3], atol=0.25)


def test_plain_changes_nothing():
    said, _, _ = drawn(50, np.zeros(4))
    np.testing.assert_allclose(plain_calibration(4, 2)(said), said, atol=1e-8)


def test_grades_come_from_the_side_that_the_threshold_names():
    rows = np.array([[0.5, 0.2, 0.1, 0.2], [0.1, 0.5, 0.3, 0.1], [np.nan] * 4])
    assert GradeCalibration(1.0, (0.0,) * 4, 2, threshold=0.25).grades(rows).tolist() == [3, 2, -1]
    assert GradeCalibration(1.0, (0.0,) * 4, 2, threshold=0.45).grades(rows).tolist() == [0, 1, -1]


def test_threshold_against_trying_all():
    rng = np.random.default_rng(1)
    values = np.round(rng.random(60), 2)
    truth = rng.random(60) < values

    def kappa(cut):
        said = values >= cut
        agree, chance = np.mean(said == truth), np.mean(said) * np.mean(truth) + np.mean(~said) * np.mean(~truth)
        return (agree - chance) / (1 - chance)

    found = best_threshold(values, truth)
    assert found.kappa == pytest.approx(kappa(found.threshold))
    assert found.kappa >= max(kappa(cut) for cut in np.unique(values)) - 0.005


def test_what_cannot_be_fitted():
    said, _, grades = drawn(20, np.zeros(4))
    with pytest.raises(DataError, match="nothing to calibrate on"):
        fit_grade_calibration(said, np.full(20, -1), 2)
    with pytest.raises(DataError, match="are not relevant"):
        fit_grade_calibration(said, np.zeros(20, dtype=np.int64), 2)
    with pytest.raises(DataError, match="rubric ends at 3"):
        fit_grade_calibration(said, grades + 1, 2)
    with pytest.raises(DataError, match="3 grades for a calibration of 4"):
        plain_calibration(4, 2)(said[:, :3])


def test_unreadable_rows_play_no_part():
    said, _, grades = drawn(300, np.array([1.0, 0, 0, 0]))
    with_gaps = np.vstack([said, np.full((5, 4), np.nan)])
    assert fit_grade_calibration(with_gaps, np.append(grades, [3] * 5), 2) == fit_grade_calibration(said, grades, 2)


def levels(seed=1):
    """Pairs of 30 queries, each with a level of its own that says nothing about relevance."""
    rng = np.random.default_rng(seed)
    queries = np.repeat(np.arange(30), 20)
    truth = rng.random(600) < 0.3
    odds = np.where(truth, 1.0, -1.0) + rng.normal(size=600) * 0.7 + rng.normal(size=30)[queries] * 3
    chance = 1 / (1 + np.exp(-odds))
    return np.stack([1 - chance, chance], axis=1), truth.astype(np.int64), queries


def test_centring_takes_the_queries_own_levels_away():
    said, truth, queries = levels()
    plain = fit_grade_calibration(said, truth, 1)
    centred = fit_grade_calibration(said, truth, 1, queries=queries)
    offsets = centred.offsets(said, queries)
    found = centred.relevance(said, offsets)
    assert best_threshold(found, truth == 1).kappa > best_threshold(plain.relevance(said), truth == 1).kappa + 0.3
    assert ((centred.grades(said, offsets) == truth).mean()) > ((plain.grades(said) == truth).mean()) + 0.1
    odds = np.log(said[:, 1] / said[:, 0])
    spread = [np.std([values[queries == one].mean() for one in range(30)]) for values in (odds, odds + offsets)]
    assert spread[1] < spread[0] / 4


def test_centring_keeps_the_order_within_a_query_and_distributions():
    said, _, _ = drawn(40, np.zeros(4))
    queries = np.repeat([3, 7], 20)
    moved = GradeCalibration(1.0, (0.0,) * 4, 2, centring=Centring(0.5))
    rows = moved(said, moved.offsets(said, queries))
    assert (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1)
    for query in (3, 7):
        own = queries == query
        before, after = said[own][:, 2:].sum(axis=1), rows[own][:, 2:].sum(axis=1)
        assert np.argsort(before, kind="stable").tolist() == np.argsort(after, kind="stable").tolist()


def test_one_pair_alone_hardly_moves_and_an_unread_one_not_at_all():
    rows = np.array([[0.9, 0.1], [np.nan, np.nan], [0.5, 0.5]])
    centring = Centring(0.0, pull=5.0)
    offsets = centring.offsets(rows, np.array([0, 0, 1]), 1)
    assert offsets == pytest.approx([np.log(9) / 6, 0, 0])
    fitted = GradeCalibration(1.0, (0.0, 0.0), 1, centring=centring)
    assert np.isnan(fitted(rows, offsets)[1]).all() and fitted.grades(rows, offsets).tolist() == [0, -1, 1]
    assert plain_calibration(2, 1).offsets(rows, np.array([0, 0, 1])).tolist() == [0, 0, 0]


def test_centring_survives_the_round_trip():
    said, truth, queries = levels()
    found = fit_grade_calibration(said, truth, 1, queries=queries)
    assert GradeCalibration.from_json(found.to_json()) == found and "centring" in found.to_json()
    assert "centring" not in plain_calibration(2, 1).to_json()
    with pytest.raises(ArtifactError, match="numbers out of range"):
        GradeCalibration.from_json(found.to_json() | {"centring": {"mean": float("nan"), "pull": 5.0}})
    with pytest.raises(ArtifactError, match="lacks or mistakes"):
        GradeCalibration.from_json(found.to_json() | {"centring": {"mean": 0.0}})


def test_round_trip_and_damage():
    found = GradeCalibration(1.2, (0.0, -0.5, -1.0, 0.25), 2, 0.4)
    assert GradeCalibration.from_json(found.to_json()) == found
    with pytest.raises(ArtifactError, match="threshold"):
        GradeCalibration.from_json({"scale": 1, "shifts": [0, 1], "min_grade": 1})
    with pytest.raises(ArtifactError, match="out of range"):
        GradeCalibration.from_json({**found.to_json(), "min_grade": 4})
