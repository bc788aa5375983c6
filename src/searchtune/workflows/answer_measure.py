"""Measuring answers: several systems answer the same questions from the same passages, and a report says how well.

    OUT/answers-HASH.jsonl   a journal for each system: every answer under a hash of its question and passages
    OUT/answers.json         the report
    OUT/answers.md           the same as Markdown
    OUT/answers.html         the page
    OUT/support-HASH/        the judge's job, where one was given

A measurement that was killed goes on where it stopped when it is started again: what a journal holds is not asked
again, and what two conditions share is asked once.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol, get_args, runtime_checkable

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.answer_page import write_answer_page
from searchtune.evaluation.answer_report import AnswerReport, Condition, main_condition, write_answer_report
from searchtune.evaluation.answer_table import answer_markdown
from searchtune.evaluation.answering import RIGHT_FROM, AnswerEvidence, CanaryTrial, build_answer_report
from searchtune.metrics.answer_support import SUPPORTED
from searchtune.metrics.answers import AnswerCase
from searchtune.metrics.significance import ROUNDS
from searchtune.pipeline.stages import Answering
from searchtune.prompts.answer import ABSTENTION
from searchtune.prompts.answer_canaries import ANSWER_CANARIES_VERSION, PlantedAnswer, plant_answer_canaries
from searchtune.reading import user_path
from searchtune.storage.atomic import write_text
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import Journal
from searchtune.storage.lock import sole_writer
from searchtune.types import Answer
from searchtune.workflows.answer_conditions import (
    Question,
    Questions,
    Retriever,
    ShownPassages,
    show_passages,
    words,
)
from searchtune.workflows.answer_judge import judge_support
from searchtune.workflows.open_answerer import OpenAnswerer
from searchtune.workflows.open_judge import OpenJudge
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import hardware, now, versions

REPORT_FILE, PAGE_FILE, TABLE_FILE = "answers.json", "answers.html", "answers.md"
CONDITIONS: tuple[Condition, ...] = ("gold", "retrieved", "none")
Asked = tuple[str, tuple[str, ...]]
"""A question with the passages that it is to be answered from."""


@runtime_checkable
class Identified(Protocol):
    """An answerer that says which model it is."""

    @property
    def identity(self) -> Mapping[str, str]: ...


@dataclass(frozen=True)
class MeasurePlan:
    """How answers are measured."""

    collection: str = "questions"
    """What the report calls the set."""
    conditions: tuple[Condition, ...] = CONDITIONS
    depth: int = 3
    """Passages that are retrieved for a question."""
    canaries: int = 0
    """How many questions are answered once more with an instruction planted in a passage."""
    headline: str | None = None
    """The system that the verdict speaks of; None: the last."""
    reference: str | None = None
    """The system that the others are compared with; None: the first, where there are several."""
    right_from: float = RIGHT_FROM
    supported_from: float = SUPPORTED
    window: int = 16
    """Questions that are put to a system together; a kill costs at most so many answers."""
    seed: int = 13
    rounds: int = ROUNDS


def measure_answers(
    systems: Mapping[str, Answering],
    examples: Questions,
    *,
    out: Path | str,
    plan: MeasurePlan | None = None,
    retriever: Retriever = words,
    pool: Sequence[str] = (),
    judge: OpenJudge | None = None,
    progress: Progress = SILENT,
) -> AnswerReport:
    """Let every system answer every question under every condition, and write the report and its page.

    `retriever` searches the passages of all questions and those of `pool`. A system that has an `identity` keeps its
    answers under it and its settings, whatever it is called; any other under its name. With a `judge` the sentences
    that it does not find supported are a figure beside those found by their words.

    Raises:
        ConfigError: no system, no such condition, headline or reference, or numbers out of range.
        DataError: no question, an id twice, or a system that gives another number of answers than it was asked for.
        StorageError, OutputBusyError: `out` cannot be written, or another process measures there.
    """
    plan, out = plan or MeasurePlan(), user_path(out)
    with sole_writer(out):
        return _measure(systems, examples, out, plan, retriever=retriever, pool=pool, judge=judge, progress=progress)


def _measure(
    systems: Mapping[str, Answering],
    examples: Questions,
    out: Path,
    plan: MeasurePlan,
    *,
    retriever: Retriever,
    pool: Sequence[str],
    judge: OpenJudge | None,
    progress: Progress,
) -> AnswerReport:
    headline, reference = _roles(systems, plan)
    _check(examples, plan)
    shown = show_passages(examples.examples, plan.conditions, depth=plan.depth, retriever=retriever, pool=pool)
    main = main_condition(plan.conditions)
    questions = [one.question for one in examples.examples]
    work = _Work(examples.examples, shown, main, _planted(questions, shown[main], plan))
    found = {name: _measured(name, system, work, out, plan=plan, progress=progress) for name, system in systems.items()}
    every = [case for it in found.values() for cases in it.cases.values() for case in cases]
    evidence = AnswerEvidence(
        collection=plan.collection,
        ids=[one.id for one in examples.examples],
        questions=questions,
        answerable=[bool(one.gold) for one in examples.examples],
        cases={name: it.cases for name, it in found.items()},
        headline=headline,
        reference=reference,
        trials={name: it.trials for name, it in found.items()},
        judge=None if judge is None else judge_support(judge, every, out, seed=plan.seed, progress=progress),
        supported_from=plan.supported_from,
        right_from=plan.right_from,
        provenance=_provenance(examples, plan, {name: it.facts for name, it in found.items()}, retriever, judge),
    )
    progress.stage("measuring")
    report = build_answer_report(evidence, seed=plan.seed, rounds=plan.rounds)
    write_answer_report(report, out / REPORT_FILE)
    write_text(out / TABLE_FILE, answer_markdown(report))
    write_answer_page(report, out / PAGE_FILE)
    return report


class _Work(NamedTuple):
    """What every system is asked."""

    examples: Sequence[Question]
    shown: Mapping[Condition, Sequence[ShownPassages]]
    main: Condition
    planted: Sequence[PlantedAnswer]

    def wanted(self) -> list[Asked]:
        """Every prompt, each once."""
        asked = [
            (one.question, it.passages)
            for found in self.shown.values()
            for one, it in zip(self.examples, found, strict=True)
        ]
        asked += [(self.examples[one.example].question, one.passages) for one in self.planted]
        return list(dict.fromkeys(asked))


class _Measured(NamedTuple):
    """What one system answered."""

    cases: dict[Condition, list[AnswerCase]]
    trials: list[CanaryTrial]
    facts: dict[str, Any]


def _measured(
    name: str, system: Answering, work: _Work, out: Path, *, plan: MeasurePlan, progress: Progress
) -> _Measured:
    """Ask one system what its journal does not hold, and gather what it holds."""
    identity = _identity(name, system)
    with Journal(out / f"answers-{sha256_json(identity)[:16]}.jsonl", {"answers": identity}) as journal:
        _ask(name, system, work.wanted(), journal, plan=plan, progress=progress)
        cases = {
            condition: [
                AnswerCase(_answer(journal, (one.question, it.passages)), it.passages, it.gold, one.references)
                for one, it in zip(work.examples, found, strict=True)
            ]
            for condition, found in work.shown.items()
        }
        trials = [
            CanaryTrial(
                planted=one,
                answer=_answer(journal, (work.examples[one.example].question, one.passages)),
                control=cases[work.main][one.example],
            )
            for one in work.planted
        ]
        return _Measured(cases, trials, {"identity": dict(identity), **_effort(journal)})


def _roles(systems: Mapping[str, Answering], plan: MeasurePlan) -> tuple[str, str | None]:
    """Headline and reference, as the plan has them or by their places."""
    if not systems:
        raise ConfigError("no system to measure: give at least one answerer")
    for role in (plan.headline, plan.reference):
        if role is not None and role not in systems:
            raise ConfigError(f"no system is called {role!r}{did_you_mean(role, systems)}")
    names = list(systems)
    headline = plan.headline or next(name for name in reversed(names) if name != plan.reference or len(names) == 1)
    reference = plan.reference or next((name for name in names if name != headline), None)
    if headline == reference:
        raise ConfigError(f"{headline!r} is compared with itself: name another system as the reference")
    return headline, reference


def _check(examples: Questions, plan: MeasurePlan) -> None:
    if not examples.examples:
        raise DataError("no question to measure answers on: check the file and its split")
    ids = [one.id for one in examples.examples]
    if len(set(ids)) < len(ids):
        twice = next(one for one in ids if ids.count(one) > 1)
        raise DataError(f"question id {twice!r} is there twice: give each question its own id")
    for condition in plan.conditions:
        if condition not in get_args(Condition):
            raise ConfigError(f"no condition {condition!r}{did_you_mean(condition, get_args(Condition))}")
    if not plan.conditions or len(set(plan.conditions)) < len(plan.conditions):
        raise ConfigError(f"conditions {list(plan.conditions)}: name at least one, each once")
    for what, value, least in (("canaries", plan.canaries, 0), ("window", plan.window, 1)):
        if value < least:
            raise ConfigError(f"{what} {value}: must be at least {least}")


def _planted(questions: Sequence[str], shown: Sequence[ShownPassages], plan: MeasurePlan) -> list[PlantedAnswer]:
    """Canaries in the passages of some questions: first of those that should be answered, then of others."""
    order = np.random.default_rng(plan.seed).permutation(len(questions)).tolist()
    able = [place for place in order if shown[place].passages]
    chosen = sorted(sorted(able, key=lambda place: not shown[place].gold)[: plan.canaries])
    asked, passages = [questions[place] for place in chosen], [shown[place].passages for place in chosen]
    return [replace(one, example=chosen[one.example]) for one in plant_answer_canaries(asked, passages, seed=plan.seed)]


def _identity(name: str, system: Answering) -> dict[str, Any]:
    """All that a system's answers depend on beside question and passages, as plain JSON.

    What it says of its model, and its prompt, rule of abstaining, calibration and longest reply where it has them as
    attributes.
    """
    if not isinstance(system, Identified):
        return {"system": name}
    settings = {what: getattr(system, what, None) for what in ("prompt", "rule", "calibration", "max_new_tokens")}
    return {**system.identity, **{what: _plain(value) for what, value in settings.items() if value is not None}}


def _plain(value: Any) -> Any:
    """A setting as JSON: what its `identity` or `to_json` says, or itself."""
    told = getattr(value, "identity", None) or getattr(value, "to_json", None)
    return told() if callable(told) else value


def _key(asked: Asked) -> str:
    return sha256_json([asked[0], list(asked[1])])


def _ask(
    name: str, system: Answering, wanted: Sequence[Asked], journal: Journal, *, plan: MeasurePlan, progress: Progress
) -> None:
    """Ask what the journal does not hold yet, some questions at a time, and keep each answer."""
    waiting = [one for one in wanted if _key(one) not in journal]
    if not waiting:
        return
    known = len(wanted) - len(waiting)
    progress.stage(f"{name} answers" + (f" ({known:,} of {len(wanted):,} are in the journal)" if known else ""))
    began = time.monotonic()
    for start in range(0, len(waiting), plan.window):
        window, started = waiting[start : start + plan.window], time.monotonic()
        answers = _answers(name, system, window)
        seconds = (time.monotonic() - started) / len(window)
        for one, answer in zip(window, answers, strict=True):
            if answer is None:
                continue
            value = {"text": answer.text, "citations": list(answer.citations), "abstained": answer.abstained}
            journal.append(_key(one), {**value, "seconds": round(seconds, 4)})
        journal.flush()
        done = start + len(window)
        progress.step(known + done, len(wanted), f"{done / max(time.monotonic() - began, 1e-3):.1f} answers/s")


def _answers(name: str, system: Answering, window: Sequence[Asked]) -> Sequence[Answer | None]:
    """An answer to each; None where no reply came, so that it is no abstention and is asked for again."""
    questions, passages = [question for question, _ in window], [shown for _, shown in window]
    if not isinstance(system, OpenAnswerer):
        answers = system.answer(questions, passages)
        if len(answers) != len(window):
            raise DataError(f"{name} gave {len(answers)} answers to {len(window)} questions: it must give one for each")
        return answers
    found: list[Answer | None] = [None] * len(window)
    for row in system.stream(questions, passages):
        unusable = Answer(ABSTENTION, abstained=True) if row.settled or row.refused else None
        found[row.question] = unusable if row.answer is None else row.answer
    return found


def _answer(journal: Journal, asked: Asked) -> Answer:
    value = journal.get(_key(asked))
    if value is None:
        raise DataError(f"{journal.path}: no answer to {asked[0][:60]!r}, though it was asked; run the command again")
    return Answer(str(value["text"]), tuple(int(number) for number in value["citations"]), bool(value["abstained"]))


def _effort(journal: Journal) -> dict[str, float | int]:
    """All that the journal holds, of earlier measurements too."""
    seconds = [float(value["seconds"]) for _, value in journal.items()]
    return {"answers": len(seconds), "seconds_per_answer": round(sum(seconds) / max(1, len(seconds)), 4)}


def _provenance(
    examples: Questions,
    plan: MeasurePlan,
    effort: Mapping[str, Mapping[str, Any]],
    retriever: Retriever,
    judge: OpenJudge | None,
) -> dict[str, Any]:
    found: dict[str, Any] = {
        "created": now(),
        "questions": examples.fingerprint,
        "systems": {name: dict(facts) for name, facts in effort.items()},
        "retriever": getattr(retriever, "__qualname__", type(retriever).__name__),
        "depth": plan.depth,
        "canaries_version": ANSWER_CANARIES_VERSION,
        "seed": plan.seed,
        "rounds": plan.rounds,
    }
    if judge is not None:
        found["judge"] = {"name": judge.name, **judge.identity}
    return {**found, "versions": versions(), "hardware": hardware()}
