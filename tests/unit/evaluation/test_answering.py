"""Reports of answers: figures, tests, errors told apart, words, tables, and evidence that cannot be used."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.evaluation.made_up_answers import NO, made_up_answers

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation.answer_report import (
    SHOWN_FIGURES,
    AnswerReport,
    better,
    main_condition,
    read_answer_report,
    write_answer_report,
)
from searchtune.evaluation.answer_table import answer_markdown, answer_table
from searchtune.evaluation.answer_wording import (
    LABELS,
    AnswerOutcome,
    always_abstaining,
    answer_outcome,
    answer_verdict,
    answer_warnings,
)
from searchtune.evaluation.answering import AnswerEvidence, CanaryTrial, build_answer_report, error_kind
from searchtune.metrics.answers import AnswerCase
from searchtune.prompts.answer_canaries import find_answer_canary, plant_answer_canaries
from searchtune.types import Answer

ROUNDS = 400
RIGHT = Answer("The gate is blue [1].", (1,))
WRONG = Answer("Elephants never forget [1].", (1,))
GATE = "The gate is blue."


@pytest.fixture(scope="module")
def report() -> AnswerReport:
    return build_answer_report(made_up_answers(), rounds=ROUNDS)


def evidence_of(answers: dict[str, list[Answer]], *, answerable: list[bool] | None = None, **more) -> AnswerEvidence:
    """Systems with one answer a question, all from one gold passage."""
    count = len(next(iter(answers.values())))
    known = answerable if answerable is not None else [True] * count
    names = list(answers)
    cases = {
        name: {
            "gold": [
                AnswerCase(answer, (GATE,), (0,) if can else (), (GATE,) if can else ())
                for answer, can in zip(given, known, strict=True)
            ]
        }
        for name, given in answers.items()
    }
    settings = {"headline": names[-1], "reference": names[0] if len(names) > 1 else None} | more
    return AnswerEvidence("gates", [f"q{i}" for i in range(count)], ["what?"] * count, known, cases, **settings)


def test_every_figure_is_there(report: AnswerReport) -> None:
    assert list(report.conditions) == ["gold", "retrieved", "none"]
    assert report.systems == ["base", "tuned"]
    assert set(SHOWN_FIGURES) == set(LABELS)
    assert set(report.figures) == set(SHOWN_FIGURES) - {"unsupported_judge"}
    for condition, it in report.conditions.items():
        found = report.figure(condition, "tuned", "abstention_f1")
        assert it.n == 60
        assert found.low <= found.mean <= found.high
    assert report.conditions["gold"].to_abstain == 30
    assert report.conditions["none"].to_abstain == 60
    assert report.conditions["none"].passages == 0
    assert report.conditions["gold"].found.mean == 1
    assert 0.6 < report.conditions["retrieved"].found.mean < 1
    assert report.figure("none", "tuned", "citation_recall").n == 0
    assert math.isnan(report.figure("gold", "tuned", "unknown").mean)


def test_estimates_are_means_of_what_applies(report: AnswerReport) -> None:
    values = report.values("gold", "tuned", "token_f1")
    assert np.isfinite(values).sum() == 30
    found = report.figure("gold", "tuned", "token_f1")
    assert found.n == 30
    assert found.mean == pytest.approx(np.nanmean(values))


def test_comparisons(report: AnswerReport) -> None:
    gold = report.conditions["gold"]
    f1 = gold.comparison("base", "tuned", "abstention_f1")
    assert f1 is not None
    difference = (
        report.figure("gold", "tuned", "abstention_f1").mean - report.figure("gold", "base", "abstention_f1").mean
    )
    assert f1.delta == pytest.approx(difference)
    assert f1.significant
    assert better(f1)
    unsupported = gold.comparison("base", "tuned", "unsupported")
    assert unsupported is not None
    assert unsupported.delta < 0
    assert better(unsupported)
    assert unsupported.wins > unsupported.losses
    assert gold.comparison("base", "tuned", "words") is None
    raw = sorted(it.p_value for it in gold.comparisons if not math.isnan(it.p_value))
    assert gold.comparisons[0].p_holm >= raw[0]
    assert min(it.p_holm for it in gold.comparisons) == pytest.approx(raw[0] * len(raw))


def test_the_verdict_speaks_of_what_users_meet() -> None:
    assert main_condition(["none", "gold", "retrieved"]) == "retrieved"
    assert main_condition(["none", "gold"]) == "gold"
    assert main_condition(["removed", "none"]) == "removed"


def test_same_seed_same_report(report: AnswerReport) -> None:
    assert build_answer_report(made_up_answers(), rounds=ROUNDS).model_dump_json() == report.model_dump_json()


def test_json_and_back(report: AnswerReport, tmp_path: Path) -> None:
    write_answer_report(report, tmp_path / "answers.json")
    again = read_answer_report(tmp_path / "answers.json")
    assert answer_verdict(again) == answer_verdict(report)
    assert again.model_dump_json() == report.model_dump_json()
    (tmp_path / "answers.json").write_text('{"format": 1}')
    with pytest.raises(DataError, match="not a report of answers: collection"):
        read_answer_report(tmp_path / "answers.json")
    with pytest.raises(DataError, match="cannot be read"):
        read_answer_report(tmp_path / "nowhere.json")


@pytest.mark.parametrize(
    ("alone", "found", "shown", "wanted"),
    [
        (RIGHT, RIGHT, True, "right"),
        (RIGHT, WRONG, True, "distracted"),
        (RIGHT, NO, False, "missed"),
        (RIGHT, NO, True, "distracted"),
        (WRONG, WRONG, True, "synthesis"),
        (WRONG, WRONG, False, "synthesis"),
        (NO, RIGHT, True, "lucky"),
    ],
)
def test_errors_are_told_apart(alone: Answer, found: Answer, shown: bool, wanted: str) -> None:
    gold = AnswerCase(alone, (GATE,), (0,), (GATE,))
    retrieved = AnswerCase(found, (GATE, "x"), (0,) if shown else (), (GATE,))
    assert error_kind(gold, retrieved, answerable=True, right_from=0.4) == wanted


def test_errors_on_questions_without_an_answer_or_reference() -> None:
    def kind(alone: Answer, found: Answer) -> str:
        cases = [AnswerCase(one, (GATE,), (), ()) for one in (alone, found)]
        return error_kind(*cases, answerable=False, right_from=0.4)

    assert [kind(NO, NO), kind(NO, WRONG), kind(WRONG, WRONG)] == ["right", "distracted", "synthesis"]
    uncited = AnswerCase(Answer("It is blue."), (GATE,), (0,))
    cited = AnswerCase(RIGHT, (GATE,), (0,))
    assert error_kind(cited, uncited, answerable=True, right_from=0.4) == "distracted"


def test_error_shares(report: AnswerReport) -> None:
    for system in ("base", "tuned"):
        assert sum(it.mean for it in report.errors[system].values()) == pytest.approx(1)
    assert report.errors["tuned"]["right"].mean > report.errors["base"]["right"].mean
    assert report.errors["base"]["synthesis"].mean > report.errors["tuned"]["synthesis"].mean
    assert {row.errors["tuned"] for row in report.rows} <= {"right", "missed", "distracted", "synthesis", "lucky"}


def test_canaries(report: AnswerReport) -> None:
    base, tuned = report.canaries["base"], report.canaries["tuned"]
    assert base.steered.mean > 0.3 > 0.1 > tuned.steered.mean == 0
    assert sum(it.tried for it in base.kinds.values()) == base.tried <= 60
    assert tuned.change.mean == 0


def test_a_control_that_already_abstains_does_not_count() -> None:
    canary = find_answer_canary("no-answer")
    controls = [AnswerCase(NO, (GATE,), (0,), (GATE,)), AnswerCase(RIGHT, (GATE,), (0,), (GATE,))]
    planted = plant_answer_canaries(["a?", "b?"], [(GATE,)] * 2, seed=0, canaries=[canary])
    trials = [CanaryTrial(one, NO, controls[one.example]) for one in planted]
    found = build_answer_report(evidence_of({"one": [NO, RIGHT]}, trials={"one": trials}), rounds=ROUNDS).canaries[
        "one"
    ]
    assert (found.tried, found.steered.mean, found.change.mean) == (1, 1.0, pytest.approx(-1.0))
    none = build_answer_report(evidence_of({"one": [NO]}, trials={"one": trials[:1]}), rounds=ROUNDS).canaries["one"]
    assert (none.tried, none.kinds["no-answer"].tried) == (0, 0)
    assert math.isnan(none.steered.mean)


def test_verdict_in_words(report: AnswerReport) -> None:
    assert answer_outcome(report) is AnswerOutcome.BETTER
    said = answer_verdict(report)
    assert said[0] == "tuned answers better than base with retrieved passages."
    assert said[1].startswith("Overall 0.")
    assert "a difference to believe" in said[1]
    assert any(it.startswith("With gold passages: better by overall, ") for it in said)
    assert any("abstaining from everything has 0." in it for it in said)
    assert any("mend " in it for it in said)
    assert any(it.startswith("Planted instructions steered") for it in said)
    assert not any(it.startswith("Planted") for it in answer_warnings(report))


def test_the_other_way_round_is_worse_and_warned_of() -> None:
    turned = replace(made_up_answers(), headline="base", reference="tuned")
    report = build_answer_report(turned, rounds=ROUNDS)
    assert answer_outcome(report) is AnswerOutcome.WORSE
    topics = [it.partition(":")[0] for it in answer_warnings(report)]
    assert "Planted instructions" in topics
    assert "Citations" in topics


def test_outcomes_of_small_and_equal_sets() -> None:
    few = build_answer_report(evidence_of({"a": [RIGHT] * 4, "b": [WRONG] * 4}), rounds=ROUNDS)
    assert answer_outcome(few) is AnswerOutcome.TOO_FEW  # were all four wrong, chance would do it once in eight
    assert "not to be told by overall" in " ".join(answer_verdict(few))
    same = build_answer_report(evidence_of({"a": [RIGHT] * 20, "b": [RIGHT] * 20}), rounds=ROUNDS)
    assert answer_outcome(same) is AnswerOutcome.NO_DIFFERENCE
    assert "cannot be told apart from" in answer_verdict(same)[0]
    assert (
        answer_outcome(build_answer_report(evidence_of({"a": [RIGHT], "b": [WRONG]}), rounds=ROUNDS))
        is AnswerOutcome.TOO_FEW
    )
    alone = build_answer_report(evidence_of({"a": [RIGHT, WRONG]}), rounds=ROUNDS)
    assert answer_outcome(alone) is AnswerOutcome.ALONE
    assert answer_verdict(alone)[0].startswith("a scores 0.500")
    assert alone.errors == {}


def test_no_questions_at_all() -> None:
    report = build_answer_report(evidence_of({"a": [], "b": []}), rounds=ROUNDS)
    assert report.questions == 0
    assert report.rows == []
    assert answer_outcome(report) is AnswerOutcome.TOO_FEW
    assert answer_table(report)
    assert answer_markdown(report)


def test_all_abstain_and_nobody_abstains() -> None:
    half = [True, False] * 10
    report = build_answer_report(
        evidence_of({"never": [WRONG] * 20, "always": [NO] * 20}, answerable=half), rounds=ROUNDS
    )
    assert (
        report.figure("gold", "always", "abstention_f1").mean
        == pytest.approx(always_abstaining(20, 10))
        == pytest.approx(2 / 3)
    )
    assert report.figure("gold", "never", "abstention_f1").mean == 0
    assert math.isnan(report.figure("gold", "never", "abstention_precision").mean)
    assert report.figure("gold", "always", "words").n == 0
    assert any("nearly every question" in it for it in answer_warnings(report))
    compared = report.conditions["gold"].comparison("never", "always", "unsupported")
    assert compared is not None
    assert compared.n == 0
    assert math.isnan(compared.p_value)
    assert not compared.significant
    turned = report.model_copy(update={"headline": "never", "reference": "always"})
    assert any("never abstains" in it for it in answer_warnings(turned))


def test_a_judges_opinion_is_a_figure_of_its_own() -> None:
    evidence = replace(
        made_up_answers(20, canaries=False), judge=lambda sentence, passages: 0.9 if "opened" in sentence else 0.2
    )
    report = build_answer_report(evidence, rounds=ROUNDS)
    assert report.figure("gold", "tuned", "unsupported_judge").n > 0
    assert "unsupported, by the judge" in answer_markdown(report)


def test_tables(report: AnswerReport) -> None:
    text = "\n".join(answer_table(report))
    assert "with retrieved passages (60 questions," in text
    assert "▲" in text
    assert "planted instructions steer it" in text
    markdown = answer_markdown(report)
    assert markdown.count("\n## ") == 5
    assert all(line.count("|") == 4 for line in markdown.splitlines() if line.startswith("| token F1"))
    assert "| abstention F1 |" in markdown


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"headline": "tune"}, ConfigError, "did you mean 'tuned'"),
        ({"reference": "tuned"}, ConfigError, "compared with itself"),
        ({"cases": {}}, ConfigError, "no system"),
        ({"ids": ["q0"] * 60}, DataError, "'q0' is there twice"),
        ({"questions": ["?"]}, DataError, "60 ids for 1 questions"),
    ],
)
def test_evidence_that_cannot_be_used(change: dict, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        build_answer_report(replace(made_up_answers(canaries=False), **change), rounds=ROUNDS)


def test_systems_must_be_asked_alike() -> None:
    evidence = made_up_answers(canaries=False)
    base, tuned = evidence.cases["base"], evidence.cases["tuned"]
    with pytest.raises(DataError, match="ask alike"):
        build_answer_report(replace(evidence, cases={"base": base, "tuned": {"gold": tuned["gold"]}}))
    with pytest.raises(DataError, match="59 answers to 60 questions"):
        build_answer_report(replace(evidence, cases={"base": base, "tuned": {**tuned, "gold": tuned["gold"][1:]}}))
    other = [*tuned["gold"][:-1], AnswerCase(NO, ("another",))]
    with pytest.raises(DataError, match="question 'q59' was answered from other passages"):
        build_answer_report(replace(evidence, cases={"base": base, "tuned": {**tuned, "gold": other}}))
