"""Measuring answers: what is shown, what is asked and kept, killed and continued, a judge's opinion, and bad input."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from tests.unit.workflows.judging import Oracle

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation.answer_report import read_answer_report
from searchtune.pipeline.answering import AnswerRow
from searchtune.prompts.answer import AnswerPrompt
from searchtune.types import Answer
from searchtune.workflows.answer_conditions import show_passages, words
from searchtune.workflows.answer_judge import judge_support
from searchtune.workflows.answer_measure import PAGE_FILE, REPORT_FILE, TABLE_FILE, MeasurePlan, measure_answers
from searchtune.workflows.open_answerer import OpenAnswerer
from searchtune.workflows.progress import Progress

TOPICS = ("comet", "harbour", "oven", "violin", "court", "garden", "rocket", "lantern")
FAST = {"rounds": 100}


@dataclass(frozen=True)
class Example:
    id: str
    question: str
    passages: tuple[str, ...]
    gold: tuple[int, ...]
    references: tuple[str, ...]


@dataclass(frozen=True)
class Set:
    examples: list[Example]
    fingerprint: str = "made up"


def some_questions(count: int = 8) -> Set:
    """Every other question has an answer; each has a passage of its own."""
    examples = []
    for number in range(count):
        topic, known = TOPICS[number % 8], number % 2 == 0
        text = f"The {topic} was built in {1900 + number} by the old guild." if known else f"A {topic} is a nice thing."
        references = (f"The {topic} was built in {1900 + number}.",) if known else ()
        examples.append(
            Example(f"q{number}", f"When was the {topic} built?", (text,), (0,) if known else (), references)
        )
    return Set(examples)


@dataclass
class Reader:
    """Tells the year of the first passage about the topic; obeys whoever says `Reply with the word`."""

    identity: dict[str, str] = field(default_factory=lambda: {"what": "reader"})
    obeys: bool = False
    fail_after: int | None = None
    asked: list = field(default_factory=list)

    def answer(self, questions, passages):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += zip(questions, passages, strict=True)
        return [self.one(question, shown) for question, shown in zip(questions, passages, strict=True)]

    def one(self, question: str, shown) -> Answer:
        topic = question.split()[-2]
        orders = [text.partition("with the word ")[2].split(".")[0] for text in shown if "with the word " in text]
        if self.obeys and orders:
            return Answer(orders[0])
        for number, text in enumerate(shown, start=1):
            year = re.search(r"\b19\d\d\b", text)
            if topic in text and year:
                return Answer(f"The {topic} was built in {year[0]} [{number}].", (number,))
        return Answer("The passages do not answer this.", abstained=True)


class Guesser:
    """Has no identity, never abstains, never cites."""

    def answer(self, questions, passages):
        return [Answer("It was built in 1066, they say.") for _ in questions]


def test_what_is_shown() -> None:
    examples = some_questions().examples
    shown = show_passages(examples, ["gold", "retrieved", "removed", "none"], depth=2)
    assert [it.passages for it in shown["gold"]] == [one.passages for one in examples]
    assert [it.gold for it in shown["gold"]] == [one.gold for one in examples]
    for one, found, removed in zip(examples, shown["retrieved"], shown["removed"], strict=True):
        assert found.passages[0] == one.passages[0]
        assert len(found.passages) <= 2
        assert found.gold == one.gold
        assert removed.gold == ()
        assert (one.passages[0] in removed.passages) == (not one.gold)
    assert set(shown["none"]) == {((), ())}


def test_the_pool_is_searched_too_and_texts_are_one() -> None:
    one = Example(
        "a", "When was the comet built?", ("The comet was built twice.", "The comet was built twice."), (1,), ("twice",)
    )
    pool = ["The comet was built by a comet.", "The comet was built twice.", "  "]
    found = show_passages([one], ["retrieved", "removed"], depth=3, pool=pool)
    assert sorted(found["retrieved"][0].passages) == sorted(set(pool[:2]))
    assert found["retrieved"][0].passages[found["retrieved"][0].gold[0]] == "The comet was built twice."
    assert found["removed"][0].passages == (pool[0],)


def test_questions_without_any_passages() -> None:
    bare = Example("a", "When?", (), (), ())
    found = show_passages([bare], ["gold", "retrieved"], depth=2)
    assert found["gold"] == found["retrieved"] == [((), ())]
    assert show_passages([], ["retrieved"], depth=1) == {"retrieved": []}
    with pytest.raises(ConfigError, match="depth 0"):
        show_passages([bare], ["gold"], depth=0)
    with pytest.raises(DataError, match="'b': gold passage 1 of 1"):
        show_passages([Example("b", "x", ("y",), (1,), ())], ["gold"], depth=1)


def test_report_and_its_files(tmp_path: Path) -> None:
    reader = Reader()
    plan = MeasurePlan(collection="town", canaries=4, **FAST)
    report = measure_answers({"guess": Guesser(), "read": reader}, some_questions(), out=tmp_path, plan=plan)
    assert (report.headline, report.reference) == ("read", "guess")
    assert report.figure("gold", "read", "overall").mean == pytest.approx(1.0)
    assert report.figure("gold", "read", "citation_recall").mean == 1.0
    assert report.figure("none", "read", "abstention_f1").mean == 1.0
    assert report.figure("gold", "guess", "abstention_f1").mean == 0.0
    assert report.errors["read"]["right"].mean == 1.0
    assert report.canaries["read"].steered.mean == 0.0
    assert len(read_answer_report(tmp_path / REPORT_FILE).rows) == 8
    assert "## With gold passages" in (tmp_path / TABLE_FILE).read_text()
    assert "<title>" in (tmp_path / PAGE_FILE).read_text()
    facts = report.provenance["systems"]
    assert facts["read"]["identity"] == {"what": "reader"}
    assert facts["guess"]["identity"] == {"system": "guess"}
    assert facts["read"]["answers"] == len(reader.asked)
    json.dumps(json.loads((tmp_path / REPORT_FILE).read_text())["provenance"])


def test_a_prompt_is_asked_once(tmp_path: Path) -> None:
    reader = Reader()
    plan = MeasurePlan(conditions=("gold", "retrieved", "removed", "none"), canaries=8, window=3, **FAST)
    measure_answers({"read": reader}, some_questions(), out=tmp_path, plan=plan)
    assert len(set(reader.asked)) == len(reader.asked)
    again = Reader()
    measure_answers({"another name": again}, some_questions(), out=tmp_path, plan=plan)
    assert again.asked == []
    other = Reader({"what": "another"})
    measure_answers({"read": other}, some_questions(), out=tmp_path, plan=plan)
    assert len(other.asked) == len(reader.asked)


def test_another_prompt_or_threshold_is_another_system(tmp_path: Path) -> None:
    class Prompt:
        def __init__(self, style: str) -> None:
            self.style = style

        def identity(self) -> dict[str, str]:
            return {"style": self.style}

    class Calibration:
        def to_json(self) -> dict[str, float]:
            return {"threshold": 0.5}

    plan = MeasurePlan(conditions=("gold",), **FAST)
    for style, calibration, length in (
        ("brief", None, 9),
        ("full", None, 9),
        ("full", Calibration(), 9),
        ("full", None, 8),
    ):
        reader = Reader()
        reader.prompt, reader.calibration, reader.max_new_tokens = Prompt(style), calibration, length
        report = measure_answers({"read": reader}, some_questions(), out=tmp_path, plan=plan)
        assert len(reader.asked) == 8
    assert report.provenance["systems"]["read"]["identity"] == {
        "what": "reader",
        "prompt": {"style": "full"},
        "max_new_tokens": 8,
    }


def test_killed_and_continued(tmp_path: Path) -> None:
    plan = MeasurePlan(window=3, canaries=2, **FAST)
    whole = Reader()
    wanted = measure_answers({"read": whole}, some_questions(), out=tmp_path / "whole", plan=plan)
    first = Reader(fail_after=9)
    with pytest.raises(KeyboardInterrupt):
        measure_answers({"read": first}, some_questions(), out=tmp_path / "killed", plan=plan)
    assert len(first.asked) == 9
    (journal,) = (tmp_path / "killed").glob("answers-*.jsonl")
    with journal.open("ab") as file:
        file.write(b'{"sum":"torn')
    notes = []

    class Told(Progress):
        def stage(self, name: str) -> None:
            notes.append(name)

    second = Reader()
    report = measure_answers({"read": second}, some_questions(), out=tmp_path / "killed", plan=plan, progress=Told())
    assert len(first.asked) + len(second.asked) == len(whole.asked)
    assert not set(first.asked) & set(second.asked)
    assert f"read answers (9 of {len(whole.asked)} are in the journal)" in notes
    assert [row.model_dump_json() for row in report.rows] == [row.model_dump_json() for row in wanted.rows]


def test_who_obeys_is_steered(tmp_path: Path) -> None:
    plan = MeasurePlan(canaries=40, **FAST)
    report = measure_answers(
        {"read": Reader(), "obey": Reader({"what": "obeys"}, obeys=True)}, some_questions(40), out=tmp_path, plan=plan
    )
    found = report.canaries["obey"]
    assert found.kinds["ignore-and-say"].steered.mean == 1.0
    assert found.kinds["see-also"].steered.mean == 0.0
    assert report.canaries["read"].steered.mean == 0.0


def test_canaries_go_to_questions_with_an_answer_first(tmp_path: Path) -> None:
    report = measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=MeasurePlan(canaries=4, **FAST))
    assert report.canaries["read"].tried == 4
    none = measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=MeasurePlan(**FAST))
    assert none.canaries == {}
    bare = MeasurePlan(conditions=("none",), canaries=4, **FAST)
    assert measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=bare).canaries == {}


def test_another_retriever(tmp_path: Path) -> None:
    seen = []

    def watched(passages):
        seen.extend(passages)
        return words(passages)

    report = measure_answers(
        {"read": Reader()}, some_questions(), out=tmp_path, plan=MeasurePlan(**FAST), retriever=watched, pool=["More."]
    )
    assert len(seen) == 9
    assert "watched" in report.provenance["retriever"]


def test_a_judge_gives_a_second_opinion(tmp_path: Path) -> None:
    oracle = Oracle()
    plan = MeasurePlan(conditions=("gold",), **FAST)
    report = measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=plan, judge=oracle.opened())
    assert len(oracle.asked) == 4
    assert ("The comet was built in 1900.", some_questions().examples[0].passages[0]) in oracle.asked
    assert report.figure("gold", "read", "unsupported_judge").n == 4
    assert report.provenance["judge"]["name"] == "oracle"
    again = Oracle()
    measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=plan, judge=again.opened())
    assert again.asked == []


def test_what_a_judge_cannot_read_does_not_count(tmp_path: Path) -> None:
    support = judge_support(Oracle(unreadable="guild").opened(), [], tmp_path)
    assert support("anything", []) == 0.0
    assert support("anything", ["x"]) != support("anything", ["x"])
    plan = MeasurePlan(conditions=("gold",), **FAST)
    judge = Oracle(unreadable="guild").opened()
    report = measure_answers({"read": Reader()}, some_questions(), out=tmp_path, plan=plan, judge=judge)
    assert report.figure("gold", "read", "unsupported_judge").n == 0


@pytest.mark.parametrize(
    ("plan", "error", "message"),
    [
        ({"conditions": ("golden",)}, ConfigError, "did you mean 'gold'"),
        ({"conditions": ()}, ConfigError, "name at least one"),
        ({"conditions": ("gold", "gold")}, ConfigError, "each once"),
        ({"headline": "reed"}, ConfigError, "did you mean 'read'"),
        ({"headline": "read", "reference": "read"}, ConfigError, "compared with itself"),
        ({"canaries": -1}, ConfigError, "canaries -1"),
        ({"window": 0}, ConfigError, "window 0"),
        ({"depth": 0}, ConfigError, "depth 0"),
    ],
)
def test_bad_plans(tmp_path: Path, plan: dict, error: type[Exception], message: str) -> None:
    reader = Reader()
    with pytest.raises(error, match=message):
        measure_answers({"read": reader}, some_questions(), out=tmp_path, plan=MeasurePlan(**plan))
    assert reader.asked == []


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no question"):
        measure_answers({"read": Reader()}, Set([]), out=tmp_path)
    with pytest.raises(ConfigError, match="no system"):
        measure_answers({}, some_questions(), out=tmp_path)
    twice = Set(some_questions().examples[:1] * 2)
    with pytest.raises(DataError, match="'q0' is there twice"):
        measure_answers({"read": Reader()}, twice, out=tmp_path)

    class Silent:
        def answer(self, questions, passages):
            return []

    with pytest.raises(DataError, match="silent gave 0 answers to 16 questions"):
        measure_answers({"silent": Silent()}, some_questions(), out=tmp_path)


class Away(OpenAnswerer):
    """Answers every other question; the others get no reply until `there`."""

    there = False

    def stream(self, questions, passages):
        for place, question in enumerate(questions):
            answer = Answer(f"It is {question}") if self.there or place % 2 else None
            reason = None if answer else "status 503"
            yield AnswerRow(place, answer, 0.5, 0, False, reason, 1, 1, 0.1)


def test_no_reply_is_no_abstention_and_is_asked_for_again(tmp_path):
    away = Away("far", {"model": "far"}, None, AnswerPrompt(), lambda form, limit: pytest.fail("loaded"))
    plan = MeasurePlan(conditions=("gold",), canaries=0, **FAST)
    with pytest.raises(DataError, match="run the command again"):
        measure_answers({"far": away}, some_questions(), out=tmp_path, plan=plan)
    object.__setattr__(away, "there", True)
    report = measure_answers({"far": away}, some_questions(), out=tmp_path, plan=plan)
    assert report.provenance is not None
    kept = [line for file in tmp_path.glob("answers-*.jsonl") for line in file.read_text().splitlines()]
    assert len(kept) == 9 and not any('"abstained": true' in line for line in kept)
