"""Fitting a judge's calibration on pairs that people graded too."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from searchtune.data.judgments import with_grades
from searchtune.errors import ArtifactError, ConfigError
from searchtune.metrics.calibration import expected_calibration_error
from searchtune.metrics.grade_calibration import GradeCalibration, fit_grade_calibration
from searchtune.reading import read_json_object, shown, user_path
from searchtune.storage.atomic import write_json
from searchtune.types import Judgment
from searchtune.workflows.judge_job import Job

_TWO = 2


@dataclass(frozen=True)
class Fit:
    """A calibration, and what it changes on the pairs that it was fitted on."""

    calibration: GradeCalibration
    pairs: int
    error_before: float
    """Expected calibration error of the probability of relevance (10 bins)."""
    error_after: float


def calibrate(
    job: Job,
    out: Path | str,
    *,
    human: Sequence[Judgment] = (),
    human_from: int | None = None,
    centre: bool = False,
) -> Fit:
    """Fit on the pairs of a job that have a grade of a person, and write the calibration to `out`.

    `human_from` is the grade from which on people call a pair relevant, where that is not the judge's own: a judge of
    two grades learns from people's four. `centre` brings queries to one level first (see `Centring`).

    Raises:
        ConfigError: people have more grades than the judge, and `human_from` is missing.
        DataError: too little to fit on (see `fit_grade_calibration`), or grades of pairs that the job does not have.
    """
    pairs = with_grades(job.pairs, human) if human else job.pairs
    min_grade = job.calibration.min_grade
    graded = pairs.grades
    if len(job.calibration.shifts) == _TWO and human_from is not None:
        graded = np.where(graded < 0, graded, graded >= human_from)
    elif len(job.calibration.shifts) == _TWO and graded.max() >= _TWO:
        raise ConfigError(
            f"{job.folder}: people's grades go up to {int(graded.max())} and the judge has two; say from which grade "
            "on people call a pair relevant (--human-from)"
        )
    queries = pairs.queries if centre else None
    fitted = fit_grade_calibration(job.probabilities, graded, min_grade, queries=queries)
    keep = (graded >= 0) & ~np.isnan(job.probabilities).any(axis=1)
    relevant = graded[keep] >= min_grade
    before = job.probabilities[keep][:, min_grade:].sum(axis=1).clip(0, 1)
    after = fitted.relevance(job.probabilities, fitted.offsets(job.probabilities, pairs.queries))[keep]
    write_json(user_path(out), fitted.to_json())
    return Fit(
        fitted,
        int(keep.sum()),
        expected_calibration_error(before, relevant),
        expected_calibration_error(after, relevant),
    )


def read_calibration(file: Path) -> GradeCalibration:
    """What `calibrate` wrote.

    Raises:
        ConfigError: the file cannot be read.
        ArtifactError: it is no calibration of grades.
    """
    try:
        return GradeCalibration.from_json(read_json_object(user_path(file), ConfigError))
    except ArtifactError as error:
        raise ArtifactError(f"{shown(file)}: {error}; name a file that `judge calibrate` wrote") from error
