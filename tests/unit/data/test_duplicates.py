"""Duplicate documents are found, told, and counted as one."""

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.data.duplicates import DuplicateGroup, find_duplicates, fold_qrels, fold_run
from searchtune.metrics import score
from searchtune.types import NO_DOC, Qrels, Run

LONG = " ".join(f"word{i}" for i in range(40))


@pytest.fixture
def c():
    documents = {
        "a": ("", "Same text."), "b": ("", "other"), "c": ("Same", "text"), "d": ("", LONG), "e": ("", ""),
        "f": ("", LONG.replace("word7 ", "changed ")), "g": ("", ""),
    }  # fmt: skip
    return build_collection("c", documents, {"q": "x"}, {"test": [("q", "a", 1)]})


def test_groups_are_found_and_told(c):
    report = find_duplicates(c)
    assert report.groups == (DuplicateGroup((0, 2), exact=True), DuplicateGroup((3, 5), exact=False))
    assert report.representatives.tolist() == [0, 1, 0, 3, 4, 3, 6]  # empty documents stay apart
    head, first, second = report.describe()
    assert head.startswith("2 of 7 documents repeat another one (2 groups, 1 of them equal")
    assert first == "equal: 'a', 'c': 'Same text.'"
    assert second.startswith("nearly equal: 'd', 'f': 'word0 word1")
    assert [group.exact for group in find_duplicates(c, threshold=1.0).groups] == [True]


def test_no_duplicates_is_no_report():
    c = build_collection("c", {"a": ("", "one"), "b": ("", "two")}, {"q": "x"}, {"test": [("q", "a", 1)]})
    assert find_duplicates(c).describe() == []
    assert find_duplicates(c).superfluous == 0


def fold(run, qrels, representatives):
    """Both, with the document that each one is counted as."""
    one_for_each = np.array(representatives, dtype=np.int64)
    return fold_run(run, one_for_each), fold_qrels(qrels, one_for_each)


def test_best_rank_and_highest_grade_are_kept():
    qrels = Qrels.from_triples(np.array([0, 0, 0, 1]), np.array([0, 2, 1, 2]), np.array([1, 3, 0, 1]))
    docs = np.array([[4, 2, 1, 0], [3, 4, NO_DOC, NO_DOC]])
    run = Run.ranked(np.array([0, 1]), docs, np.array([[4, 3, 2, 1], [2, 1, 0, 0]], dtype=np.float32))
    folded, labels = fold(run, qrels, [0, 1, 0, 3, 4])
    assert folded.docs.tolist() == [[4, 0, 1, NO_DOC], [3, 4, NO_DOC, NO_DOC]]
    assert folded.scores[0].tolist() == [4, 3, 2, -np.inf]
    assert labels.row(0)[0].tolist() == [0, 1]
    assert labels.row(0)[1].tolist() == [3, 0]
    assert labels.row(1)[0].tolist() == [0]


def test_an_unjudged_copy_counts_as_the_judged_one():
    qrels = Qrels.from_triples(np.array([0]), np.array([0]), np.array([1]))
    run = Run.ranked(np.array([0]), np.array([[2, 1, 0]]), np.array([[3, 2, 1]], dtype=np.float32))
    folded, labels = fold(run, qrels, [0, 1, 0, 3, 4])
    assert score(run, qrels, ["mrr"])["mrr"].tolist() == pytest.approx([1 / 3])
    assert score(folded, labels, ["mrr"])["mrr"].tolist() == [1.0]


def test_no_group_changes_nothing_and_empty_runs_fold():
    qrels = Qrels.from_triples(np.array([0]), np.array([5]), np.array([1]))
    run = Run.ranked(np.array([0]), np.array([[9, 5]]), np.array([[1, 1]], dtype=np.float32))
    folded, labels = fold(run, qrels, range(10))
    assert (folded.docs.tolist(), labels.docs.tolist()) == (run.docs.tolist(), [5])
    none = Run(np.empty(0, np.int64), np.empty((0, 3), np.int64), np.empty((0, 3), np.float32))
    assert fold(none, qrels, [0, 1, 2, 3, 4, 1])[1].docs.tolist() == [1]
