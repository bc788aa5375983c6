"""Candidate rewrites: words from documents, what is searched, and the order and ties of preference pairs."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.data.candidates import (
    RewardedTurn,
    WordWeights,
    best_rewrites,
    document_candidates,
    preferences,
    searched_text,
    words,
)
from searchtune.errors import DataError
from searchtune.types import Turn

DOCUMENTS = [
    "shutil.copy_file copy bytes from source to target",
    "os.walk directory tree walk source",
    "json.dump write object bytes target",
    "json.load read object unseen",
]


def rewarded(pairs, original=0.5, query="q"):
    texts, rewards = zip(*pairs, strict=True) if pairs else ((), ())
    return RewardedTurn(query, Turn("how"), original, texts, rewards)


def test_words_are_bm25s_words():
    assert words("A path_list, I/O: é1 x") == ["path_list", "é1"]


@pytest.mark.parametrize(("rewrite", "mode", "text"), [
    ("copy", "append", "how copy"), ("copy", "replace", "copy"), ("copy", "fuse", "copy"),
    ("how", "append", "how"), ("  ", "replace", "how"), ("", "append", "how"),
])  # fmt: skip
def test_what_is_searched(rewrite, mode, text):
    assert searched_text("how", rewrite, mode) == text


def test_idf_is_lucenes_and_words_of_one_document_are_not_taken():
    weights = WordWeights.of(DOCUMENTS)
    assert weights.idf["bytes"] == pytest.approx(math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)))
    assert weights.documents["source"] == 2
    found = weights.weightiest(DOCUMENTS[3], 5)
    assert "unseen" not in found and "load" not in found
    assert set(found) == {"json", "object"}
    assert weights.weightiest(DOCUMENTS[3], 5, leave_out=["json"]) == ["object"]
    assert weights.weightiest("", 5) == []
    assert WordWeights.of([]).weightiest("some words", 3) == []


def test_a_word_said_more_often_weighs_more_and_ties_go_by_the_alphabet():
    weights = WordWeights.of(["bb aa aa", "bb aa cc", "cc dd"])
    assert weights.weightiest("bb aa bb", 2) == ["bb", "aa"]
    assert weights.weightiest("cc bb aa", 3) == ["aa", "bb", "cc"]


def test_rewrites_from_a_document():
    corpus = ["shutil.copy_file bytes source", "shutil.move copy file source", "copy_file bytes"]
    weights = WordWeights.of(corpus)
    found = document_candidates("copy it", "shutil.copy_file", "bytes source", weights, count=1, mode="append")
    assert found == ["shutil copy_file", "bytes", "shutil copy_file bytes"]  # `file` stands in one document alone
    whole = document_candidates("copy it", "shutil.copy_file", "bytes source", weights, count=1, mode="replace")
    assert whole == [f"copy it {text}" for text in found]


@pytest.mark.parametrize("mode", ["append", "replace", "fuse"])
def test_documents_that_add_nothing_give_no_rewrite(mode):
    weights = WordWeights.of(["alpha beta", "alpha beta"])
    assert document_candidates("alpha beta", "alpha", "beta", weights, count=3, mode=mode) == []
    assert document_candidates("gamma", "", "", weights, count=3, mode=mode) == []


def test_best_against_worst_and_on_inwards():
    one = rewarded([("c", 0.2), ("a", 1.0), ("b", 0.9), ("d", 0.0)])
    pairs = preferences([one], min_margin=0.1, per_query=5)
    assert [(p.chosen, p.rejected) for p in pairs] == [("a", "d"), ("b", "c")]
    assert [p.margin for p in pairs] == pytest.approx([1.0, 0.7])
    assert len(preferences([one], min_margin=0.1, per_query=1)) == 1
    assert len(preferences([one], min_margin=0.8, per_query=5)) == 1


def test_ties_go_to_the_shorter_then_to_the_alphabet_on_both_sides():
    one = rewarded([("longer", 1.0), ("bb", 1.0), ("aa", 1.0), ("very long", 0.0), ("zz", 0.0)])
    (pair,) = preferences([one], min_margin=0.5, per_query=1)
    assert (pair.chosen, pair.rejected) == ("aa", "zz")


def test_a_margin_that_is_just_reached_counts():
    one = rewarded([("a", 0.6), ("b", 0.5)])
    assert 0.6 - 0.5 < 0.1
    assert len(preferences([one], min_margin=0.1, per_query=1)) == 1


@pytest.mark.parametrize("pairs", [[], [("a", 1.0)], [("a", 0.3), ("b", 0.3)]])
def test_no_pair_without_a_difference(pairs):
    assert preferences([rewarded(pairs)], min_margin=0.0, per_query=3) == []


@settings(max_examples=60, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=4), st.floats(0, 1), max_size=8), st.floats(0, 1))
def test_pairs_never_share_a_candidate_nor_miss_the_margin(candidates, margin):
    pairs = preferences([rewarded(list(candidates.items()))], min_margin=margin, per_query=4)
    used = [text for pair in pairs for text in (pair.chosen, pair.rejected)]
    assert len(used) == len(set(used))
    for pair in pairs:
        assert candidates[pair.chosen] - candidates[pair.rejected] == pair.margin > 0
        assert pair.margin >= margin - 1e-6


def test_best_rewrites_leave_good_utterances_alone():
    better, equal = rewarded([("x", 0.9), ("how", 0.5)]), rewarded([("x", 0.5), ("how", 0.5)])
    nothing, unknown = rewarded([]), rewarded([("x", 0.5)])
    assert [text for _, text in best_rewrites([better, equal, nothing, unknown])] == ["x", "how"]


@pytest.mark.parametrize(("rewards", "message"), [((1.0,), "2 candidates and 1 rewards"), ((1.0, math.nan), "finite")])
def test_rewards_that_are_wrong(rewards, message):
    with pytest.raises(DataError, match=message):
        RewardedTurn("q7", Turn("how"), 0.0, ("a", "b"), rewards)
