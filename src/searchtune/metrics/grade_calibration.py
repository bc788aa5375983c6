"""From a judge's distribution over grades to one that can be believed, and from that to a grade.

A judge is often trained on as many pairs of each grade, and then asked about pairs of which most are not relevant.
Vector scaling (Guo et al. 2017, arXiv:1706.04599) mends this with a handful of numbers fitted on labelled pairs: one
temperature for all log-probabilities and one shift for each grade but the lowest. A pair is relevant from a threshold
on the probability of the relevant grades on, the one at which Cohen's kappa with people was highest; among the grades
of that side the likeliest is taken.

A small judge often finds all passages of one query likelier than all of another for reasons of the query's own. Where
many passages of each query are judged together, `Centring` brings the queries to one level first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass
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
class Centring:
    """What is relevant is then told beside the query's other passages: a query's labels depend on all its pairs.

    The mean log-odds of relevance of each query's pairs are brought to `mean`, the less so the fewer pairs there are.
    """

    mean: float
    """Over queries, where it was fitted."""
    pull: float = 5.0
    """As if so many pairs of each query had been found at the mean."""

    def offsets(self, probabilities: FloatArray64, queries: IntArray, min_grade: int) -> FloatArray64:
        """What is to be added to the log-odds of each pair, 0 for a row of NaN. Shape: (pairs, grades), (pairs,)."""
        odds = log_odds(probabilities[:, min_grade:].sum(axis=1))
        read = np.isfinite(odds)
        found = np.zeros(len(odds))
        for query in np.unique(queries):
            own = (queries == query) & read
            count = float(own.sum())
            if count:
                found[own] = -count / (count + self.pull) * (odds[own].mean() - self.mean)
        return found


@dataclass(frozen=True)
class GradeCalibration:
    """softmax(scale x log p + shifts), and from which probability of relevance on a pair is relevant."""

    scale: float
    shifts: tuple[float, ...]
    """One for each grade, the lowest first, whose own is 0."""
    min_grade: int
    threshold: float = 0.5
    centring: Centring | None = None
    """Comes first, where all pairs of a query are known."""

    def offsets(self, probabilities: FloatArray64, queries: IntArray) -> FloatArray64:
        """What centring adds to the log-odds of each pair; `queries` numbers their queries. Shape: (pairs,)."""
        if self.centring is None:
            return np.zeros(len(probabilities))
        return self.centring.offsets(probabilities, queries, self.min_grade)

    def __call__(self, probabilities: FloatArray64, offsets: FloatArray64 | None = None) -> FloatArray64:
        """Calibrated distributions; rows of NaN stay. Without `offsets` nothing is centred.

        Shape: (pairs, grades) both; offsets (pairs,).

        Raises:
            DataError: another number of grades than the one it was fitted for.
        """
        if probabilities.shape[1] != len(self.shifts):
            raise DataError(
                f"probabilities of {probabilities.shape[1]} grades for a calibration of {len(self.shifts)}: fit it "
                "on judgments under the same rubric"
            )
        moved = probabilities if offsets is None else _moved(probabilities, offsets)
        return _softmax(np.asarray(self.scale * _logs(moved) + np.array(self.shifts), dtype=np.float64))

    def relevance(self, probabilities: FloatArray64, offsets: FloatArray64 | None = None) -> FloatArray64:
        """Calibrated probability of the relevant grades. Shape: (pairs, grades) -> (pairs,)."""
        return np.asarray(self(probabilities, offsets)[:, self.min_grade :].sum(axis=1), dtype=np.float64)

    def grades(self, probabilities: FloatArray64, offsets: FloatArray64 | None = None) -> IntArray:
        """The likeliest grade of the side that the threshold decides for; -1 for a row of NaN. Shape: (pairs,)."""
        calibrated = self(probabilities, offsets)
        unread = np.isnan(calibrated).any(axis=1)
        relevant = calibrated[:, self.min_grade :].sum(axis=1) >= self.threshold
        low = calibrated[:, : self.min_grade].argmax(axis=1)
        high = self.min_grade + calibrated[:, self.min_grade :].argmax(axis=1)
        return np.where(unread, -1, np.where(relevant, high, low)).astype(np.int64)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        found: dict[str, Any] = {
            "scale": self.scale,
            "shifts": list(self.shifts),
            "min_grade": self.min_grade,
            "threshold": self.threshold,
        }
        return found if self.centring is None else found | {"centring": asdict(self.centring)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GradeCalibration:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: a number is missing or none.
        """
        try:
            shifts = tuple(float(shift) for shift in data["shifts"])
            centred = data.get("centring")
            centring = None if centred is None else Centring(float(centred["mean"]), float(centred["pull"]))
            found = cls(float(data["scale"]), shifts, int(data["min_grade"]), float(data["threshold"]), centring)
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"no calibration of grades: {dict(data)!r} lacks or mistakes {error}") from error
        numbers = [found.scale, *shifts, found.threshold, *(astuple(found.centring) if found.centring else ())]
        if not np.isfinite(numbers).all() or not 1 <= found.min_grade < len(shifts):
            raise ArtifactError(f"calibration of grades {dict(data)!r}: numbers out of range; fit it again")
        return found


def plain_calibration(grades: int, min_grade: int) -> GradeCalibration:
    """The one that changes nothing: relevant where the relevant grades have more than half of the probability."""
    return GradeCalibration(1.0, (0.0,) * grades, min_grade)


def fit_grade_calibration(
    probabilities: FloatArray64, human: IntArray, min_grade: int, *, queries: IntArray | None = None
) -> GradeCalibration:
    """Fit on pairs that people graded; rows of NaN and grades below 0 are left out.

    With `queries`, numbers of the pairs' queries, these are brought to one level first (see `Centring`).

    Shape: (pairs, grades), (pairs,), queries (pairs,).

    Raises:
        DataError: no pair to fit on, a grade off the scale, or pairs that are all relevant or all not.
    """
    keep = (human >= 0) & ~np.isnan(probabilities).any(axis=1)
    centring = None
    if queries is not None and keep.any():
        centring = _fit_centring(probabilities[keep], queries[keep], min_grade)
        probabilities = _moved(probabilities, centring.offsets(probabilities, queries, min_grade))
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
    return GradeCalibration(fitted.scale, shifts, min_grade, chosen.threshold, centring)


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


def _fit_centring(probabilities: FloatArray64, queries: IntArray, min_grade: int) -> Centring:
    odds = log_odds(probabilities[:, min_grade:].sum(axis=1))
    return Centring(float(np.mean([odds[queries == query].mean() for query in np.unique(queries)])))


def _moved(probabilities: FloatArray64, offsets: FloatArray64) -> FloatArray64:
    """Distributions after `offsets` were added to the log-odds of every "this grade or a higher one"."""
    above = probabilities[:, ::-1].cumsum(axis=1)[:, ::-1][:, 1:]  # (pairs, grades - 1)
    moved = 1 / (1 + np.exp(-(log_odds(above) + offsets[:, None])))
    ones, zeros = np.ones((len(moved), 1)), np.zeros((len(moved), 1))
    found: FloatArray64 = np.hstack([ones, moved]) - np.hstack([moved, zeros])
    return np.where(offsets[:, None] == 0, probabilities, found)


def log_odds(shares: FloatArray64) -> FloatArray64:
    """Log p / (1 - p), finite for 0 and 1 too."""
    held = np.clip(shares, _SMALLEST, 1 - _SMALLEST)
    return np.asarray(np.log(held) - np.log1p(-held), dtype=np.float64)


def _logs(probabilities: FloatArray64) -> FloatArray64:
    logs: FloatArray64 = np.log(np.maximum(probabilities, _SMALLEST))
    return logs


def _softmax(logits: FloatArray64) -> FloatArray64:
    shares = np.exp(logits - logits.max(axis=1, keepdims=True, initial=-np.inf))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)
