"""A search over the small world: stages in order, batch and stream alike, clear errors."""

import numpy as np
import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.pipeline import Fused, Search, Words
from searchtune.retrieval.bm25 import BM25Index
from searchtune.types import Run

DOCUMENTS = ["red apple", "green apple pie", "blue sky", "apple sky tree"]
IDS = ["a", "b", "c", "d"]


class Backwards:
    """Turns every ranking around."""

    def rerank(self, queries, run):
        assert len(queries) == len(run.queries)
        return Run(run.queries, run.docs[:, ::-1], run.scores[:, ::-1])


@pytest.fixture
def words():
    return Words(BM25Index(DOCUMENTS))


def test_hits_are_the_retrievers_best(words):
    hits = Search(IDS, words).search(["green pie", "sky"], top=2)
    assert hits[0][0].id == "b"
    assert {hit.id for hit in hits[1]} == {"c", "d"}
    assert all(DOCUMENTS[hit.document] and IDS[hit.document] == hit.id for row in hits for hit in row)


def test_a_reranker_sees_the_whole_depth(words):
    plain, turned = Search(IDS, words, depth=4), Search(IDS, words, Backwards(), depth=4)
    run = words.retrieve(["apple"], 4)
    assert [hit.document for hit in turned.search(["apple"], top=4)[0]] == run.docs[0, ::-1][
        run.docs[0, ::-1] >= 0
    ].tolist()
    assert plain.search(["apple"], top=4) != turned.search(["apple"], top=4)


def test_a_stream_gives_what_a_batch_gives(words):
    search = Search(IDS, Fused([words, words]))
    queries = ["apple", "sky", "green pie", "tree", "red"]
    assert list(search.stream(iter(queries), batch=2)) == search.search(queries)
    assert search.timings["retrieve"].queries == 10
    assert search.timings["retrieve"].milliseconds_per_query > 0


def test_nothing_asked_nothing_found(words):
    assert Search(IDS, words).search([]) == []


def test_what_cannot_be_searched_is_refused(words):
    search = Search(IDS, words, Backwards(), depth=2)
    with pytest.raises(DataError, match="query 2 of 2 is empty"):
        search.search(["apple", "  "], top=2)
    with pytest.raises(ConfigError, match="top 3"):
        search.search(["apple"], top=3)
    with pytest.raises(ConfigError, match="top 0"):
        search.search(["apple"], top=0)


def test_scores_are_those_of_the_last_stage(words):
    run = words.retrieve(["apple sky"], 4)
    hits = Search(IDS, words, depth=4).search(["apple sky"], top=4)[0]
    assert np.allclose([hit.score for hit in hits], run.scores[0][: len(hits)])
