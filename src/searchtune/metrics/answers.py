"""How good answers from passages are, example by example: what they say, cite and make up, and when they abstain.

A question should be answered where one of the passages that were shown answers it (a *gold* passage), and is to be
abstained from otherwise; what is right therefore depends on what was shown. Figures are arrays with one value for each
example and NaN where a figure does not apply, so that bootstrap and paired tests take them as they are:

- `token_f1`, `rouge_l`: the best of several references (`text_overlap.py`), citation marks left out; an abstention has
  0. They apply to every question with a reference, whether or not its gold passage was shown.
- `answered_f1`: token F1 of the answers given, abstentions left out: how well it writes where it writes. Two systems
  are compared on the questions that both answer.
- `overall`: as SQuAD 2.0 scores (Rajpurkar et al. 2018, arXiv:1806.03822): token F1 where the question should be
  answered, 1 or 0 for abstaining or not where it should not.
- `citation_precision`, `citation_recall`: cited passages against the gold ones, on questions that should be answered.
  As in ALCE (Gao et al. 2023, arXiv:2305.14627) an answer that cites nothing has 0 of both, and a citation that points
  at no passage is a wrong one; instead of an entailment model the labels of passages say which citation is right. An
  abstention cites nothing by design: it has no precision, and a recall of 0.
- `unsupported`, `unbacked`: shares of an answer's sentences (`answer_support.py`); none for an abstention.
- `abstention_accuracy`: whether it abstained where it should, and only there.
- `words`: length of the answers given, without citation marks.

Precision, recall and F1 of abstaining belong to a whole set: `ABSTENTION` has them as functions of sums of
`abstention_parts`, for `cluster.cluster_bootstrap`; `abstention_difference` compares two systems.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from searchtune.errors import DataError
from searchtune.metrics.agreement import precision as binary_precision
from searchtune.metrics.agreement import recall as binary_recall
from searchtune.metrics.answer_support import (
    SUPPORTED,
    Sentence,
    Supporter,
    cited_numbers,
    sentences,
    unbacked_rate,
    unsupported_rate,
    without_citations,
    word_support,
)
from searchtune.metrics.cluster import Exchange, Statistic, cluster_replicates, paired_swap
from searchtune.metrics.significance import ROUNDS, SAME
from searchtune.metrics.text_overlap import best_of, rouge_l, token_f1
from searchtune.types import Answer, FloatArray64
from searchtune.words import count_words

FIGURES = (
    "overall",
    "token_f1",
    "answered_f1",
    "rouge_l",
    "citation_precision",
    "citation_recall",
    "unsupported",
    "unbacked",
    "abstention_accuracy",
    "words",
)
"""Figures with one value for each example, in the order in which they are shown."""

MIN_TESTED = 2
"""Questions below which nothing is tested."""


@dataclass(frozen=True)
class AnswerCase:
    """One answer with what it was made from and what it should have been."""

    answer: Answer
    passages: Sequence[str]
    """The passages that were shown, in their order."""
    gold: Sequence[int] = ()
    """Positions, from 0, of those that answer the question; empty where none of them does."""
    references: Sequence[str] = ()
    """What people answered; empty where the question has no answer."""

    def __post_init__(self) -> None:
        wrong = [place for place in self.gold if not 0 <= place < len(self.passages)]
        if wrong:
            raise DataError(
                f"gold passage {wrong[0]} of {len(self.passages)}: give positions among the passages shown, from 0"
            )

    @property
    def should_abstain(self) -> bool:
        """Whether none of the passages shown answers the question."""
        return not self.gold

    @cached_property
    def text(self) -> str:
        """The answer without citation marks."""
        return without_citations(self.answer.text).strip()

    @cached_property
    def sentences(self) -> list[Sentence]:
        """None for an abstention."""
        return [] if self.answer.abstained else sentences(self.answer.text)

    @cached_property
    def cited(self) -> tuple[int, ...]:
        """Numbers of passages that the answer cites, those that point at no passage included."""
        return tuple(dict.fromkeys((*self.answer.citations, *cited_numbers(self.answer.text))))


def measure_answers(
    cases: Sequence[AnswerCase], supporter: Supporter = word_support, *, supported: float = SUPPORTED
) -> dict[str, FloatArray64]:
    """Every figure of `FIGURES` for every case; NaN where it does not apply. Shape: (cases,) each."""
    rows = [_row(case, supporter, supported) for case in cases]
    return {name: np.array([row[name] for row in rows], dtype=np.float64) for name in FIGURES}


def reference_overlap(case: AnswerCase) -> tuple[float, float]:
    """Token F1 and ROUGE-L against the closest reference; NaN without one."""
    if not case.references:
        return math.nan, math.nan
    if case.answer.abstained or not case.text:
        return 0.0, 0.0
    wanted = [without_citations(reference) for reference in case.references]
    return best_of(token_f1, case.text, wanted), best_of(rouge_l, case.text, wanted)


def citation_scores(case: AnswerCase) -> tuple[float, float]:
    """Precision and recall of the cited passages against the gold ones; see the module's rules."""
    if case.should_abstain:
        return math.nan, math.nan
    if case.answer.abstained:
        return math.nan, 0.0
    right = len({place + 1 for place in case.gold} & set(case.cited))
    return right / len(case.cited) if case.cited else 0.0, right / len(set(case.gold))


def abstention_parts(cases: Sequence[AnswerCase]) -> FloatArray64:
    """For each case a matrix with a single 1: should it have abstained (rows: no, yes), did it (columns: no, yes).

    Shape: (cases, 2, 2).
    """
    parts = np.zeros((len(cases), 2, 2))
    for place, case in enumerate(cases):
        parts[place, int(case.should_abstain), int(case.answer.abstained)] = 1
    return parts


def abstention_precision(sums: FloatArray64) -> FloatArray64:
    """Of the abstentions, the share that was right; NaN where nobody abstains. Shape: (..., 2, 2) -> (...)."""
    return binary_precision(sums)


def abstention_recall(sums: FloatArray64) -> FloatArray64:
    """Of the questions to abstain from, the share that was; NaN where there is none. Shape: (..., 2, 2) -> (...)."""
    return binary_recall(sums)


def abstention_f1(sums: FloatArray64) -> FloatArray64:
    """Harmonic mean of precision and recall of abstaining, 2 TP / (2 TP + FP + FN); NaN where there is neither.

    Always abstaining scores 2 s / (1 + s) where a share s of the questions is to be abstained from: .667 for a half.
    Shape: (..., 2, 2) -> (...).
    """
    sums = np.asarray(sums, np.float64)
    hit, wrong = 2 * sums[..., 1, 1], sums[..., 0, 1] + sums[..., 1, 0]
    found: FloatArray64 = np.divide(hit, hit + wrong, out=np.full(hit.shape, np.nan), where=hit + wrong > 0)
    return found


ABSTENTION: Mapping[str, Statistic] = {
    "abstention_f1": abstention_f1,
    "abstention_precision": abstention_precision,
    "abstention_recall": abstention_recall,
}
"""Figures of a set of cases from the sum of its `abstention_parts`."""


def abstention_difference(a: FloatArray64, b: FloatArray64, name: str, *, seed: int, rounds: int = ROUNDS) -> Exchange:
    """A figure of `ABSTENTION` of `b` minus that of `a` with its interval, and a two-sided p-value.

    The p-value is the larger of two. Exchanging both systems' answers, question by question, tests whether the two are
    one system; where they abstain at different rates it may find that they are not, however uncertain the figure is.
    The bootstrap's achieved level (Efron & Tibshirani 1993, ch. 15) tests the figure alone. NaN where there is none.

    Shape: a and b (examples, 2, 2), the `abstention_parts` of the same questions.
    """
    statistic = ABSTENTION[name]
    both = np.stack([a, b], axis=1)  # (examples, 2, 2, 2)

    def difference(sums: FloatArray64) -> FloatArray64:
        return statistic(sums[..., 1, :, :]) - statistic(sums[..., 0, :, :])

    replicates = cluster_replicates(both, {name: difference}, seed=seed, rounds=rounds)[name]
    drawn = replicates.drawn
    if len(both) < MIN_TESTED or not len(drawn):
        return Exchange(replicates, math.nan)
    tail = min(int((drawn <= SAME).sum()), int((drawn >= -SAME).sum()))
    achieved = min(1.0, 2 * (1 + tail) / (1 + len(drawn)))
    return Exchange(replicates, max(achieved, paired_swap(a, b, statistic, seed=seed, rounds=rounds)))


def _row(case: AnswerCase, supporter: Supporter, supported: float) -> dict[str, float]:
    f1, rouge = reference_overlap(case)
    precision, recall = citation_scores(case)
    abstained = case.answer.abstained
    return {
        "overall": float(abstained) if case.should_abstain else f1,
        "token_f1": f1,
        "answered_f1": math.nan if abstained else f1,
        "rouge_l": rouge,
        "citation_precision": precision,
        "citation_recall": recall,
        "unsupported": unsupported_rate(case.sentences, case.passages, supporter, at=supported),
        "unbacked": unbacked_rate(case.sentences, case.passages, supporter, at=supported),
        "abstention_accuracy": float(abstained == case.should_abstain),
        "words": math.nan if abstained else float(count_words(case.text)),
    }
