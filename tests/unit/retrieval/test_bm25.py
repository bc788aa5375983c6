"""BM25: against its formula, and queries or collections with nothing in them."""

import math

import numpy as np
import pytest

from searchtune.retrieval.bm25 import BM25Index
from searchtune.types import NO_DOC

DOCUMENTS = ["harbour tide sail", "tide tide pool crab", "violin tempo choir", "sail sail sail harbour wind rain"]


def by_hand(query):
    """Lucene's BM25, k1 1.5, b 0.75."""
    documents = [text.split() for text in DOCUMENTS]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for word in query.split():
            have = sum(word in other for other in documents)
            often = words.count(word)
            idf = math.log(1 + (len(documents) - have + 0.5) / (have + 0.5))
            total += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(words) / average))
        scores.append(total)
    return scores


def search(texts, depth=10, **options):
    return BM25Index(DOCUMENTS).search(np.arange(len(texts)), texts, depth, **options)


def found(run, row=0):
    return [doc for doc in run.docs[row].tolist() if doc != NO_DOC]


@pytest.mark.parametrize("query", ["tide", "sail harbour", "violin rain tide"])
def test_scores(query):
    run, expected = search([query]), by_hand(query)
    order = sorted((doc for doc in range(4) if expected[doc] > 0), key=lambda doc: -expected[doc])
    assert found(run) == order
    assert run.scores[0, : len(order)] == pytest.approx([expected[doc] for doc in order], rel=1e-4)


def test_documents_without_a_word_of_the_query_are_not_returned():
    run = search(["violin", "tide"])
    assert found(run) == [2]
    assert found(run, 1) == [1, 0]
    assert np.isneginf(run.scores[run.docs == NO_DOC]).all()


@pytest.mark.parametrize("query", ["xylophone", "the of and", "", "?!"])
def test_a_query_without_known_words(query):
    run = search([query, "violin"])
    assert found(run) == []
    assert found(run, 1) == [2]
    assert found(search([query])) == []


def test_excluded_documents():
    assert found(search(["tide"], exclude=np.array([1, 1]))) == [0]
    assert found(search(["tide"], 1, exclude=np.array([1]))) == [0]
    assert search(["tide"], exclude=np.arange(4)).docs.shape == (1, 0)
    assert found(search(["tide"], exclude=np.zeros(0, np.int64))) == [1, 0]


def test_depth():
    assert found(search(["tide"], 1)) == [1]
    assert search([], 3).docs.shape == (0, 0)


def test_one_document():
    run = BM25Index(["harbour tide"]).search(np.array([5]), ["tide"], 100)
    assert (run.queries.tolist(), found(run)) == ([5], [0])


@pytest.mark.parametrize("documents", [["the of"], ["", ""], ["?"]])
def test_a_collection_without_words(documents):
    assert found(BM25Index(documents).search(np.array([0]), ["tide"], 10)) == []
