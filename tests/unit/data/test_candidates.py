"""Candidate rewrites: words from documents, what is searched, and the order and ties of preference pairs."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.data.candidates import (
    RewardedTurn,
    WordAssociations,
    best_rewrites,
    document_candidates,
    preferences,
    searched_text,
    word_idf,
)
from searchtune.errors import DataError
from searchtune.types import Turn
from searchtune.words import search_words

PAIRS = [
    ("copy one file", "shutil bytes source"),
    ("copy the tree", "shutil bytes target"),
    ("walk a tree", "os directory source"),
    ("walk down", "os directory target"),
    ("copy a stream", "shutil bytes fileobj"),
    ("read text", "json parser quote"),
]
EVEN = dict.fromkeys(
    ["shutil", "bytes", "source", "target", "os", "directory", "fileobj", "json", "parser", "quote"], 2.0
)


def associations(pairs=PAIRS, idf=None):
    return WordAssociations([query for query, _ in pairs], [document for _, document in pairs], idf or EVEN)


def rewarded(pairs, original=0.5, query="q"):
    texts, rewards = zip(*pairs, strict=True) if pairs else ((), ())
    return RewardedTurn(query, Turn("how"), original, texts, rewards)


def test_words_are_bm25s_words():
    assert search_words("A path_list, I/O: é1 x") == ["path_list", "é1"]


@pytest.mark.parametrize(("rewrite", "mode", "text"), [
    ("copy", "append", "how copy"), ("copy", "replace", "copy"), ("copy", "fuse", "copy"),
    ("how", "append", "how"), ("  ", "replace", "how"), ("", "append", "how"), ("How?", "append", "how"),
    (" HOW", "replace", "how"), ("how", "fuse", "how"), ("how then", "fuse", "how then"),
])  # fmt: skip
def test_what_is_searched(rewrite, mode, text):
    assert searched_text("how", rewrite, mode) == text


def test_idf_is_lucenes():
    idf = word_idf(["bytes bytes here", "bytes there", "none", ""])
    assert idf["bytes"] == pytest.approx(math.log(1 + (4 - 2 + 0.5) / (2 + 0.5)))
    assert word_idf([]) == {}


def test_words_are_guessed_from_what_went_with_the_querys_words():
    assert associations().guesses("copy it", 4) == ["bytes", "shutil"]  # alike in strength: by the alphabet
    assert associations().guesses("copy it", 1) == ["bytes"]
    assert associations().guesses("copy bytes", 4) == ["shutil"]
    assert associations().guesses("walk", 4, least=0.2) == ["directory", "os"]
    strength = 1 - (1 - 3 / 8)  # three of three documents, five added
    assert associations().guesses("copy", 4, least=strength) == ["bytes", "shutil"]
    assert associations().guesses("copy", 4, least=strength + 0.01) == []
    two = associations([*PAIRS, ("big copy", "shutil x"), ("big one", "shutil y")])
    both = 1 - (1 - 4 / 9) * (1 - 2 / 7)  # `shutil` goes with either word
    assert two.guesses("big copy", 4, least=both - 1e-9) == ["shutil"]
    assert two.guesses("big copy", 4, least=both + 1e-9) == []


@pytest.mark.parametrize("query", ["", "read text", "unknown words", "the"])
def test_what_was_seen_once_or_never_is_no_ground_for_a_guess(query):
    assert associations().guesses(query, 4, least=0.0001) == []


def test_a_pair_is_left_out_of_its_own_counts():
    pairs = [
        ("copy", "shutil alpha"),
        ("copy", "shutil beta"),
        ("copy", "gamma gamma"),
        *((f"other{i}", f"delta{i}") for i in range(4)),
    ]
    found = associations(pairs, {"shutil": 1.0})
    assert found.guesses("copy", 4, least=0.2) == ["shutil"]
    assert found.guesses("copy", 4, least=0.0001, pair=0) == []  # one other document is left
    assert found.found("copy", 0, 4, least=0.0001) == []


def test_several_queries_with_one_document_are_one_witness():
    pairs = [("gene raises", "ac8 cell"), ("gene lowers", "ac8 cell"), ("gene halts", "ac8 cell"), ("z", "other")]
    assert associations(pairs, {"ac8": 1.0}).guesses("gene", 4, least=0.0001) == []


def test_common_words_are_not_guessed():
    idf = {**EVEN, "bytes": 0.4}
    assert associations(idf=idf).guesses("copy it", 4) == ["shutil"]


def test_rewrites_from_a_training_pair():
    found = document_candidates("copy one file", 0, associations(), count=2, mode="append")
    assert found == ["bytes shutil", "bytes"]
    whole = document_candidates("copy one file", 0, associations(), count=2, mode="replace")
    assert whole == [f"copy one file {text}" for text in found]
    assert document_candidates("read text", 5, associations(), count=2, mode="fuse") == []


def test_wrong_guesses_are_candidates_too():
    pairs = [*PAIRS, ("copy by mistake", "quote")]
    found = document_candidates("copy by mistake", 6, associations(pairs), count=2, mode="append")
    assert found == ["bytes shutil"]  # in other documents, not in this pair's


def test_no_pairs_give_no_guess():
    assert associations([]).guesses("copy", 4) == []


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
