"""Answering with a backend that is no model: who is asked what, and what becomes of each reply."""

import math

import pytest

from searchtune.metrics.abstention import AbstentionRule
from searchtune.pipeline.answering import LlmAnswerer
from searchtune.prompts.answer import ABSTENTION, AnswerPrompt
from searchtune.types import Answer
from unit.workflows.answering import Parrot

READ = AnswerPrompt("brief", abstain="read")


def test_only_what_is_answerable_is_written():
    parrot = Parrot("It is [2]. Or [7].")
    found = LlmAnswerer(parrot, READ).answer(["a", "b", "c"], [["yes", "x"], ["no", "x"], ["x", "yes"]])
    assert [one.abstained for one in found] == [False, True, False]
    assert found[0] == Answer("It is [2]. Or [7].", (2,)) and found[1] == Answer(ABSTENTION, abstained=True)
    assert len(parrot.read) == 3 and len(parrot.asked) == 2
    assert parrot.asked[0] == READ.write("a", ["yes", "x"])


def test_the_threshold_decides():
    sure = AbstentionRule(threshold=0.95)
    bold = AbstentionRule(threshold=0.1)
    asked = (["a", "b"], [["yes"], ["no"]])
    assert [one.abstained for one in LlmAnswerer(Parrot(), READ, rule=sure).answer(*asked)] == [True, True]
    assert [one.abstained for one in LlmAnswerer(Parrot(), READ, rule=bold).answer(*asked)] == [False, False]


def test_a_rule_may_weigh_the_words_of_the_question():
    covering = AbstentionRule(reading=0.0, others=(10.0, 0.0, 0.0), bias=-5.0)
    found = LlmAnswerer(Parrot(), READ, rule=covering).answer(
        ["tide rise", "tide rise"], [["bread"], ["the tide rises"]]
    )
    assert [one.abstained for one in found] == [True, False]


def test_written_abstention_reads_nothing():
    parrot = Parrot(ABSTENTION)
    (row,) = LlmAnswerer(parrot, AnswerPrompt("full")).stream(["a"], [["yes"]])
    assert not parrot.read and row.answer.abstained and math.isnan(row.answerable)


def test_rows_tell_all():
    parrot = Parrot("It is [1] [9].", silent="yes but silent")
    asked = [["yes"], ["unreadable"], ["yes but silent"], ["nothing"]]
    rows = {row.question: row for row in LlmAnswerer(parrot, READ).stream(list("abcd"), asked)}
    assert sorted(rows) == [0, 1, 2, 3]
    assert (rows[0].outside, rows[0].prompt_tokens, rows[0].completion_tokens) == (1, 30, 5)
    assert rows[0].answerable == pytest.approx(0.9) and rows[3].answerable == pytest.approx(0.2)
    assert (rows[1].answer, rows[1].reason) == (None, "not finite")
    assert (rows[2].answer, rows[2].reason) == (None, "no answer in 6 attempts")
    assert rows[3].answer.abstained and rows[3].prompt_tokens == 10
    found = LlmAnswerer(parrot, READ).answer(list("abcd"), asked)
    assert [one.abstained for one in found] == [False, True, True, True], "without a reply nothing is said"


def test_no_question():
    assert LlmAnswerer(Parrot(), READ).answer([], []) == []


def test_a_question_without_passages_is_asked():
    (answer,) = LlmAnswerer(Parrot("So [1]."), AnswerPrompt("full")).answer(["a"], [[]])
    assert answer == Answer("So [1].")
