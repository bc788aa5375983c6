"""Near-duplicates, against the answer of brute force."""

import random
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.data import shingles as shingles_module
from searchtune.data.near import components, near_groups, near_pairs, normalise, shingles


def exact(left, right, threshold):
    """Every pair by brute force."""
    found = []
    for (i, a), (j, b) in product(enumerate(map(shingles, left)), enumerate(map(shingles, right))):
        if a | b and len(a & b) / len(a | b) >= threshold:
            found.append((i, j))
    return sorted(found)


@pytest.mark.parametrize("threshold", [0.5, 0.7, 0.9, 1.0])
def test_pairs_are_those_of_brute_force(threshold):
    rng = random.Random(3)
    words = [f"w{i}" for i in range(40)]
    left = [" ".join(rng.choices(words, k=rng.randint(1, 40))) for _ in range(60)]
    right = []
    for text in left:
        copy = text.split()
        for _ in range(rng.randint(0, 3)):
            copy[rng.randrange(len(copy))] = rng.choice(words)
        right.append(" ".join(copy))
    found = near_pairs(left, right, threshold)
    assert [(pair.left, pair.right) for pair in found] == exact(left, right, threshold)
    assert len(found) >= 10


def test_case_punctuation_and_width_do_not_count():
    assert normalise(" Ｗhat's  UP?\n") == "what s up"
    assert near_pairs(["What is up?"], ["what IS up", "what was up"]) == [(0, 0, 1.0)]


def test_texts_without_words_are_near_only_their_like():
    assert near_pairs(["???", ""], ["???", "!!!", ""]) == [(0, 0, 1.0)]


@pytest.mark.parametrize(("words", "near"), [(10, False), (28, False), (29, True), (40, True)])
def test_one_changed_word_is_near_in_long_texts_only(words, near):
    text = [f"w{i}" for i in range(words)]
    other = [*text[:5], "changed", *text[6:]]
    assert bool(near_pairs([" ".join(text)], [" ".join(other)])) == near


def test_repeated_texts_are_all_reported():
    assert [tuple(p)[:2] for p in near_pairs(["a b", "a b"], ["A b.", "c", "a B"])] == [(0, 0), (0, 2), (1, 0), (1, 2)]


def test_groups_join_rows_by_any_column():
    first = ["same words here", "same words here!", "other", "fourth"]
    second = ["x", "y", "z z z z", "z z z z"]
    assert near_groups([first, second]) == [0, 0, 2, 2]
    assert near_groups([["a"], ["b"]]) == [0]
    assert near_groups([[]]) == []


@given(st.integers(1, 12).flatmap(lambda n: st.tuples(st.just(n), st.lists(st.tuples(*[st.integers(0, n - 1)] * 2)))))
def test_components_are_named_by_their_smallest_member(graph):
    count, links = graph
    reach = [{i} for i in range(count)]
    for _ in range(count):
        for a, b in links:
            reach[a] = reach[b] = reach[a] | reach[b]
        for group in reach:
            for member in list(group):
                group |= reach[member]
    assert components(count, links) == [min(group) for group in reach]


@pytest.mark.parametrize("threshold", [0.1, 0.5, 0.7, 0.9, 1.0])
def test_no_pair_is_missed_whatever_is_looked_at_at_once(monkeypatch, threshold):
    random = np.random.default_rng(3)
    words = np.array([f"word{i}" for i in range(60)])
    left = [" ".join(words[np.sort(random.choice(60, 25, replace=False))]) for _ in range(30)]
    right = [*left[:10], *(text.replace("word7 ", "") for text in left), "", "!", "word1"]
    every = near_pairs(left, right, threshold)
    assert [(pair.left, pair.right) for pair in every] == exact(left, right, threshold)
    for name, value in (("_CHUNK", 3), ("_PAIRS", 7), ("_ENTRIES", 50)):
        monkeypatch.setattr(shingles_module, name, value)
    assert near_pairs(left, right, threshold) == every
    assert len(every) >= 10
    assert near_pairs(left, ["", "   "], threshold) == []


@pytest.mark.parametrize("threshold", [0.3, 0.7, 0.9])
def test_groups_are_those_of_brute_force(threshold):
    rng = random.Random(5)
    texts = [" ".join(rng.choices("abcdefg", k=rng.randint(0, 9))) for _ in range(120)]
    assert near_groups([texts], threshold) == components(len(texts), exact(texts, texts, threshold))


def test_rows_of_a_form_are_no_candidates_for_each_other(monkeypatch):
    """Texts that differ in one word of 25 share nearly all else; none of their pairs need be counted out."""
    texts = [f"user number{i} " + " ".join(f"w{k}" for k in range(23)) for i in range(300)]
    confirm = shingles_module._confirmed
    looked: list[int] = []
    monkeypatch.setattr(
        shingles_module, "_confirmed", lambda sets, pairs, at: looked.append(len(pairs)) or confirm(sets, pairs, at)
    )
    assert near_groups([texts], 0.93) == list(range(300))
    assert sum(looked) == 0
