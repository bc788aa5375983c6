"""Training pairs of an epoch, and what may not be called a negative."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from searchtune.data.examples import KnownRelevance, epoch_pairs, pairs_in_epoch, text_groups
from searchtune.types import Qrels

LABELS = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 9)), unique=True, max_size=30)


def qrels(labels) -> Qrels:
    queries, docs = (np.array([row[i] for row in labels], dtype=np.int64) for i in (0, 1))
    return Qrels.from_triples(queries, docs, np.ones(len(labels), dtype=np.int64))


@given(labels=LABELS, most=st.integers(1, 5), seed=st.integers(0, 3))
def test_an_epoch_draws_each_query_with_up_to_so_many_positives(labels, most, seed):
    relevant = qrels(labels)
    queries, docs = epoch_pairs(relevant, most, np.random.default_rng(seed))
    pairs = list(zip(queries.tolist(), docs.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) == pairs_in_epoch(relevant, most)
    assert set(pairs) <= set(labels)
    have = Counter(query for query, _ in labels)
    assert Counter(queries.tolist()) == {query: min(count, most) for query, count in have.items()}


def test_the_draw_depends_on_the_generator_alone():
    relevant = qrels([(q, d) for q in range(8) for d in range(6)])
    first, again, other = (epoch_pairs(relevant, 2, np.random.default_rng(seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert sorted(first[0].tolist()) != first[0].tolist(), "queries are shuffled"


def test_over_epochs_every_positive_is_drawn():
    relevant = qrels([(0, d) for d in range(10)])
    drawn = {int(doc) for epoch in range(20) for doc in epoch_pairs(relevant, 2, np.random.default_rng((0, epoch)))[1]}
    assert drawn == set(range(10))


@given(
    labels=LABELS,
    query_groups=st.lists(st.integers(0, 3), min_size=7, max_size=7),
    doc_groups=st.lists(st.integers(0, 5), min_size=10, max_size=10),
)
def test_known_relevance(labels, query_groups, doc_groups):
    known = KnownRelevance(np.array(query_groups), np.array(doc_groups), qrels(labels))
    pairs = {(query_groups[query], doc_groups[doc]) for query, doc in labels}
    found = known.mask(np.arange(7), np.arange(10))
    assert found.shape == (7, 10)
    assert found.tolist() == [[(query_groups[q], doc_groups[d]) in pairs for d in range(10)] for q in range(7)]


def test_known_relevance_without_labels_or_candidates():
    known = KnownRelevance(np.arange(2), np.arange(3), qrels([]))
    assert known.mask(np.arange(2), np.arange(3)).tolist() == [[False] * 3] * 2
    assert known.mask(np.arange(2), np.zeros(0, np.int64)).shape == (2, 0)


@pytest.mark.parametrize(
    ("texts", "groups"),
    [
        ([], []),
        (["a", "b", "a"], [0, 1, 0]),
        (["The Cat ", "the\ncat", "thecat"], [0, 0, 1]),
        (["", " ", "x"], [0, 0, 1]),
    ],
)
def test_text_groups(texts, groups):
    assert text_groups(texts).tolist() == groups
