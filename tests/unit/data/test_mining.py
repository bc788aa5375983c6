"""Hard negatives: the window, the margin, and positives that are never mined."""

import numpy as np
import pytest

from searchtune.data.examples import KnownRelevance
from searchtune.data.mining import mine_hard_negatives
from searchtune.specs.recipe import HardNegatives
from searchtune.types import NO_DOC, Qrels, Run

SCORES = [0.9, 0.8, 0.7, 0.6, 0.5, 0.4]


def mine(relevant, *, docs=(0, 1, 2, 3, 4, 5), scores=SCORES, doc_groups=range(6), **window):
    queries, wanted = np.array([0] * len(relevant), dtype=np.int64), np.array(relevant, dtype=np.int64)
    labels = Qrels.from_triples(queries, wanted, np.ones(len(relevant), dtype=np.int64))
    known = KnownRelevance(np.arange(1), np.array(doc_groups), labels)
    run = Run(np.array([0]), np.array([docs]), np.array([scores], dtype=np.float32))
    window = {"per_query": 1, "first_rank": 1, "last_rank": 100, "margin": 0.0, **window}
    return mine_hard_negatives(run, labels, known, HardNegatives(**window))[0].tolist()


@pytest.mark.parametrize(
    ("first", "last", "expected"), [(1, 100, [1, 2, 3, 4, 5]), (2, 3, [2, 3]), (5, 9, [5]), (6, 9, []), (1, 1, [1])]
)
def test_the_window_counts_documents_that_are_not_relevant(first, last, expected):
    assert mine([0], first_rank=first, last_rank=last) == expected


def test_two_positives_inside_the_window_move_it():
    # without 0 and 2 the ranking is 1, 3, 4, 5; the ceiling is 0.7, the score of 2
    assert mine([0, 2], first_rank=2, last_rank=3) == [3, 4]
    assert mine([0, 2]) == [3, 4, 5], "1 scores above the lowest positive"


@pytest.mark.parametrize(("margin", "expected"), [(0.0, [2, 3, 4, 5]), (0.2, [3, 4, 5]), (0.3, [4, 5]), (0.6, [])])
def test_likely_unlabelled_positives_are_skipped(margin, expected):
    assert mine([1], margin=margin) == expected


def test_a_positive_that_was_not_ranked_sets_no_ceiling():
    assert mine([5], docs=(0, 1, 2, 3, 4), scores=SCORES[:5], margin=0.5) == [0, 1, 2, 3, 4]


def test_a_document_with_a_positives_text_is_no_negative():
    assert mine([0], doc_groups=[0, 1, 0, 3, 4, 5]) == [1, 3, 4, 5]


def test_a_query_may_end_with_none():
    assert mine([0], docs=(0, NO_DOC), scores=[0.9, -np.inf]) == []
    assert mine([0], docs=(NO_DOC, NO_DOC), scores=[-np.inf, -np.inf]) == []


def test_every_query_of_the_run_is_answered():
    labels = Qrels.from_triples(np.array([3, 7]), np.array([0, 1]), np.array([1, 1]))
    known = KnownRelevance(np.arange(8), np.arange(3), labels)
    run = Run(np.array([3, 7]), np.array([[0, 1, 2], [2, 1, 0]]), np.array([[3, 2, 1], [3, 2, 1]], dtype=np.float32))
    found = mine_hard_negatives(run, labels, known, HardNegatives(per_query=1, first_rank=1, margin=0.0))
    assert {query: docs.tolist() for query, docs in found.items()} == {3: [1, 2], 7: [0]}
