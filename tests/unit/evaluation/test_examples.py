"""Which queries are shown, and how their documents are."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.made_up import made_up_collection

from searchtune.evaluation.examples import SNIPPET, pick_examples, shorten
from searchtune.types import NO_DOC, Qrels, Run

COLLECTION = replace(
    made_up_collection(docs=6, queries=3),
    titles=["", "One", "Two", "Three", "Four", "Five"],
    texts=["zero " * 1000, "", "two", "three", "four", "five"],
)
QRELS = Qrels.from_triples(np.array([0, 0, 1, 2]), np.array([0, 3, 1, 2]), np.array([2, 0, 1, 1]))


def run(*rows: list[int]) -> Run:
    scores = np.tile(np.arange(len(rows[0]), 0, -1, dtype=np.float32), (len(rows), 1))
    return Run.ranked(np.arange(len(rows)), np.array(rows), scores)


BEFORE = run([3, 4, 0], [1, 2, 3], [2, 3, NO_DOC])
AFTER = run([0, 3, 4], [2, 3, 4], [2, 3, NO_DOC])
GAINS = np.array([0.5, -1.0, 0.0])
EXAMPLES = pick_examples(
    COLLECTION, QRELS, runs=(("base", BEFORE), ("tuned", AFTER)), gains=GAINS, slices=["seen", "unseen", "seen"]
)


def test_changed_queries_only_largest_first() -> None:
    assert [(item.id, item.gain, item.slice) for item in EXAMPLES.best] == [("q0000", 0.5, "seen")]
    assert [(item.id, item.gain) for item in EXAMPLES.worst] == [("q0001", -1.0)]


def test_labels_are_marked() -> None:
    top = EXAMPLES.best[0].top_b
    assert [(hit.id, hit.grade, hit.relevant) for hit in top] == [
        ("doc-0000", 2, True),
        ("doc-0003", 0, False),
        ("doc-0004", None, False),
    ]


def test_ranks_of_relevant_documents() -> None:
    best, worst = EXAMPLES.best[0].wanted[0], EXAMPLES.worst[0].wanted[0]
    assert (best.id, best.rank_a, best.rank_b) == ("doc-0000", 3, 1)
    assert best.title.startswith("zero zero")  # a document without a title goes by its text
    assert (worst.title, worst.rank_a, worst.rank_b) == ("One", 1, None)


def test_long_and_empty_texts() -> None:
    first, last = EXAMPLES.best[0].top_b[0], EXAMPLES.worst[0].top_a[0]
    assert len(first.snippet) <= SNIPPET
    assert first.snippet.endswith("zero…")
    assert (last.title, last.snippet) == ("One", "")


def test_query_that_a_run_lacks_shows_nothing() -> None:
    short = AFTER.select(np.array([False, True, True]))
    found = pick_examples(
        COLLECTION, QRELS, runs=(("a", BEFORE), ("b", short)), gains=-np.ones(3), slices=["unknown"] * 3
    )
    assert [item.top_b for item in found.worst if item.id == "q0000"] == [[]]


@pytest.mark.parametrize(
    ("text", "length", "short"),
    [
        ("a  b\n c", 10, "a b c"),
        ("one two three", 9, "one two…"),
        ("one, two", 6, "one…"),
        ("x" * 50, 10, "x" * 9 + "…"),
        ("", 5, ""),
    ],
)
def test_shorten(text: str, length: int, short: str) -> None:
    assert shorten(text, length) == short
