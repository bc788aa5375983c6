"""When to abstain: from what is known of a question to the decision, for the highest F1 of abstaining.

What is known is how likely a model finds yes rather than no, as log-odds, and, if wanted, other numbers such as how far
the passages cover the question's words; a logistic regression makes one likelihood of them. The positives of the F1 are
the questions that shall be left unanswered. With calibrated likelihoods the best rule is a threshold (Lipton et al.
2014, arXiv:1402.1892), and the expected F1 of every threshold follows from the likelihoods alone: a steadier choice
than the best one among a few labelled questions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.optimize import minimize

from searchtune.errors import ArtifactError, DataError
from searchtune.types import FloatArray64

Mask = npt.NDArray[np.bool_]
_SMALLEST = 1e-9
"""No share counts as smaller when its logarithm is taken."""
_PRIOR = 1.0
"""Strength of the pull of a slope to its usual value, for a number scaled to a deviation of 1."""


@dataclass(frozen=True)
class AbstentionRule:
    """Answer where the likelihood 1 / (1 + exp(-s)) is the threshold or more.

    s = bias + reading x log-odds of yes + sum of others x further numbers.
    """

    reading: float = 1.0
    others: tuple[float, ...] = ()
    """Slopes of the further numbers; empty where none are looked at."""
    bias: float = 0.0
    threshold: float = 0.5

    def likelihood(self, shares: FloatArray64, others: FloatArray64) -> FloatArray64:
        """How likely each question is answerable; NaN where its shares are.

        Shape: (questions, 2), the share of no first; (questions, further numbers); (questions,).

        Raises:
            DataError: another number of further numbers than the rule was fitted on.
        """
        if self.others and others.shape[1] != len(self.others):
            raise DataError(f"{others.shape[1]} further numbers for a rule of {len(self.others)}: fit the rule again")
        score = self.bias + self.reading * log_odds(shares)
        if self.others:
            score = score + others @ np.array(self.others)
        return _logistic(np.asarray(score, dtype=np.float64))

    def answers(self, shares: FloatArray64, others: FloatArray64) -> Mask:
        """Whether each question is answered; False where its shares are NaN. Shape: as `likelihood`."""
        return np.asarray(self.likelihood(shares, others) >= self.threshold, dtype=np.bool_)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"reading": self.reading, "others": list(self.others), "bias": self.bias, "threshold": self.threshold}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> AbstentionRule:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: a number is missing or none.
        """
        try:
            others = tuple(float(slope) for slope in data["others"])
            found = cls(float(data["reading"]), others, float(data["bias"]), float(data["threshold"]))
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"no rule of abstention: {dict(data)!r} lacks or mistakes {error}") from error
        if not np.isfinite([found.reading, *others, found.bias, found.threshold]).all():
            raise ArtifactError(f"rule of abstention {dict(data)!r}: numbers out of range; fit it again")
        return found


DEFAULT_RULE = AbstentionRule()
"""Answers what is rather a yes than a no."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """Labelled questions. Shape: others (questions, further numbers), answerable (questions,)."""

    others: FloatArray64
    answerable: Mask


def fit_abstention(shares: FloatArray64, dev: Evidence, train: Evidence | None = None) -> AbstentionRule:
    """The rule for the readings `shares` of the questions of `dev`; rows of NaN are left out.

    With `train`, whose readings say nothing since the model has seen them, the further numbers are first made one
    likelihood on the questions of `train`; dev then weighs that against the reading, from where it counts in full and
    the reading not at all. Shape: shares (dev questions, 2).

    Raises:
        DataError: no question to fit on, or questions that are all answerable or all not.
    """
    kept = ~np.isnan(shares).any(axis=1)
    check_both_kinds(dev.answerable[kept])
    odds, known = log_odds(shares[kept]), dev.answerable[kept]
    if train is None:
        slopes, bias = _fit(odds[:, None], known, np.ones(1))
        fitted = AbstentionRule(float(slopes[0]), (), bias)
    else:
        check_both_kinds(train.answerable)
        inner, offset = _fit(train.others, train.answerable, np.zeros(train.others.shape[1]))
        both = np.stack([odds, dev.others[kept] @ inner + offset], axis=1)
        slopes, bias = _fit(both, known, np.array([0.0, 1.0]))
        others = tuple(float(slope) for slope in slopes[1] * inner)
        fitted = AbstentionRule(float(slopes[0]), others, bias + float(slopes[1]) * offset)
    return replace(fitted, threshold=expected_f1_threshold(fitted.likelihood(shares[kept], dev.others[kept])))


def check_both_kinds(answerable: Mask, what: str = "questions") -> None:
    """Raise a `DataError` where all questions are answerable, or none is."""
    if answerable.all() or not answerable.any():
        kind = "answerable" if len(answerable) and answerable.all() else "not answerable"
        raise DataError(
            f"all {len(answerable):,} {what} are {kind}: abstaining is fitted on both kinds; give questions of both, "
            "or leave gold passages out of some (no_gold_share)"
        )


def log_odds(shares: FloatArray64) -> FloatArray64:
    """log(yes / no). Shape: (questions, 2), the share of no first; (questions,)."""
    logs = np.log(np.maximum(shares, _SMALLEST))
    return np.asarray(logs[:, 1] - logs[:, 0], dtype=np.float64)


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


def _fit(numbers: FloatArray64, truth: Mask, usual: FloatArray64) -> tuple[FloatArray64, float]:
    """Slopes and bias of a logistic regression; a normal prior on standardised numbers pulls slopes to the usual ones.

    Shape: (questions, numbers), (questions,), (numbers,); (numbers,).
    """
    centre, spread = numbers.mean(axis=0), numbers.std(axis=0)
    spread = np.where(spread > 0, spread, 1.0)
    scaled = (numbers - centre) / spread
    sign = np.where(truth, 1.0, -1.0)

    def loss(parameters: FloatArray64) -> tuple[float, FloatArray64]:
        margin = sign * (scaled @ parameters[1:] + parameters[0])
        pull = -sign * _logistic(-margin)  # (questions,)
        away = parameters[1:] - usual * spread
        value = float(np.logaddexp(0, -margin).sum() + _PRIOR / 2 * (away**2).sum())
        return value, np.concatenate(([pull.sum()], scaled.T @ pull + _PRIOR * away))

    found = minimize(loss, np.zeros(numbers.shape[1] + 1), jac=True, method="L-BFGS-B").x
    slopes = np.asarray(found[1:] / spread, dtype=np.float64)
    return slopes, float(found[0] - slopes @ centre)


def _logistic(scores: FloatArray64) -> FloatArray64:
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-scores)), dtype=np.float64)
