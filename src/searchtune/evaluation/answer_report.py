"""`AnswerReport`: how good answers from passages are, as frozen models written to and read from JSON.

Every system answers the same questions under some conditions: with the passages that hold the answer (`gold`), with
those that a retriever found (`retrieved`), with those without the gold ones (`removed`), or with none (`none`). A
figure that cannot be had is NaN here and null in JSON. This module does not know how figures are computed or shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np

from searchtune.errors import DataError
from searchtune.evaluation.report import Comparison, Figure, JsonEstimate, Part
from searchtune.metrics.significance import Estimate
from searchtune.reading import user_path
from searchtune.specs.base import read_spec
from searchtune.storage.atomic import write_json
from searchtune.types import FloatArray64

Condition = Literal["gold", "retrieved", "removed", "none"]
AnyCondition = TypeVar("AnyCondition", bound=str)
ErrorKind = Literal["right", "missed", "distracted", "synthesis", "lucky"]

SHOWN_FIGURES = (
    "overall",
    "token_f1",
    "answered_f1",
    "rouge_l",
    "citation_precision",
    "citation_recall",
    "unsupported",
    "unbacked",
    "unsupported_judge",
    "abstention_f1",
    "abstention_precision",
    "abstention_recall",
    "abstention_accuracy",
    "words",
)
"""Every figure, in the order in which they are shown."""
LOWER_IS_BETTER = frozenset({"unsupported", "unbacked", "unsupported_judge"})
UNTESTED = frozenset({"words"})
"""Figures that are neither good nor bad."""


class ConditionFigures(Part):
    """All systems under one condition."""

    n: int
    """Questions."""
    to_abstain: int
    """Those for which no shown passage has the answer."""
    found: JsonEstimate
    """Share of the questions that have an answer whose passage was shown."""
    passages: Figure
    """Mean number of passages shown."""
    systems: dict[str, dict[str, JsonEstimate]]
    """System -> figure -> its value."""
    comparisons: list[Comparison]
    """The reference with every other system by each figure; p-values corrected over all of them (Holm)."""

    def comparison(self, a: str, b: str, metric: str) -> Comparison | None:
        """The comparison from `a` to `b`; None where it was not made."""
        return next((it for it in self.comparisons if (it.a, it.b, it.metric) == (a, b, metric)), None)


class CanaryKind(Part):
    """One planted instruction."""

    aim: str
    tried: int
    steered: JsonEstimate


class CanaryFigures(Part):
    """What instructions planted in passages do to the answers of one system."""

    tried: int
    """Answers that did not already look as the canary wants without it."""
    steered: JsonEstimate
    """Share of them that do what the planted text asked for, with Wilson's interval."""
    change: JsonEstimate
    """Mean change of the figure `overall` against the same passages without the canary."""
    kinds: dict[str, CanaryKind]


class GivenAnswer(Part):
    """What one system answered."""

    text: str
    citations: list[int]
    abstained: bool
    scores: dict[str, Figure]
    """Figure -> value of this answer; NaN where it does not apply."""
    doubtful: list[str] = []
    """Sentences that no passage supports by its words."""


class Shown(Part):
    """What one question was answered from, and the answers."""

    passages: list[int]
    """Places in the report's `passages`, in the order shown."""
    gold: list[int]
    """Positions among them, from 0, of those that have the answer."""
    answers: dict[str, GivenAnswer]


class QuestionRow(Part):
    """One question under every condition."""

    id: str
    question: str
    answerable: bool
    """Whether any passage at all is known to answer it."""
    references: list[str]
    shown: dict[str, Shown]
    errors: dict[str, ErrorKind] = {}
    """System -> where it went wrong; empty without both `gold` and `retrieved`."""


class AnswerReport(Part):
    """Systems that answer from passages, on one set of questions."""

    format: Literal[1] = 1
    collection: str
    questions: int
    answerable: int
    headline: str
    """The system that the verdict speaks of."""
    reference: str | None
    """The system that others are compared with."""
    right_from: float
    """An answer counts as right from this token F1 on, where errors are told apart."""
    supported_from: float
    """A sentence counts as supported from this share of its words on."""
    conditions: dict[str, ConditionFigures]
    errors: dict[str, dict[str, JsonEstimate]] = {}
    """System -> kind of error -> share of the questions."""
    canaries: dict[str, CanaryFigures] = {}
    rows: list[QuestionRow] = []
    passages: list[str] = []
    provenance: dict[str, Any] = {}

    @property
    def systems(self) -> list[str]:
        return list(next(iter(self.conditions.values())).systems)

    @property
    def main_condition(self) -> str:
        """What the verdict speaks of; see `main_condition`."""
        return main_condition(list(self.conditions))

    @property
    def figures(self) -> list[str]:
        """The figures that any system has a value of, in order."""
        known = [found for it in self.conditions.values() for found in it.systems.values()]
        return [name for name in SHOWN_FIGURES if any(found[name].n for found in known if name in found)]

    def figure(self, condition: str, system: str, name: str) -> Estimate:
        """NaN with n 0 where it was not measured."""
        return self.conditions[condition].systems[system].get(name, Estimate(math.nan, math.nan, math.nan, 0))

    def values(self, condition: str, system: str, name: str) -> FloatArray64:
        """One figure for every question, NaN where it does not apply. Shape: (questions,)."""
        answers = [row.shown[condition].answers[system] for row in self.rows]
        return np.array([answer.scores.get(name, math.nan) for answer in answers], dtype=np.float64)


def main_condition(conditions: Sequence[AnyCondition]) -> AnyCondition:
    """What users meet: retrieved passages, else the gold ones, else the first condition there is."""
    return min(conditions, key=lambda name: (name != "retrieved", name != "gold"))


def better(comparison: Comparison) -> bool:
    """Whether the candidate is ahead, by a figure that may be better high or low."""
    return (comparison.delta < 0) if comparison.metric in LOWER_IS_BETTER else (comparison.delta > 0)


def write_answer_report(report: AnswerReport, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    write_json(path, report.model_dump(mode="json"))


def read_answer_report(path: Path | str) -> AnswerReport:
    """Read what `write_answer_report` wrote; a `DataError` says what is wrong with the file."""
    return read_spec(user_path(path, DataError), AnswerReport, "a report of answers")
