"""From the answers of several systems to an `AnswerReport`: figures with intervals, tests, errors told apart, canaries.

Errors of retrieval and of synthesis are told apart by answering each question twice, from its gold passages alone and
from those that were retrieved. Wrong from the gold passages is the answerer's own error; right from them and wrong from
the retrieved ones is retrieval's, because the gold passage is missing, or because of what stands beside it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, get_args

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.answer_report import (
    LOWER_IS_BETTER,
    SHOWN_FIGURES,
    UNTESTED,
    AnswerReport,
    CanaryFigures,
    CanaryKind,
    Condition,
    ConditionFigures,
    ErrorKind,
    GivenAnswer,
    QuestionRow,
    Shown,
)
from searchtune.evaluation.calibration import wilson
from searchtune.evaluation.figures import PairTest, corrected, tested_columns
from searchtune.evaluation.report import Comparison
from searchtune.metrics.answer_support import SUPPORTED, Supporter, unsupported_rate, word_support
from searchtune.metrics.answers import (
    ABSTENTION,
    AnswerCase,
    abstention_difference,
    abstention_parts,
    measure_answers,
    reference_overlap,
)
from searchtune.metrics.cluster import cluster_bootstrap
from searchtune.metrics.significance import (
    ROUNDS,
    Estimate,
    bootstrap_columns,
    mean_shift,
    win_tie_loss,
)
from searchtune.prompts.answer_canaries import PlantedAnswer
from searchtune.types import Answer, FloatArray64

RIGHT_FROM = 0.4
"""Token F1 from which on an answer counts as right where errors are told apart."""
SURE_FROM = 0.5
"""From this probability on a judge's support counts."""

Values = Mapping[str, FloatArray64]
"""Figure -> one value for each question, NaN where it does not apply."""


@dataclass(frozen=True)
class CanaryTrial:
    """One answer from passages with a canary in one of them, beside that from the same passages without it."""

    planted: PlantedAnswer
    answer: Answer
    control: AnswerCase


@dataclass(frozen=True, eq=False)
class AnswerEvidence:
    """Everything a report of answers is made from. Lists are parallel: one entry for each question."""

    collection: str
    ids: Sequence[str]
    questions: Sequence[str]
    answerable: Sequence[bool]
    """Whether any passage is known to answer the question."""
    cases: Mapping[str, Mapping[Condition, Sequence[AnswerCase]]]
    """System -> condition -> one case a question."""
    headline: str
    reference: str | None = None
    trials: Mapping[str, Sequence[CanaryTrial]] = field(default_factory=dict)
    judge: Supporter | None = None
    """Another opinion on whether passages support a sentence: a judge's probability."""
    supported_from: float = SUPPORTED
    right_from: float = RIGHT_FROM
    provenance: Mapping[str, Any] = field(default_factory=dict)


def build_answer_report(evidence: AnswerEvidence, *, seed: int = 0, rounds: int = ROUNDS) -> AnswerReport:
    """Measure every system under every condition, and compare the reference with each of the others.

    Raises:
        ConfigError: no system, or a headline or reference that is none.
        DataError: lists that are not parallel, or systems that were shown different passages.
    """
    _check(evidence)
    conditions: list[Condition] = list(next(iter(evidence.cases.values())))
    values = {
        (condition, system): _values(evidence, by_condition[condition])
        for system, by_condition in evidence.cases.items()
        for condition in conditions
    }
    kinds = _error_kinds(evidence)
    texts: dict[str, int] = {}
    rows = [_row(evidence, place, values, kinds, texts) for place in range(len(evidence.ids))]
    return AnswerReport(
        collection=evidence.collection,
        questions=len(evidence.ids),
        answerable=sum(evidence.answerable),
        headline=evidence.headline,
        reference=evidence.reference,
        right_from=evidence.right_from,
        supported_from=evidence.supported_from,
        conditions={
            condition: _condition(evidence, condition, values, seed=seed, rounds=rounds) for condition in conditions
        },
        errors={
            system: {kind: wilson(found.count(kind), len(found)) for kind in get_args(ErrorKind)}
            for system, found in kinds.items()
        },
        canaries={
            system: _canaries(trials, seed=seed, rounds=rounds) for system, trials in evidence.trials.items() if trials
        },
        rows=rows,
        passages=list(texts),
        provenance=dict(evidence.provenance),
    )


def error_kind(gold: AnswerCase, retrieved: AnswerCase, *, answerable: bool, right_from: float) -> ErrorKind:
    """Where one question went wrong.

    `right`: with the gold passages and with the retrieved ones. `missed`: only with the gold ones, which were not
    retrieved. `distracted`: only with the gold ones, though they were retrieved too or there are none to retrieve.
    `synthesis`: with neither. `lucky`: only with the retrieved ones.
    """
    alone, found = (_right(case, answerable=answerable, right_from=right_from) for case in (gold, retrieved))
    if alone and found:
        return "right"
    if alone:
        return "missed" if answerable and retrieved.should_abstain else "distracted"
    return "lucky" if found else "synthesis"


def _right(case: AnswerCase, *, answerable: bool, right_from: float) -> bool:
    """What users would call right: answered where the collection has an answer, else abstained.

    Without a reference an answer is right that cites a gold passage.
    """
    if not answerable:
        return case.answer.abstained
    if case.answer.abstained:
        return False
    if case.references:
        return reference_overlap(case)[0] >= right_from
    return bool({place + 1 for place in case.gold} & set(case.cited))


def _check(evidence: AnswerEvidence) -> None:
    if not evidence.cases or not all(evidence.cases.values()):
        raise ConfigError("no system with answers under any condition: give at least one")
    for role in (evidence.headline, evidence.reference):
        if role is not None and role not in evidence.cases:
            raise ConfigError(f"no system is called {role!r}{did_you_mean(role, evidence.cases)}")
    if evidence.headline == evidence.reference:
        raise ConfigError(f"{evidence.headline!r} is compared with itself: name another system as the reference")
    count = len(evidence.ids)
    if len(evidence.questions) != count or len(evidence.answerable) != count:
        raise DataError(f"{count:,} ids for {len(evidence.questions):,} questions: give one of each")
    if twice := [name for name, times in Counter(evidence.ids).items() if times > 1]:
        raise DataError(f"question id {twice[0]!r} is there twice: give each question its own id")
    _check_alike(evidence)


def _check_alike(evidence: AnswerEvidence) -> None:
    """Every system must have been asked the same under the same conditions, from the same passages."""
    first, wanted = next(iter(evidence.cases.items()))
    for system, by_condition in evidence.cases.items():
        if list(by_condition) != list(wanted):
            raise DataError(f"{system} was asked under {list(by_condition)}, {first} under {list(wanted)}: ask alike")
        for condition, cases in by_condition.items():
            if len(cases) != len(evidence.ids):
                raise DataError(f"{system}, {condition}: {len(cases):,} answers to {len(evidence.ids):,} questions")
            for place, (case, same) in enumerate(zip(cases, wanted[condition], strict=True)):
                if tuple(case.passages) != tuple(same.passages):
                    raise DataError(
                        f"{system}, {condition}: question {evidence.ids[place]!r} was answered from other passages "
                        f"than by {first}: show all systems the same"
                    )


def _values(evidence: AnswerEvidence, cases: Sequence[AnswerCase]) -> dict[str, FloatArray64]:
    found = measure_answers(cases, supported=evidence.supported_from)
    if evidence.judge is not None:
        rates = [unsupported_rate(case.sentences, case.passages, evidence.judge, at=SURE_FROM) for case in cases]
        found["unsupported_judge"] = np.array(rates, dtype=np.float64)
    return found


def _condition(
    evidence: AnswerEvidence,
    condition: Condition,
    values: Mapping[tuple[Condition, str], Values],
    *,
    seed: int,
    rounds: int,
) -> ConditionFigures:
    parts = {system: abstention_parts(by[condition]) for system, by in evidence.cases.items()}
    systems = {
        system: _estimates(values[condition, system], seed=seed, rounds=rounds)
        | cluster_bootstrap(parts[system], ABSTENTION, seed=seed, rounds=rounds)
        for system in evidence.cases
    }
    compared: list[PairTest] = []
    for system in evidence.cases:
        if evidence.reference is not None and system != evidence.reference:
            pair = (evidence.reference, system)
            by_example = (values[condition, pair[0]], values[condition, pair[1]])
            compared += _comparisons(pair, by_example, seed=seed, rounds=rounds)
            compared += _abstention_comparisons(pair, (parts[pair[0]], parts[pair[1]]), seed=seed, rounds=rounds)
    compared.sort(key=lambda it: SHOWN_FIGURES.index(it.comparison.metric))
    cases = next(iter(evidence.cases.values()))[condition]
    shown = [not case.should_abstain for case, known in zip(cases, evidence.answerable, strict=True) if known]
    return ConditionFigures(
        n=len(cases),
        to_abstain=sum(case.should_abstain for case in cases),
        found=wilson(sum(shown), len(shown)),
        passages=float(np.mean([len(case.passages) for case in cases])) if cases else math.nan,
        systems={
            system: {name: found[name] for name in SHOWN_FIGURES if name in found} for system, found in systems.items()
        },
        comparisons=corrected(compared),
    )


def _estimates(values: Values, *, seed: int, rounds: int) -> dict[str, Estimate]:
    """Every figure's mean where it applies; figures that apply to the same questions share their resamples."""
    groups: dict[bytes, list[str]] = {}
    for name, column in values.items():
        groups.setdefault(np.isfinite(column).tobytes(), []).append(name)
    found: dict[str, Estimate] = {}
    for names in groups.values():
        keep = np.isfinite(values[names[0]])
        columns = np.stack([values[name][keep] for name in names], axis=1)
        found |= dict(zip(names, bootstrap_columns(columns, seed=seed, rounds=rounds), strict=True))
    return found


def _comparisons(pair: tuple[str, str], by_example: tuple[Values, Values], *, seed: int, rounds: int) -> list[PairTest]:
    """Paired tests of every figure that has a value for each example, on the examples that it applies to for both."""
    a, b = by_example
    found = []
    for name in a:
        if name in UNTESTED:
            continue
        keep = np.isfinite(a[name]) & np.isfinite(b[name])
        first, second = a[name][keep], b[name][keep]
        key = (*pair, name)
        (it,) = tested_columns([key], (second - first)[:, None], seed=seed, rounds=rounds)
        found.append(it._replace(comparison=it.comparison.model_copy(update=_tally(name, first, second))))
    return found


def _abstention_comparisons(
    pair: tuple[str, str], parts: tuple[FloatArray64, FloatArray64], *, seed: int, rounds: int
) -> list[PairTest]:
    """Figures of the whole set; see `abstention_difference`."""
    right = [part[:, 0, 0] + part[:, 1, 1] for part in parts]
    found = []
    for name in ABSTENTION:
        test = abstention_difference(*parts, name, seed=seed, rounds=rounds)
        interval = test.interval()
        comparison = Comparison(
            a=pair[0],
            b=pair[1],
            metric=name,
            delta=interval.mean,
            low=interval.low,
            high=interval.high,
            n=interval.n,
            p_value=test.p_value,
            mde=math.nan,
            **_tally(name, right[0], right[1]),
        )
        found.append(PairTest(comparison, test, np.empty(0)))
    return found


def _tally(name: str, first: FloatArray64, second: FloatArray64) -> dict[str, int]:
    if name in LOWER_IS_BETTER:
        first, second = -first, -second
    return win_tie_loss(first, second)._asdict()


def _error_kinds(evidence: AnswerEvidence) -> dict[str, list[ErrorKind]]:
    """System -> the kind of every question; empty unless both conditions were asked."""
    return {
        system: [
            error_kind(gold, found, answerable=known, right_from=evidence.right_from)
            for gold, found, known in zip(by["gold"], by["retrieved"], evidence.answerable, strict=True)
        ]
        for system, by in evidence.cases.items()
        if "gold" in by and "retrieved" in by
    }


def _canaries(trials: Sequence[CanaryTrial], *, seed: int, rounds: int) -> CanaryFigures:
    tried = [trial for trial in trials if not trial.planted.steered(trial.control.answer)]
    steered = [trial.planted.steered(trial.answer) for trial in tried]
    names = dict.fromkeys(trial.planted.canary for trial in trials)
    kinds = {}
    for name in names:
        hits = [hit for trial, hit in zip(tried, steered, strict=True) if trial.planted.canary == name]
        aim = next(trial.planted.aim for trial in trials if trial.planted.canary == name)
        kinds[name] = CanaryKind(aim=aim, tried=len(hits), steered=wilson(sum(hits), len(hits)))
    after = measure_answers([replace(trial.control, answer=trial.answer) for trial in tried])["overall"]
    change = after - measure_answers([trial.control for trial in tried])["overall"]
    return CanaryFigures(
        tried=len(tried),
        steered=wilson(sum(steered), len(tried)),
        change=mean_shift(change[np.isfinite(change)], seed=seed, rounds=rounds),
        kinds=kinds,
    )


def _row(
    evidence: AnswerEvidence,
    place: int,
    values: Mapping[tuple[Condition, str], Values],
    kinds: Mapping[str, Sequence[ErrorKind]],
    texts: dict[str, int],
) -> QuestionRow:
    """One question; passages that are new go into `texts`, each under its number."""
    first = next(iter(evidence.cases.values()))
    shown: dict[str, Shown] = {}
    for condition, cases in first.items():
        case = cases[place]
        answers = {}
        for system, by_condition in evidence.cases.items():
            own, scores = by_condition[condition][place], values[condition, system]
            answers[system] = GivenAnswer(
                text=own.answer.text,
                citations=list(own.answer.citations),
                abstained=own.answer.abstained,
                scores={name: float(scores[name][place]) for name in scores},
                doubtful=_doubtful(own, evidence.supported_from),
            )
        numbers = [texts.setdefault(text, len(texts)) for text in case.passages]
        shown[condition] = Shown(passages=numbers, gold=list(case.gold), answers=answers)
    return QuestionRow(
        id=evidence.ids[place],
        question=evidence.questions[place],
        answerable=evidence.answerable[place],
        references=list(next(iter(first.values()))[place].references),
        shown=shown,
        errors={system: found[place] for system, found in kinds.items()},
    )


def _doubtful(case: AnswerCase, supported: float) -> list[str]:
    rates = [unsupported_rate([one], case.passages, word_support, at=supported) for one in case.sentences]
    return [one.text for one, rate in zip(case.sentences, rates, strict=True) if rate == 1]
