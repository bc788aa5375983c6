"""Reciprocal rank fusion against a loop written by hand."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.retrieval.fusion import reciprocal_rank_fusion
from searchtune.types import NO_DOC, Run

ROW = st.lists(st.integers(0, 12), unique=True, max_size=8)


def run_of(rows) -> Run:
    width = max(map(len, rows), default=0)
    docs = np.array([row + [NO_DOC] * (width - len(row)) for row in rows], dtype=np.int64).reshape(len(rows), width)
    scores = np.where(docs == NO_DOC, -np.inf, -np.arange(width, dtype=np.float32))
    return Run(np.arange(len(rows)), docs, scores.astype(np.float32))


def by_hand(rows, depth, k):
    gains = defaultdict(float)
    for row in rows:
        for rank, doc in enumerate(row[:depth], start=1):
            gains[doc] += 1 / (k + rank)
    return sorted(gains, key=lambda doc: (-np.float32(gains[doc]), -doc))[:depth], gains


@given(
    data=st.lists(st.tuples(ROW, ROW, ROW), min_size=1, max_size=3),
    depth=st.integers(1, 10),
    k=st.sampled_from([1, 60]),
)
def test_fusion(data, depth, k):
    fused = reciprocal_rank_fusion([run_of([row[i] for row in data]) for i in range(3)], depth, k=k)
    for row, rows in enumerate(data):
        expected, gains = by_hand(rows, depth, k)
        found = [doc for doc in fused.docs[row].tolist() if doc != NO_DOC]
        assert set(found) == set(expected) or [gains[d] for d in found] == pytest.approx([gains[d] for d in expected])
        assert fused.scores[row, : len(found)] == pytest.approx([gains[doc] for doc in expected], rel=1e-6)
        assert len(found) == len(set(found))
    assert fused.depth <= depth


def test_ties_go_to_the_greater_document():
    fused = reciprocal_rank_fusion([run_of([[1, 2, 3]]), run_of([[2, 1, 4]])], 4)
    assert fused.docs.tolist() == [[2, 1, 4, 3]]
    assert fused.scores[0].tolist() == pytest.approx([1 / 61 + 1 / 62] * 2 + [1 / 63] * 2)


def test_a_system_that_found_nothing():
    assert reciprocal_rank_fusion([run_of([[]]), run_of([[3, 1]])], 5).docs[0].tolist()[:2] == [3, 1]
    assert (reciprocal_rank_fusion([run_of([[]]), run_of([[]])], 5).docs == NO_DOC).all()


def test_only_the_top_of_each_run_counts():
    fused = reciprocal_rank_fusion([run_of([[1, 2, 3]]), run_of([[3, 2, 1]])], 2)
    assert fused.docs.tolist() == [[2, 3]]


def test_runs_over_different_queries():
    other = run_of([[1]])
    with pytest.raises(ValueError, match="different queries"):
        reciprocal_rank_fusion([other, Run(other.queries + 1, other.docs, other.scores)])
