"""Exact match, token F1 and ROUGE-L against values worked out by hand."""

from __future__ import annotations

from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.metrics.text_overlap import best_of, exact_match, longest_common_subsequence, rouge_l, token_f1


@pytest.mark.parametrize(
    ("text", "reference", "expected"),
    [
        ("The cat.", "a CAT", 1.0),
        ("the cat sat", "cat sat down", 2 * 2 / (2 + 3)),
        ("cat cat", "cat", 2 * 1 / (2 + 1)),
        ("", "", 1.0),
        ("", "cat", 0.0),
        ("the", "an", 1.0),
        ("dog", "cat", 0.0),
    ],
)
def test_token_f1_counts_words_as_squad_does(text: str, reference: str, expected: float) -> None:
    assert token_f1(text, reference) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("text", "reference", "same"), [("The cat!", "cat", 1.0), ("cats", "cat", 0.0), ("a-b", "ab", 1.0)]
)
def test_exact_match_forgives_case_articles_and_punctuation(text: str, reference: str, same: float) -> None:
    assert exact_match(text, reference) == same


def test_rouge_l_follows_the_order_of_words() -> None:
    assert rouge_l("police killed the gunman", "police kill the gunman") == pytest.approx(0.75)
    assert rouge_l("the gunman police kill", "police kill the gunman") == pytest.approx(0.5)
    assert rouge_l("", "x") == 0.0


words = st.lists(st.sampled_from("abc"), max_size=7)


@given(words, words)
def test_the_longest_common_subsequence_is_the_longest(first: list[str], second: list[str]) -> None:
    def parts(of: list[str]) -> set[tuple[str, ...]]:
        return {part for size in range(len(of) + 1) for part in combinations(of, size)}

    assert longest_common_subsequence(first, second) == max(map(len, parts(first) & parts(second)))


def test_the_best_of_several_references_counts() -> None:
    assert best_of(token_f1, "cat", ["dog", "cat"]) == 1.0
    assert best_of(token_f1, "cat", []) == 0.0
