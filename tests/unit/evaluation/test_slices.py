"""Which query lies in which bin."""

from __future__ import annotations

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.errors import DataError
from searchtune.evaluation.slices import (
    length_bins,
    overlap_bins,
    query_bins,
    relevant_bins,
    tag_bins,
    word_overlap,
)
from searchtune.types import Collection

DOCS = {"d1": ("Red", "apple pie"), "d2": ("", "a green pear"), "d3": ("", "blue sky")}
QUERIES = {"q1": "what is the red apple", "q2": "pear", "q3": "the what", "q4": "red pear sky", "q5": "nothing"}
LABELS = [("q1", "d1", 1), ("q2", "d3", 1), ("q2", "d2", 2), ("q3", "d1", 1), ("q4", "d1", 1), ("q4", "d2", 0), ("q5", "d1", 0)]  # fmt: skip


@pytest.fixture
def c() -> Collection:
    return build_collection("c", DOCS, QUERIES, {"test": LABELS})


def members(bins: dict) -> dict:
    return {name: np.flatnonzero(inside).tolist() for name, inside in bins.items()}


def test_lengths_split_where_lengths_change() -> None:
    assert members(length_bins(np.array([2, 9, 3, 5, 6, 3]))) == {
        "2–3 words": [0, 2, 5], "4–5 words": [3], "6–9 words": [1, 4],
    }  # fmt: skip
    assert members(length_bins(np.array([4, 4, 4]))) == {"4 words": [0, 1, 2]}
    assert members(length_bins(np.array([1]))) == {"1 word": [0]}
    assert members(length_bins(np.array([0, 0, 7]))) == {"0 words": [0, 1], "1–7 words": [2]}
    assert length_bins(np.array([], dtype=np.int64)) == {}
    many = length_bins(np.arange(400) % 40)
    assert [int(inside.sum()) for inside in many.values()] == [100] * 4


def test_relevant_counts() -> None:
    bins = members(relevant_bins(np.array([0, 1, 2, 5, 6, 40])))
    assert bins == {"none relevant": [0], "1 relevant": [1], "2–5 relevant": [2, 3], "6+ relevant": [4, 5]}


def test_overlap_takes_the_best_relevant_document(c: Collection) -> None:
    shares = word_overlap(c, c.split("test"))
    assert shares[:2].tolist() == [1.0, 1.0]
    assert shares[2] == 0  # stop words only, so they count
    assert shares[3] == pytest.approx(1 / 3)  # the pear is in a document that is not relevant
    assert np.isnan(shares[4])
    assert members(overlap_bins(shares)) == {
        "below a third": [2], "a third to two thirds": [3], "over two thirds": [0, 1],
    }  # fmt: skip


def test_all_kinds_and_tags(c: Collection) -> None:
    test = c.split("test")
    assert list(query_bins(c, test)) == ["query length", "relevant documents", "words shared with the answer"]
    tags = {"q1": ["fruit", "colour"], "q2": ["fruit"], "q3": []}
    assert members(query_bins(c, test, tags)["tag"]) == {"fruit": [0, 1], "colour": [0], "without a tag": [2, 3, 4]}
    assert tag_bins(c, test, {}) == {}
    assert len(tag_bins(c, test, {"q1": [f"t{i:02}" for i in range(30)]})) == 13
    with pytest.raises(DataError, match="tags name query 'q9', which is not in the collection; known: q1"):
        tag_bins(c, test, {"q9": ["x"]})
