"""The judging stage: a language model that grades the passages a search found."""

from __future__ import annotations

from collections.abc import Sequence

from searchtune.metrics.grade_calibration import GradeCalibration, plain_calibration
from searchtune.models.backends import Backend
from searchtune.pipeline.stages import Graded
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import Style, judge_conversation
from searchtune.prompts.rubrics import Rubric
from searchtune.storage.fingerprint import sha256_json


class LlmJudge:
    """Any backend as a judge under a rubric."""

    def __init__(
        self, backend: Backend, rubric: Rubric, style: Style, *, calibration: GradeCalibration | None = None
    ) -> None:
        self.backend, self.rubric, self.style = backend, rubric, style
        self.calibration = calibration or plain_calibration(len(rubric.labels), rubric.min_grade)
        self.nonce = draw_nonce(sha256_json([dict(backend.identity), rubric.fields()]))

    def judge(self, queries: Sequence[str], passages: Sequence[str]) -> list[Graded]:
        """The calibrated grade of each pair; both lists are parallel."""
        asked = [
            judge_conversation(query, passage, self.rubric, self.nonce, style=self.style)
            for query, passage in zip(queries, passages, strict=True)
        ]
        if not asked:
            return []
        readings = self.backend.read_labels(asked, self.rubric.labels)
        grades = self.calibration.grades(readings.probabilities).tolist()
        shares = self.calibration(readings.probabilities).tolist()
        return [
            Graded(None, None, reason or "no grade could be read") if grade < 0 else Graded(grade, tuple(row))
            for grade, row, reason in zip(grades, shares, readings.reasons, strict=True)
        ]
