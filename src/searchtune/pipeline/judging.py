"""The judging stage: a language model that grades the passages a search found."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from searchtune.errors import ConfigError
from searchtune.metrics.grade_calibration import GradeCalibration, plain_calibration
from searchtune.metrics.query_likelihood import grade_shares, told_shares
from searchtune.models.backends import Backend, LabelReadings, LikelihoodBackend
from searchtune.pipeline.stages import Graded
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import JudgePrompt, Style, judge_conversations
from searchtune.prompts.query_likelihood import bare_example, query_example
from searchtune.prompts.rubrics import Rubric
from searchtune.storage.fingerprint import sha256_json
from searchtune.types import FloatArray64, IntArray


def read_grades(
    backend: Backend, prompt: JudgePrompt, queries: Sequence[str], passages: Sequence[str]
) -> LabelReadings:
    """How likely each grade of the rubric is for each pair; both lists are parallel.

    Read from the labels' logits, or in the style `likelihood` from what each passage makes of its query's likelihood.

    Raises:
        ConfigError: the style `likelihood`, and a backend that does not say how likely a reply is.
    """
    if prompt.style != "likelihood":
        return backend.read_labels(judge_conversations(prompt, queries, passages), prompt.rubric.labels)
    if not isinstance(backend, LikelihoodBackend):
        raise ConfigError("this model does not say how likely a query is: choose the style brief, short or full")
    asked = list(dict.fromkeys(queries))
    number = {query: i for i, query in enumerate(asked)}
    told = read_told(
        backend,
        [query_example(query, passage, prompt.nonce) for query, passage in zip(queries, passages, strict=True)],
        [bare_example(query, prompt.nonce) for query in asked],
        np.array([number[query] for query in queries], dtype=np.int64),
    )
    rows = grade_shares(told.shares, len(prompt.rubric.labels), prompt.rubric.min_grade)
    reasons = tuple(
        "too long: the query leaves no room for a passage" if i in told.long
        else "the model's numbers are not finite" if np.isnan(row).any() else None
        for i, row in enumerate(rows)
    )  # fmt: skip
    outside = np.full(len(rows), np.nan)
    return LabelReadings(rows, reasons, outside, told.prompt_tokens, told.completion_tokens, told.long)


class Told(NamedTuple):
    """What passages tell of their queries."""

    shares: FloatArray64
    """Of each query's information. Shape: (pairs,)."""
    prompt_tokens: int
    completion_tokens: int
    long: frozenset[int]
    """Pairs that were not read because their query is too long."""


def read_told(
    backend: LikelihoodBackend, given: Sequence[ChatExample], bare: Sequence[ChatExample], queries: IntArray
) -> Told:
    """Read each query after its passage (`given`), and each distinct one after none (`bare`).

    Shape: queries (pairs,), each pair's query as its place in `bare`.
    """
    found = backend.log_likelihoods([*given, *bare])
    alone = found.values[len(given) :][queries]  # (pairs,)
    long = frozenset(i for i, query in enumerate(queries.tolist()) if {i, len(given) + query} & found.long)
    shares = told_shares(found.values[: len(given)], alone)
    return Told(shares, found.prompt_tokens, found.completion_tokens, long)


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
        if not queries:
            return []
        readings = read_grades(self.backend, JudgePrompt(self.rubric, self.style, self.nonce), queries, passages)
        grades = self.calibration.grades(readings.probabilities).tolist()
        shares = self.calibration(readings.probabilities).tolist()
        return [
            Graded(None, None, reason or "no grade could be read") if grade < 0 else Graded(grade, tuple(row))
            for grade, row, reason in zip(grades, shares, readings.reasons, strict=True)
        ]
