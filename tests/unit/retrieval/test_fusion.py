"""Reciprocal rank fusion against a loop written by hand, the others against worked examples."""

from collections import defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ConfigError, DataError
from searchtune.retrieval.fusion import fuse
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


@settings(deadline=None)
@given(
    data=st.lists(st.tuples(ROW, ROW, ROW), min_size=1, max_size=3),
    depth=st.integers(1, 10),
    k=st.sampled_from([1, 60]),
)
def test_fusion(data, depth, k):
    fused = fuse([run_of([row[i] for row in data]) for i in range(3)], "rrf", depth=depth, k=k)
    for row, rows in enumerate(data):
        expected, gains = by_hand(rows, depth, k)
        found = [doc for doc in fused.docs[row].tolist() if doc != NO_DOC]
        assert set(found) == set(expected) or [gains[d] for d in found] == pytest.approx([gains[d] for d in expected])
        assert fused.scores[row, : len(found)] == pytest.approx([gains[doc] for doc in expected], rel=1e-6)
        assert len(found) == len(set(found))
    assert fused.depth <= depth


def test_ties_go_to_the_greater_document():
    fused = fuse([run_of([[1, 2, 3]]), run_of([[2, 1, 4]])], "rrf", depth=4)
    assert fused.docs.tolist() == [[2, 1, 4, 3]]
    assert fused.scores[0].tolist() == pytest.approx([1 / 61 + 1 / 62] * 2 + [1 / 63] * 2)


def test_a_system_that_found_nothing():
    assert fuse([run_of([[]]), run_of([[3, 1]])], "rrf", depth=5).docs[0].tolist()[:2] == [3, 1]
    assert (fuse([run_of([[]]), run_of([[]])], "rrf", depth=5).docs == NO_DOC).all()


def test_only_the_top_of_each_run_counts():
    fused = fuse([run_of([[1, 2, 3]]), run_of([[3, 2, 1]])], "rrf", depth=2)
    assert fused.docs.tolist() == [[2, 3]]


def test_a_query_that_a_run_lacks_is_an_empty_ranking():
    full, part = run_of([[1, 2], [3, 4], [5]]), run_of([[2, 1], [], [6, 5]])
    lacks = part.select(np.array([True, False, True]))
    for method in ("rrf", "combsum", "combmnz", "combmax"):
        expected, found = fuse([full, part], method), fuse([full, lacks], method)
        assert found.queries.tolist() == [0, 1, 2]
        assert (found.docs == expected.docs).all()
        assert found.scores == pytest.approx(expected.scores)
        assert fuse([lacks, full], method).docs[1, :2].tolist() == [3, 4]


def scored(rows, depth=4):
    """Each row: document -> score."""
    docs = np.full((len(rows), depth), NO_DOC)
    scores = np.zeros((len(rows), depth), np.float32)
    for i, row in enumerate(rows):
        docs[i, : len(row)], scores[i, : len(row)] = list(row), list(row.values())
    return Run.ranked(np.arange(len(rows)) + 2, docs, scores)


LEXICAL = scored([{1: 10.0, 2: 6.0, 3: 2.0}, {7: 4.0}, {}])
DENSE = scored([{2: 0.9, 4: 0.8, 1: 0.5}, {7: 0.5, 8: 0.5}, {5: -2.0, 6: -4.0}])


def ranking(run, row):
    return {
        doc: score for doc, score in zip(run.docs[row].tolist(), run.scores[row].tolist(), strict=True) if doc != NO_DOC
    }


@pytest.mark.parametrize(
    ("method", "normalisation", "weights", "expected"),
    [
        ("combsum", "none", None, {1: 10.5, 2: 6.9, 3: 2.0, 4: 0.8}),
        ("combsum", "min-max", None, {2: 1.5, 1: 1.0, 4: 0.75, 3: 0.0}),
        ("combsum", "rank", None, {2: 2 / 3 + 1, 1: 1 + 1 / 3, 4: 2 / 3, 3: 1 / 3}),
        ("combsum", "min-max", [0.2, 0.8], {2: 0.9, 4: 0.6, 1: 0.2, 3: 0.0}),
        ("combmnz", "min-max", None, {2: 3.0, 1: 2.0, 4: 0.75, 3: 0.0}),
        ("combmax", "min-max", None, {2: 1.0, 1: 1.0, 4: 0.75, 3: 0.0}),
        ("combmax", "none", [1, 100], {2: 90.0, 4: 80.0, 1: 50.0, 3: 2.0}),
        ("rrf", "none", [3, 1], {1: 3 / 61 + 1 / 63, 2: 3 / 62 + 1 / 61, 3: 3 / 63, 4: 1 / 62}),
    ],
)
def test_by_hand(method, normalisation, weights, expected):
    run = fuse([LEXICAL, DENSE], method, weights=weights, normalisation=normalisation)
    assert ranking(run, 0) == pytest.approx(expected, abs=1e-6)
    assert list(ranking(run, 0)) == list(expected)
    assert run.queries.tolist() == [2, 3, 4]


def test_z_score_is_measured_from_the_last_document_of_a_list():
    """Montague and Aslam's z-scores; a list gives a document that it lacks what its last document has."""
    run = fuse([LEXICAL, DENSE], "combsum", normalisation="z-score")
    lexical, dense = np.sqrt(32 / 3), np.std([0.9, 0.8, 0.5])  # 10, 6, 2: (16 + 0 + 16) / 3
    expected = {2: 4 / lexical + 0.4 / dense, 1: 8 / lexical, 4: 0.3 / dense, 3: 0.0}
    assert ranking(run, 0) == pytest.approx(expected, rel=1e-5)
    assert ranking(run, 1) == {7: 2.0, 8: 1.0}


def test_what_both_found_is_not_below_what_one_found():
    """Documents 1 and 2 end both lists; 9 is in the middle of one. With 0 for what is missing, 9 was before 1."""
    first = scored([{5: 10.0, 9: 3.0, 1: 2.9, 2: 1.0}])
    second = scored([{6: 10.0, 7: 9.0, 1: 2.9, 2: 1.0}])
    plain = {doc: (first_z, second_z) for doc, first_z, second_z in ((9, -0.34, 0.0), (1, -0.37, -0.74))}
    assert sum(plain[9]) > sum(plain[1])
    found = list(ranking(fuse([first, second], "combsum", normalisation="z-score"), 0))
    assert found.index(1) < found.index(9)


def test_scores_below_0_are_no_worse_than_being_missed():
    logits = scored([{1: 4.0, 2: -1.0, 3: -6.0}]), scored([{2: -0.5, 4: -7.0}])
    found = fuse(logits, "combsum", normalisation="none")
    assert ranking(found, 0) == {2: 11.5, 1: 10.0, 4: 0.0, 3: 0.0}


@settings(deadline=None, max_examples=50)
@given(
    rows=st.lists(
        st.dictionaries(st.integers(0, 8), st.floats(-9, 9, width=16), min_size=1, max_size=6), min_size=2, max_size=3
    ),
    method=st.sampled_from(["rrf", "combsum", "combmnz", "combmax"]),
    normalisation=st.sampled_from(["none", "min-max", "z-score", "rank"]),
)
def test_no_document_loses_by_a_list_that_found_it(rows, method, normalisation):
    runs = [scored([row], depth=9) for row in rows]
    fewer = ranking(fuse(runs[:-1], method, normalisation=normalisation), 0)
    more = ranking(fuse(runs, method, normalisation=normalisation), 0)
    assert all(more[doc] >= score for doc, score in fewer.items())


def test_equal_scores_count_one_each_so_that_being_found_is_worth_something():
    run = fuse([LEXICAL, DENSE], "combsum", normalisation="min-max")
    assert ranking(run, 1) == {7: 2.0, 8: 1.0}
    assert ranking(run, 2) == {5: 1.0, 6: 0.0}


@pytest.mark.parametrize("method", ["rrf", "combsum", "combmnz", "combmax"])
@pytest.mark.parametrize("normalisation", ["none", "min-max", "z-score", "rank"])
def test_runs_with_nothing_in_them(method, normalisation):
    nothing = scored([{}, {}, {}])
    assert (fuse([nothing, nothing], method, normalisation=normalisation).docs == NO_DOC).all()
    no_depth = Run(LEXICAL.queries, LEXICAL.docs[:, :0], LEXICAL.scores[:, :0])
    assert fuse([no_depth], method, normalisation=normalisation).docs.shape == (3, 0)
    one = fuse([LEXICAL, no_depth], method, normalisation=normalisation)
    assert list(ranking(one, 0)) == [1, 2, 3]
    no_query = LEXICAL.select(np.zeros(3, dtype=bool))
    assert len(fuse([no_query, no_query], method, normalisation=normalisation).docs) == 0


def test_wrong_options():
    for options, message in (
        ({"method": "combsun"}, "unknown fusion 'combsun'; did you mean 'combsum'"),
        ({"normalisation": "minmax"}, "unknown normalisation 'minmax'; did you mean 'min-max'"),
        ({"weights": [1]}, "2 runs need as many numbers"),
        ({"weights": [0, 0]}, "not all of them 0"),
        ({"weights": [1, -1]}, "from 0 on"),
        ({"weights": [1, np.nan]}, "from 0 on"),
        ({"k": -1}, "k -1"),
    ):
        with pytest.raises(ConfigError, match=message):
            fuse([LEXICAL, DENSE], **{"method": "combsum", **options})
    with pytest.raises(ValueError, match="no run"):
        fuse([])


def test_a_score_that_is_no_number():
    broken = Run(DENSE.queries, DENSE.docs, np.where(DENSE.docs == 8, np.nan, DENSE.scores))
    with pytest.raises(DataError, match="run 1 scores document 8 nan for query 3"):
        fuse([LEXICAL, broken], "combsum")
