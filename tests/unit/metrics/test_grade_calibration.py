"""Vector scaling of grades, and the threshold at which a pair counts as relevant."""

import numpy as np
import pytest

from searchtune.errors import ArtifactError, DataError
from searchtune.metrics.grade_calibration import (
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


def test_round_trip_and_damage():
    found = GradeCalibration(1.2, (0.0, -0.5, -1.0, 0.25), 2, 0.4)
    assert GradeCalibration.from_json(found.to_json()) == found
    with pytest.raises(ArtifactError, match="threshold"):
        GradeCalibration.from_json({"scale": 1, "shifts": [0, 1], "min_grade": 1})
    with pytest.raises(ArtifactError, match="out of range"):
        GradeCalibration.from_json({**found.to_json(), "min_grade": 4})
