"""When to abstain: from how likely a question is answerable to the decision, for the highest F1 of abstaining.

The positives of this F1 are the questions that shall be left unanswered. With calibrated probabilities the best rule is
a threshold (Lipton et al. 2014, arXiv:1402.1892), and the expected F1 of every threshold follows from the probabilities
alone: a steadier choice than the best one among a few labelled questions.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.errors import DataError
from searchtune.metrics.grade_calibration import GradeCalibration, fit_grade_calibration
from searchtune.types import FloatArray64

Mask = npt.NDArray[np.bool_]


def fit_abstention(probabilities: FloatArray64, answerable: Mask) -> GradeCalibration:
    """Calibrate the distribution over no and yes, and answer from the threshold on that promises the highest F1.

    Shape: (questions, 2), the share of no first, rows of NaN are left out; (questions,).

    Raises:
        DataError: no question to fit on, or questions that are all answerable or all not.
    """
    kept = ~np.isnan(probabilities).any(axis=1)
    if answerable[kept].all() or not answerable[kept].any():
        kind = "answerable" if kept.any() and answerable[kept].all() else "not answerable"
        raise DataError(
            f"all {int(kept.sum())} questions are {kind}: abstaining is fitted on both kinds; give questions of both, "
            "or leave gold passages out of some (no_gold_share)"
        )
    fitted = fit_grade_calibration(probabilities, answerable.astype(np.int64), 1)
    return replace(fitted, threshold=expected_f1_threshold(fitted.relevance(probabilities[kept])))


def expected_f1_threshold(answerable: FloatArray64) -> float:
    """From which probability of being answerable on questions are answered, for the highest expected F1 of abstaining.

    Abstaining on the k least likely ones hits as many of the unanswerable ones as their probabilities sum to, of as
    many as all sum to. Ties are never parted. Shape: (questions,), calibrated.
    """
    rising = np.sort(answerable)
    hits, total = np.cumsum(1 - rising), float((1 - rising).sum())
    expected = 2 * hits / (np.arange(1, len(rising) + 1) + total)
    ends = np.flatnonzero(np.append(rising[1:] > rising[:-1], True))
    best = int(ends[np.argmax(expected[ends])])
    after = rising[best + 1] if best + 1 < len(rising) else 1.0
    return float((rising[best] + after) / 2)


def abstention_f1(abstained: Mask, answerable: Mask) -> float:
    """Harmonic mean of precision and recall of abstaining where a question is not answerable; 0 without such.

    Shape: (questions,) both.
    """
    both = int((abstained & ~answerable).sum())
    return 2 * both / max(1, int(abstained.sum()) + int((~answerable).sum()))


def answerable_auc(chances: FloatArray64, answerable: Mask) -> float:
    """The share of pairs of an answerable and another question that are in order, ties half; NaN without such pairs.

    Shape: (questions,) both.
    """
    high, low = chances[answerable], chances[~answerable]
    if not len(high) or not len(low):
        return float("nan")
    above: Any = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
    return float(above)
