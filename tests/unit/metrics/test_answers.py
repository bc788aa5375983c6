"""Metrics of answers against values worked out by hand, and the cases in which a figure has no value."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchtune.errors import DataError
from searchtune.metrics.answer_support import (
    Sentence,
    cited_numbers,
    content_words,
    sentences,
    unbacked_rate,
    unsupported_rate,
    without_citations,
    word_support,
)
from searchtune.metrics.answers import (
    ABSTENTION,
    FIGURES,
    AnswerCase,
    abstention_difference,
    abstention_f1,
    abstention_parts,
    citation_scores,
    measure_answers,
    reference_overlap,
)
from searchtune.metrics.cluster import cluster_bootstrap, paired_swap
from searchtune.metrics.significance import Estimate
from searchtune.types import Answer, FloatArray64

SALT = "Salt lowers the freezing point of water, so ice melts."
MOON = "The moon pulls the sea; tides follow."
SAYS_NO = Answer("The passages do not answer this.", abstained=True)


def case(text: str, *, cites=(), gold=(0,), references=(SALT,), passages=(SALT, MOON)) -> AnswerCase:
    return AnswerCase(Answer(text, tuple(cites)), passages, gold, references)


def test_cited_numbers() -> None:
    assert cited_numbers("a [2]. b [1][2] c [ 3 , 4 ] d [6-8] e [x] f (9) [ ]") == (2, 1, 3, 4, 6, 7, 8)
    assert cited_numbers("[8-6] [1-9999] []") == ()
    assert cited_numbers("") == ()


def test_without_citations() -> None:
    assert without_citations("Ice melts [1], slowly [2] .") == "Ice melts, slowly."
    assert without_citations("one [1]\ntwo") == "one\ntwo"


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("", []),
        (" [1] ", []),
        ("...", []),
        ("no full stop [1]", [("no full stop", (1,))]),
        ("One [1]. Two [2]!", [("One.", (1,)), ("Two!", (2,))]),
        ("One. [1] Two. [2][1]", [("One.", (1,)), ("Two.", (2, 1))]),
        ("One.\n[3]", [("One.", (3,))]),
        ("- first [1]\n- second\n2. third", [("first", (1,)), ("second", ()), ("third", ())]),
        ("Dr. Smith and J. Doe met, e.g. at 3.5 m. Then left.", [("Dr. Smith and J. Doe met, e.g. at 3.5 m.", ()), ("Then left.", ())]),
        ('He said "go." She went.', [('He said "go."', ()), ("She went.", ())]),
    ],
)  # fmt: skip
def test_sentences(text: str, wanted: list) -> None:
    assert sentences(text) == [Sentence(*one) for one in wanted]


def test_word_support() -> None:
    assert content_words("The ice of THE sea_ice!") == {"ice", "sea"}
    assert word_support("Ice melts", [SALT]) == 1.0
    assert word_support("Ice breaks quickly, melts", [SALT]) == 0.5
    assert word_support("Ice melts by moon and sea", [SALT]) == 0.5
    assert word_support("Ice melts by moon and sea", [SALT, MOON]) == 1.0
    assert word_support("Ice melts", []) == 0.0
    assert math.isnan(word_support("It is so.", [SALT]))


def test_sentences_that_passages_support() -> None:
    said = sentences("Ice melts [1]. Tides follow the moon [1]. Elephants never forget. It is so.")
    assert unsupported_rate(said, [SALT, MOON]) == pytest.approx(1 / 3)
    assert unbacked_rate(said, [SALT, MOON]) == pytest.approx(2 / 3)
    assert unsupported_rate(said, []) == 1.0
    assert unbacked_rate(said, []) == 1.0
    assert math.isnan(unsupported_rate([], [SALT]))
    assert math.isnan(unsupported_rate(sentences("It is so."), []))


def test_no_single_passage_supports_what_two_say_together() -> None:
    said = sentences("Ice melts, freezing point; moon, sea, tides [1][2].")
    assert unsupported_rate(said, [SALT, MOON]) == 1.0
    assert unbacked_rate(said, [SALT, MOON]) == 0.0
    assert unbacked_rate(sentences("Ice melts [9]."), [SALT]) == 1.0


def test_another_supporter_is_asked() -> None:
    asked = []

    def supporter(sentence: str, passages) -> float:
        asked.append((sentence, tuple(passages)))
        return 0.9 if passages == [MOON] else 0.1

    said = sentences("It is so [2]. Ice melts [1].")
    assert unsupported_rate(said, [SALT, MOON], supporter) == 0.0
    assert unbacked_rate(said, [SALT, MOON], supporter) == 0.5
    assert ("It is so.", (MOON,)) in asked
    assert unsupported_rate(said, [], lambda *_: 1.0) == 1.0  # nothing cannot support anything
    assert unbacked_rate(sentences("Ice melts."), [SALT], lambda *_: 1.0) == 1.0


def test_overlap_takes_the_best_reference_and_leaves_marks_out() -> None:
    assert reference_overlap(case("salt lowers ice [1]", references=("nothing", "Salt lowers ice [2]."))) == (1.0, 1.0)
    f1, rouge = reference_overlap(case("ice melts", references=("ice breaks",)))
    assert (f1, rouge) == (0.5, 0.5)
    assert np.isnan(reference_overlap(case("x", references=()))).all()
    assert reference_overlap(case("")) == (0.0, 0.0)
    assert reference_overlap(AnswerCase(SAYS_NO, (SALT,), (0,), (SAYS_NO.text,))) == (0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "cites", "gold", "wanted"),
    [
        ("a [1].", (1,), (0,), (1.0, 1.0)),
        ("a [1][2].", (1, 2), (0,), (0.5, 1.0)),
        ("a [2].", (2,), (0,), (0.0, 0.0)),
        ("a [1].", (1,), (0, 1), (1.0, 0.5)),
        ("a.", (), (0,), (0.0, 0.0)),
        ("a [1][7].", (1,), (0,), (0.5, 1.0)),  # 7 points at nothing
        ("a", (1,), (0,), (1.0, 1.0)),  # a format that keeps citations apart from the text
        ("a [1].", (1,), (), (math.nan, math.nan)),
    ],
)
def test_citations(text: str, cites: tuple, gold: tuple, wanted: tuple) -> None:
    assert citation_scores(case(text, cites=cites, gold=gold)) == pytest.approx(wanted, nan_ok=True)


def test_an_abstention_has_no_citation_precision() -> None:
    assert citation_scores(AnswerCase(SAYS_NO, (SALT,), (0,))) == pytest.approx((math.nan, 0.0), nan_ok=True)
    assert np.isnan(citation_scores(AnswerCase(SAYS_NO, (SALT,), ()))).all()


def test_a_gold_passage_that_was_not_shown_is_an_error() -> None:
    with pytest.raises(DataError, match="gold passage 2 of 2"):
        case("a", gold=(2,))


def test_all_figures() -> None:
    cases = [
        case(f"{SALT[:-1]} [1].", cites=(1,)),
        AnswerCase(SAYS_NO, (SALT, MOON), (), ()),
        AnswerCase(SAYS_NO, (SALT, MOON), (0,), (SALT,)),
        case("Elephants never forget [2].", cites=(2,), gold=(), references=()),
        case("", references=(SALT,)),
    ]
    found = measure_answers(cases)
    assert tuple(found) == FIGURES
    nan = math.nan
    wanted = {
        "overall": [1, 1, 0, 0, 0],
        "token_f1": [1, nan, 0, nan, 0],
        "answered_f1": [1, nan, nan, nan, 0],
        "rouge_l": [1, nan, 0, nan, 0],
        "citation_precision": [1, nan, nan, nan, 0],
        "citation_recall": [1, nan, 0, nan, 0],
        "unsupported": [0, nan, nan, 1, nan],
        "unbacked": [0, nan, nan, 1, nan],
        "abstention_accuracy": [1, 1, 0, 0, 1],
        "words": [10, nan, nan, 3, 0],
    }
    for name, values in wanted.items():
        np.testing.assert_allclose(found[name], values, err_msg=name)


def test_nothing_to_measure() -> None:
    found = measure_answers([])
    assert {name: values.shape for name, values in found.items()} == dict.fromkeys(FIGURES, (0,))
    assert abstention_parts([]).shape == (0, 2, 2)


def outcomes(*pairs: tuple[bool, bool]) -> np.ndarray:
    """(should abstain, did) of each case."""
    return abstention_parts(
        [AnswerCase(Answer("x", abstained=did), (SALT,), () if should else (0,)) for should, did in pairs]
    )


def figures(parts: np.ndarray) -> list[float]:
    return [float(statistic(parts.sum(axis=0))) for statistic in ABSTENTION.values()]


def test_abstention_of_a_set() -> None:
    parts = outcomes((True, True), (True, True), (True, False), (False, True), (False, False))
    assert figures(parts) == pytest.approx([2 / 3, 2 / 3, 2 / 3])
    everybody = outcomes((True, True), (True, True), (False, True), (False, True))
    assert figures(everybody) == pytest.approx([2 / 3, 0.5, 1.0])
    nobody = outcomes((True, False), (False, False))
    assert figures(nobody) == pytest.approx([0.0, math.nan, 0.0], nan_ok=True)
    no_need = outcomes((False, False), (False, False))
    assert np.isnan(figures(no_need)).all()
    assert np.isnan(figures(outcomes())).all()


def test_abstention_intervals_and_test() -> None:
    good = outcomes(*[(True, True), (False, False)] * 30, *[(True, False)] * 4)
    poor = outcomes(*[(True, True), (False, True)] * 30, *[(True, False)] * 4)
    estimate = cluster_bootstrap(good, ABSTENTION, seed=0, rounds=500)["abstention_f1"]
    assert estimate.mean == pytest.approx(60 / 64)
    assert 0.8 < estimate.low < estimate.mean < estimate.high <= 1
    assert paired_swap(poor, good, abstention_f1, seed=0, rounds=999) < 0.01
    assert paired_swap(good, good, abstention_f1, seed=0, rounds=99) == 1.0


def both_of(a: FloatArray64, b: FloatArray64, name: str, *, seed: int, rounds: int) -> tuple[Estimate, float]:
    found = abstention_difference(a, b, name, seed=seed, rounds=rounds)
    return found.estimate, found.p_value


def test_abstention_differences() -> None:
    good = outcomes(*[(True, True), (False, False)] * 30, *[(True, False)] * 4)
    poor = outcomes(*[(True, True), (False, True)] * 30, *[(True, False)] * 4)
    estimate, p_value = both_of(poor, good, "abstention_f1", seed=0, rounds=999)
    assert estimate.mean == pytest.approx(60 / 64 - 60 / 94)
    assert 0 < estimate.low < estimate.mean < estimate.high
    assert p_value < 0.01
    turned, same = both_of(good, poor, "abstention_f1", seed=0, rounds=999)
    assert turned.mean == -estimate.mean
    assert same < 0.01
    assert abstention_difference(good, good, "abstention_f1", seed=0, rounds=99)[1] == 1.0


def test_a_precision_of_few_abstentions_is_not_believed() -> None:
    """One system abstains three times, the other often: exchange alone would call the difference significant."""
    rare = outcomes(*[(True, True)] * 2, (False, True), *[(True, False)] * 40, *[(False, False)] * 40)
    often = outcomes(*[(True, True)] * 2, (False, False), *[(True, True)] * 40, *[(False, False)] * 40)
    estimate, p_value = both_of(rare, often, "abstention_precision", seed=0, rounds=999)
    assert estimate.mean == pytest.approx(1 / 3)
    assert p_value > 0.05
    assert estimate.low <= 0 <= estimate.high  # stretched: the interval does not contradict the test


def test_undefined_differences() -> None:
    nobody = outcomes((True, False), (False, False))
    everybody = outcomes((True, True), (False, True))
    assert np.isnan(abstention_difference(nobody, everybody, "abstention_precision", seed=0, rounds=99)[1])
    one = outcomes((True, True))
    assert np.isnan(abstention_difference(one, one, "abstention_f1", seed=0, rounds=99)[1])
