"""Rankings as reports keep them: labels, ranks, and what is cut first where room is short."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from tests.unit.evaluation.made_up import made_up_collection

from searchtune.evaluation.rankings import RELEVANT, gather_rankings, size_of, within
from searchtune.types import NO_DOC, Qrels, Run

COLLECTION = replace(made_up_collection(docs=30, queries=3), texts=["text " * 100] * 30, min_grade=2)
QRELS = Qrels.from_triples(
    np.array([0, 0, 1, *[2] * 8]), np.array([4, 25, 1, *range(8)]), np.array([1, 2, 2, *range(2, 10)])
)
RUN = Run.ranked(np.array([0, 1, 2]), np.tile(np.arange(26), (3, 1)), -np.tile(np.arange(26.0), (3, 1)))
EMPTY = Run.ranked(np.array([0, 1]), np.array([[7], [NO_DOC]]), np.zeros((2, 1)))
VALUES = {"a": np.array([0.1, 0.9, 0.5]), "b": np.array([0.2, 0.0, 0.5])}
FOUND = gather_rankings(COLLECTION, QRELS, runs={"a": RUN, "b": EMPTY}, values=VALUES)


def ids(cards: list[int]) -> list[str]:
    return [FOUND.cards[card].id for card in cards]


def test_most_different_queries_first() -> None:
    assert list(FOUND.queries) == ["q0001", "q0000", "q0002"]
    assert FOUND.left_out == 0


def test_tops_labels_and_ranks() -> None:
    query = FOUND.queries["q0000"]
    assert ids(query.top["a"]) == [f"doc-{i:04}" for i in range(10)]
    assert ids(query.top["b"]) == ["doc-0007"]
    assert {FOUND.cards[card].id: grade for card, grade in query.grades.items()} == {"doc-0004": 1, "doc-0025": 2}
    assert ids(query.relevant) == ["doc-0025"]  # grade 1 is not relevant here
    assert query.ranks == {"a": [26], "b": [None]}
    assert FOUND.queries["q0001"].top["b"] == []
    assert FOUND.queries["q0002"].top["b"] == []  # the run lacks the query
    assert len(FOUND.queries["q0002"].relevant) == RELEVANT
    assert ids(FOUND.queries["q0002"].relevant)[0] == "doc-0007"


def test_snippets_are_cut_before_queries() -> None:
    size = size_of(FOUND)
    assert within(FOUND, size) == FOUND
    shorter = within(FOUND, size - 1)
    assert (shorter.snippet, shorter.left_out) == (120, 0)
    bare = size_of(within(FOUND, 0).model_copy(update={"queries": {}}))
    least = size_of(
        FOUND.model_copy(update={"snippet": 0, "cards": [it.model_copy(update={"snippet": ""}) for it in FOUND.cards]})
    )
    few = within(FOUND, least - 1)
    assert bare < size_of(few) < least
    assert few.snippet == 0
    assert list(few.queries) == list(FOUND.queries)[: len(few.queries)]
    assert few.left_out == 3 - len(few.queries) > 0
    for name, query in few.queries.items():
        assert [few.cards[card].id for card in query.top["a"]] == ids(FOUND.queries[name].top["a"])
    assert within(FOUND, 10).queries == {}
