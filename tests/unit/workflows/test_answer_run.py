"""Answering jobs: each question once, whatever happens in between."""

import json

import pytest

from searchtune.data.answering import read_answers
from searchtune.errors import ConfigError, DataError
from searchtune.specs.answer import AnswerRecipe
from searchtune.storage.journal import JournalView
from searchtune.workflows.answer_fit import fit_answerer
from searchtune.workflows.answer_run import open_answers_job, questions_of_task, run_answers
from unit.workflows.answering import Parrot, opened, some_questions, write_asked

import support  # isort: skip


class Stopped(Exception):
    pass


def test_a_job_writes_answers_and_facts(tmp_path):
    parrot = Parrot("It is [1], not [9].")
    job = run_answers(opened(parrot, abstain="read"), some_questions(tmp_path), tmp_path / "job")
    rows = [json.loads(line) for line in (job.folder / "answers.jsonl").read_text().splitlines()]
    assert [row["id"] for row in rows] == [f"q{i:02}" for i in range(12)]
    assert [row["abstained"] for row in rows] == [i % 2 == 0 for i in range(12)]
    assert rows[1]["citations"] == [1] and rows[1]["cited"] == ["p1"] and rows[0]["cited"] == []
    assert (job.facts["answered"], job.facts["abstained"], job.facts["citations_outside"]) == (12, 6, 6)
    assert job.facts["prompt_tokens"] == 12 * 10 + 6 * 20 and job.facts["cost"] is None and job.missing == 0
    assert job.likelihood[1] == pytest.approx(0.9)
    again = open_answers_job(job.folder)
    assert again.answers == job.answers and again.questions.examples == job.questions.examples


def test_a_killed_job_goes_on_and_asks_nothing_twice(tmp_path):
    questions = some_questions(tmp_path, 40)
    whole = run_answers(opened(Parrot()), questions, tmp_path / "whole")
    first = Parrot(fail_after=19, error=Stopped())
    with pytest.raises(Stopped):
        run_answers(opened(first), questions, tmp_path / "job")
    assert not (tmp_path / "job" / "answers.jsonl").exists()
    assert len(JournalView(tmp_path / "job")) == 19
    second = Parrot()
    job = run_answers(opened(second), questions, tmp_path / "job")
    assert len(second.asked) == 21 and job.facts["asked_now"] == 21
    assert (job.folder / "answers.jsonl").read_bytes() == (whole.folder / "answers.jsonl").read_bytes()
    third = Parrot()
    run_answers(opened(third), questions, tmp_path / "job")
    assert third.asked == []


def test_another_job_is_refused(tmp_path):
    questions = some_questions(tmp_path)
    run_answers(opened(Parrot()), questions, tmp_path / "job")
    with pytest.raises(ConfigError, match="another job"):
        run_answers(opened(Parrot(), style="full"), questions, tmp_path / "job")
    with pytest.raises(ConfigError, match="another job"):
        run_answers(opened(Parrot()), questions.select(lambda one: one.id != "q01"), tmp_path / "job")


def test_what_has_no_reply_is_asked_again(tmp_path):
    questions = some_questions(tmp_path)
    job = run_answers(opened(Parrot(silent="yes 3")), questions, tmp_path / "job")
    assert job.missing == 1 and job.answers[3] is None
    row = json.loads((job.folder / "answers.jsonl").read_text().splitlines()[3])
    assert row["answer"] is None and "run the job again" in row["reason"]
    second = Parrot()
    assert run_answers(opened(second), questions, tmp_path / "job").missing == 0
    assert len(second.asked) == 1


def test_the_same_question_twice_is_asked_once(tmp_path):
    first = json.loads(write_asked(tmp_path / "a.jsonl", 1).read_text())
    questions = read_answers(write_asked(tmp_path / "b.jsonl", 1, rows=[{**first, "id": "again"}]))
    parrot = Parrot()
    job = run_answers(opened(parrot), questions, tmp_path / "job")
    assert len(parrot.asked) == 1 and len(job.answers) == 2 and job.answers[0] == job.answers[1]


def test_costs_are_summed(tmp_path):
    job = run_answers(opened(Parrot()), some_questions(tmp_path), tmp_path / "job", price=lambda tokens, new: 0.5)
    assert job.facts["cost"] == pytest.approx(6.0)


def test_no_question_and_no_job(tmp_path):
    questions = some_questions(tmp_path).select(lambda one: False)
    with pytest.raises(DataError, match="no question to answer"):
        run_answers(opened(Parrot()), questions, tmp_path / "job")
    with pytest.raises(DataError, match="name the folder of a finished"):
        open_answers_job(tmp_path / "nothing")


def test_questions_of_a_task(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "cache"))
    task = str(support.write_collection(tmp_path / "tiny"))
    found = questions_of_task(task, depth=3, max_questions=4)
    assert len(found) == 4 and all(len(one.passages) <= 3 for one in found.examples)
    assert any(one.gold for one in found.examples) and all(one.references for one in found.examples)
    with pytest.raises(ConfigError, match="no split 'tset'"):
        questions_of_task(task, split="tset")
    written = questions_of_task(task, depth=3, max_questions=4, doc_template="{text} ({title})")
    for here, there in zip(found.examples, written.examples, strict=True):
        assert here.passage_ids == there.passage_ids, "words find the same, whatever the answerer reads"
        assert all(passage.endswith(")") for passage in there.passages)
    one = found.examples[0]
    run = tmp_path / "a.run"
    run.write_text("".join(f"{one.id} Q0 {name} {i} {9 - i} t\n" for i, name in enumerate(one.passage_ids, 1)))
    (again,) = [other for other in questions_of_task(task, run=run, depth=2).examples if other.id == one.id]
    assert again.passage_ids == one.passage_ids[:2] and again.question == one.question


def test_any_answerer_is_fitted_on_dev(tmp_path):
    source = {"file": str(write_asked(tmp_path / "asked.jsonl", 40))}
    recipe = AnswerRecipe.model_validate({"base": "b", "train": source, "dev": {"share": 0.5}, "no_gold_share": 0.0})
    parrot = Parrot()
    fitted = fit_answerer(opened(parrot, abstain="read"), recipe.model_copy(update={"distractors": 0}))
    assert len(parrot.read) == 20 and not parrot.asked
    assert fitted.rule.reading > 0 and len(fitted.rule.others) == 3
    answers = fitted.answer(["is it", "is it"], [["yes 1", "other"], ["nothing 2", "other"]])
    assert [one.abstained for one in answers] == [False, True]
    with pytest.raises(ConfigError, match="writes its abstentions"):
        fit_answerer(opened(parrot), recipe)
