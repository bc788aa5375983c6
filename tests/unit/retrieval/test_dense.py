"""Exact dense search against numpy."""

import builtins

import numpy as np
import pytest

from searchtune.errors import MissingExtraError
from searchtune.retrieval.dense import DenseIndex, without_self
from searchtune.retrieval.faiss_index import import_faiss
from searchtune.types import NO_DOC, Run

QUERIES = np.array([4, 7, 9])


def unit(rows, dim=8, seed=0):
    vectors = np.random.default_rng(seed).normal(size=(rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def by_hand(documents, queries, depth, exclude=()):
    scores = queries @ documents.T
    rows = []
    for row in scores:
        keep = [doc for doc in range(len(documents)) if doc not in set(exclude)]
        rows.append(sorted(keep, key=lambda doc, row=row: (-row[doc], -doc))[:depth])
    return rows, scores


@pytest.mark.parametrize("depth", [1, 5, 30, 100])
@pytest.mark.parametrize("exclude", [None, [], [3], [3, 3, 0, 29], list(range(25))])
def test_dense_search(depth, exclude):
    documents, queries = unit(30), unit(3, seed=1)
    gone = None if exclude is None else np.array(exclude, dtype=np.int64)
    run = DenseIndex(documents).search(QUERIES, queries, depth, exclude=gone)
    expected, scores = by_hand(documents, queries, depth, exclude or ())
    assert run.queries.tolist() == QUERIES.tolist()
    assert run.docs.tolist() == expected
    assert np.allclose(run.scores, np.take_along_axis(scores, run.docs, axis=1), atol=1e-6)


def test_equal_scores_go_to_the_greater_document():
    documents = np.repeat(unit(2), 3, axis=0)
    run = DenseIndex(documents).search(np.array([0]), documents[:1], 6)
    assert run.docs[0, :3].tolist() == [2, 1, 0]


def test_one_document():
    run = DenseIndex(unit(1)).search(QUERIES, unit(3, seed=1), 100)
    assert run.docs.tolist() == [[0], [0], [0]]
    nothing = DenseIndex(unit(1)).search(QUERIES, unit(3, seed=1), 100, exclude=np.array([0]))
    assert nothing.docs.shape == (3, 0)
    assert nothing.queries.tolist() == QUERIES.tolist()


def test_no_query():
    assert DenseIndex(unit(5)).search(np.zeros(0, np.int64), np.zeros((0, 8), np.float32), 3).docs.shape == (0, 0)


def test_a_document_that_bears_the_querys_id_is_left_out():
    run = Run.ranked(np.array([0, 1]), np.array([[0, 1, 2], [0, 1, 2]]), np.array([[3.0, 2, 1], [3.0, 2, 1]]))
    found = without_self(run, ["b", "x"], ["a", "b", "c"], 2)
    assert found.docs.tolist() == [[0, 2], [0, 1]]
    assert found.scores.tolist() == [[3, 1], [3, 2]]
    assert without_self(run, ["b", "x"], ["a", "b", "c"], 3).docs.tolist() == [[0, 2, NO_DOC], [0, 1, 2]]


def test_without_faiss(monkeypatch):
    real = builtins.__import__

    def refuse(name, *args, **kwargs):
        if name == "faiss":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", refuse)
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[cpu\]'"):
        import_faiss()
