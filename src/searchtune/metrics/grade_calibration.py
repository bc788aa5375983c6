"""From a judge's distribution over grades to one that can be believed, and from that to a grade.

A judge is often trained on as many pairs of each grade, and then asked about pairs of which most are not relevant.
Vector scaling (Guo et al. 2017, arXiv:1706.04599) mends this with a handful of numbers fitted on labelled pairs: one
temperature for all log-probabilities and one shift for each grade but the lowest. A pair is relevant from a threshold
on the probability of the relevant grades on, the one at which Cohen's kappa with people was highest; among the grades
of that side the likeliest is taken.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize

from searchtune.errors import ArtifactError, DataError
from searchtune.types import FloatArray64, IntArray

_SMALLEST = 1e-9
"""No probability counts as smaller when its logarithm is taken."""
_PRIOR = 1.0
"""Strength of the pull towards no change, in pairs: it keeps a fit finite where a grade is rare or absent."""
_NEARLY_BEST = 0.005
"""Thresholds whose kappa is within this of the best are alike; the middle one is taken, as the steadiest."""


@dataclass(frozen=True)
class GradeCalibration:
    """softmax(scale x log p + shifts), and from which probability of relevance on a pair is relevant."""

    scale: float
    shifts: tuple[float, ...]
    """One for each grade, the lowest first, whose own is 0."""
    min_grade: int
    threshold: float = 0.5

    def __call__(self, probabilities: FloatArray64) -> FloatArray64:
        """Calibrated distributions; rows of NaN stay. Shape: (pairs, grades) both.

        Raises:
            DataError: another number of grades than the one it was fitted for.
        """
        if probabilities.shape[1] != len(self.shifts):
            raise DataError(
                f"probabilities of {probabilities.shape[1]} grades for a calibration of {len(self.shifts)}: fit it "
                "on judgments under the same rubric"
            )
        return _softmax(np.asarray(self.scale * _logs(probabilities) + np.array(self.shifts), dtype=np.float64))

    def relevance(self, probabilities: FloatArray64) -> FloatArray64:
        """Calibrated probability of the relevant grades. Shape: (pairs, grades) -> (pairs,)."""
        return np.asarray(self(probabilities)[:, self.min_grade :].sum(axis=1), dtype=np.float64)

    def grades(self, probabilities: FloatArray64) -> IntArray:
        """The likeliest grade of the side that the threshold decides for; -1 for a row of NaN. Shape: (pairs,)."""
        calibrated = self(probabilities)
        unread = np.isnan(calibrated).any(axis=1)
        relevant = calibrated[:, self.min_grade :].sum(axis=1) >= self.threshold
        low = calibrated[:, : self.min_grade].argmax(axis=1)
        high = self.min_grade + calibrated[:, self.min_grade :].argmax(axis=1)
        return np.where(unread, -1, np.where(relevant, high, low)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {
            "scale": self.scale,
            "shifts": list(self.shifts),
            "min_grade": self.min_grade,
            "threshold": self.threshold,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GradeCalibration:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: a number is missing or none.
        """
        try:
            shifts = tuple(float(shift) for shift in data["shifts"])
            found = cls(float(data["scale"]), shifts, int(data["min_grade"]), float(data["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"no calibration of grades: {dict(data)!r} lacks or mistakes {error}") from error
        if not np.isfinite([found.scale, *shifts, found.threshold]).all() or not 1 <= found.min_grade < len(shifts):
            raise ArtifactError(f"calibration of grades {dict(data)!r}: numbers out of range; fit it again")
        return found


def plain_calibration(grades: int, min_grade: int) -> GradeCalibration:
    """The one that changes nothing: relevant where the relevant grades have more than half of the probability."""
    return GradeCalibration(1.0, (0.0,) * grades, min_grade)


def fit_grade_calibration(probabilities: FloatArray64, human: IntArray, min_grade: int) -> GradeCalibration:
    """Fit on pairs that people graded; rows of NaN and grades below 0 are left out.

    Shape: (pairs, grades), (pairs,).

    Raises:
        DataError: no pair to fit on, a grade off the scale, or pairs that are all relevant or all not.
    """
    keep = (human >= 0) & ~np.isnan(probabilities).any(axis=1)
    logs, truth = _logs(probabilities[keep]), human[keep]
    grades = probabilities.shape[1]
    if not len(truth):
        raise DataError("no pair with both a human grade and a readable judgment: there is nothing to calibrate on")
    if truth.max() >= grades:
        raise DataError(f"human grade {int(truth.max())}, but the judge's rubric ends at {grades - 1}")
    relevant = truth >= min_grade
    if relevant.all() or not relevant.any():
        raise DataError(
            f"all {len(truth):,} pairs are {'relevant' if relevant.all() else 'not relevant'}: calibrate on pairs of "
            "both kinds, in the proportions that the judge will meet"
        )
    rows = np.arange(len(truth))

    def loss(parameters: FloatArray64) -> tuple[float, FloatArray64]:
        shares = _softmax(parameters[0] * logs + np.concatenate(([0.0], parameters[1:])))  # (pairs, grades)
        off = shares.copy()
        off[rows, truth] -= 1
        pull = parameters - np.concatenate(([1.0], np.zeros(grades - 1)))
        value = -np.log(np.maximum(shares[rows, truth], _SMALLEST)).sum() + _PRIOR / 2 * (pull**2).sum()
        return float(value), np.concatenate(([(off * logs).sum()], off[:, 1:].sum(axis=0))) + _PRIOR * pull

    start = np.concatenate(([1.0], np.zeros(grades - 1)))
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=[(0.0, None)] + [(None, None)] * (grades - 1))
    shifts = (0.0, *(float(shift) for shift in found.x[1:]))
    fitted = GradeCalibration(float(found.x[0]), shifts, min_grade)
    chosen = best_threshold(fitted.relevance(probabilities[keep]), relevant)
    return GradeCalibration(fitted.scale, shifts, min_grade, chosen.threshold)


class Threshold(NamedTuple):
    """From which value on a pair is called relevant, and Cohen's kappa with people there."""

    threshold: float
    kappa: float


def best_threshold(values: FloatArray64, relevant: np.ndarray[Any, np.dtype[np.bool_]]) -> Threshold:
    """The threshold with the highest kappa, the middle one of those that are nearly as good. Shape: (pairs,) each."""
    order = np.argsort(-values, kind="stable")
    ranked, truth = values[order], relevant[order]
    ends = np.flatnonzero(np.append(ranked[1:] < ranked[:-1], True))  # last of each value: a threshold parts no ties
    called = ends + 1.0
    hits = np.cumsum(truth)[ends].astype(np.float64)
    total, positives = float(len(truth)), float(truth.sum())
    agree = (hits + (total - called) - (positives - hits)) / total
    chance = (called * positives + (total - called) * (total - positives)) / total**2
    kappas = np.where(chance < 1, (agree - chance) / np.where(chance < 1, 1 - chance, 1), 0.0)
    good = np.flatnonzero(kappas >= kappas.max() - _NEARLY_BEST)
    place = int(good[len(good) // 2])
    after = ranked[ends[place] + 1] if ends[place] + 1 < len(ranked) else ranked[ends[place]]
    return Threshold(float((ranked[ends[place]] + after) / 2), float(kappas[place]))


def _logs(probabilities: FloatArray64) -> FloatArray64:
    logs: FloatArray64 = np.log(np.maximum(probabilities, _SMALLEST))
    return logs


def _softmax(logits: FloatArray64) -> FloatArray64:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)
