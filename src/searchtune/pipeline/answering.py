"""`LlmAnswerer`: a language model that answers from passages, or says that they do not answer."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from searchtune.data.coverage import coverages
from searchtune.metrics.abstention import DEFAULT_RULE, AbstentionRule
from searchtune.models.backends import Backend, spoken_reply
from searchtune.models.generation import Sampling
from searchtune.prompts.answer import ABSTENTION, LABELS, AnswerPrompt, citations_outside, parse_answer
from searchtune.types import Answer

_ABSTAINED = Answer(ABSTENTION, abstained=True)


class AnswerRow(NamedTuple):
    """What became of one question, for those who want each as soon as it is there."""

    question: int
    """Its place among those asked."""
    answer: Answer | None
    """None where no reply came, or none that could be read."""
    answerable: float
    """How likely it is that the passages answer; NaN where abstention is written."""
    outside: int
    """How many numbers the reply cites that no passage has."""
    cut: bool
    """Whether the reply was cut off at its longest."""
    reason: str | None
    """Why there is no answer."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """For questions that were asked together, each one's share."""
    settled: bool = False
    """Where there is no answer: whether a reply came that cannot be used, so that asking again would not help."""
    refused: bool = False
    """Whether the question was turned down for what it and its passages hold."""


class _Judged(NamedTuple):
    """What was read of some questions: the likelihood of an answer, whether there is one, and each one's effort."""

    likelihood: Sequence[float]
    decided: Sequence[int]
    """1 answers, 0 abstains, -1 could not be read."""
    reasons: Sequence[str | None]
    tokens: tuple[int, int]
    seconds: float
    refused: frozenset[int] = frozenset()
    unanswered: frozenset[int] = frozenset()


@dataclass(frozen=True)
class LlmAnswerer:
    """A backend asked under a prompt; it is an `Answering` of `pipeline.stages`.

    Where abstention is read, all questions are judged first, and only those with an answer are written.
    """

    backend: Backend
    prompt: AnswerPrompt
    max_new_tokens: int = 160
    rule: AbstentionRule = DEFAULT_RULE
    """What is answered, where that is read; the default answers what is rather a yes than a no."""

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        """The answer to each question from its own passages.

        A question abstains where its reply could not be had or read; `stream` says why.

        Raises:
            ConfigError, ModelError: a prompt whose fixed text alone is too long, or a model that cannot be asked so.
        """
        found = [_ABSTAINED] * len(questions)
        for row in self.stream(questions, passages):
            found[row.question] = row.answer or _ABSTAINED
        return found

    def stream(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> Iterator[AnswerRow]:
        """The same with all that is known of each, in no certain order: abstentions come first.

        Raises:
            As `answer`; a remote backend's error comes after all rows that were there by then.
        """
        if not questions:
            return
        read = self._judged(questions, passages)
        writing = []
        for place, decided in enumerate(read.decided):
            if decided == 1:
                writing.append(place)
            else:
                answer = _ABSTAINED if decided == 0 else None
                likely, reason = read.likelihood[place], read.reasons[place]
                marks = (place not in read.unanswered, place in read.refused)
                yield AnswerRow(place, answer, likely, 0, False, reason, *read.tokens, read.seconds, *marks)
        asked = [self.prompt.write(questions[place], passages[place]) for place in writing]
        for reply in self.backend.complete(asked, Sampling(max_new_tokens=self.max_new_tokens)):
            place = writing[reply.conversation]
            (text, reason), count = spoken_reply(reply), len(passages[place])
            yield AnswerRow(
                question=place,
                answer=None if text is None else parse_answer(text, count),
                answerable=read.likelihood[place],
                outside=0 if text is None else citations_outside(text, count),
                cut=reply.finish == "length",
                reason=reason,
                prompt_tokens=reply.prompt_tokens + read.tokens[0],
                completion_tokens=reply.completion_tokens + read.tokens[1],
                seconds=reply.seconds + read.seconds,
                settled=reply.settled or reply.text is not None,
                refused=reply.refused,
            )

    def _judged(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> _Judged:
        """Which questions have an answer; all of them may have where that is not read."""
        count = len(questions)
        if self.prompt.abstain == "written":
            return _Judged([math.nan] * count, [1] * count, [None] * count, (0, 0), 0.0)
        began = time.perf_counter()
        asked = [self.prompt.asked(one, own) for one, own in zip(questions, passages, strict=True)]
        readings = self.backend.read_labels(asked, LABELS)
        likelihood = self.rule.likelihood(readings.probabilities, coverages(questions, passages))
        decided = np.where(np.isnan(likelihood), -1, likelihood >= self.rule.threshold).astype(int)
        used = (round(readings.prompt_tokens / count), round(readings.completion_tokens / count))
        seconds = (time.perf_counter() - began) / count
        marks = (readings.refused, readings.unanswered)
        return _Judged(likelihood.tolist(), decided.tolist(), readings.reasons, used, seconds, *marks)
