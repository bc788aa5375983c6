"""Every FAISS kind: near the exact answer, honest about its parameters, and blind to documents left out."""

import numpy as np
import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.retrieval.approximation import loss_against_exact
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.faiss_index import Factory, FaissIndex, Flat, Gpus, Hnsw, Ivf, Pq, Sq, import_faiss
from searchtune.types import NO_DOC, Run

KINDS = [Flat(), Ivf(8, 6), Hnsw(16), Pq(8, 4), Sq(), Sq("fp16"), Factory("PCA8,Flat")]
CPU = Gpus(count=0)


def unit(rows, dim=16, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((rows, dim), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


DOCUMENTS, ASKED = unit(700), unit(40, seed=1)
QUERIES = np.arange(40) + 3
EXACT = ExactIndex(DOCUMENTS)


@pytest.fixture(scope="module")
def indexes():
    return {kind: FaissIndex(DOCUMENTS, kind, gpus=CPU) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_near_the_exact_answer(kind, indexes):
    run = indexes[kind].search(QUERIES, ASKED, 20)
    assert run.queries.tolist() == QUERIES.tolist()
    assert run.docs.shape == (40, 20)
    assert (np.diff(run.scores, axis=1) <= 0).all()
    floor = {Flat: 1.0, Ivf: 0.8, Hnsw: 0.98, Pq: 0.2, Sq: 0.9, Factory: 0.2}[type(kind)]
    kept = loss_against_exact(run, EXACT.search(QUERIES, ASKED, 20), [10])[10]
    assert floor <= kept <= 1
    assert indexes[kind].exact == (kind == Flat())


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_documents_left_out(kind, indexes):
    best = EXACT.search(QUERIES, ASKED, 5)
    gone = np.concatenate([best.docs.ravel(), best.docs[0]])
    run = indexes[kind].search(QUERIES, ASKED, 20, exclude=gone)
    assert not np.isin(run.docs, gone).any()
    assert (run.docs != NO_DOC).mean() > 0.95
    assert run.docs.shape == (40, 20)
    everything = indexes[kind].search(QUERIES, ASKED, 20, exclude=np.arange(700))
    assert everything.docs.shape == (40, 0)
    with pytest.raises(ValueError, match="document 700 cannot be left out"):
        indexes[kind].search(QUERIES, ASKED, 20, exclude=np.array([700]))


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_deeper_than_the_collection(kind, indexes):
    run = indexes[kind].search(QUERIES[:2], ASKED[:2], 5000)
    assert run.docs.shape == (2, 700)
    for row in run.docs:
        found = row[row != NO_DOC]
        assert len(found) == len(set(found.tolist())) > 300


def test_facts_for_reports(indexes):
    assert [indexes[kind].kind for kind in KINDS[:3]] == [
        "flat",
        "ivf(lists=8, probes=6)",
        "hnsw(links=16, build=80, search=128)",
    ]
    sizes = {kind: indexes[kind].bytes for kind in KINDS}
    assert sizes[Flat()] == pytest.approx(DOCUMENTS.nbytes, abs=200)
    assert sizes[Sq()] < sizes[Sq("fp16")] < sizes[Flat()] < sizes[Hnsw(16)]
    assert all(
        index.build_seconds > 0 and index.documents == 700 and index.device == "CPU" for index in indexes.values()
    )


def test_no_query_and_no_depth(indexes):
    assert indexes[Flat()].search(QUERIES[:0], ASKED[:0], 3).docs.shape == (0, 0)
    assert indexes[Ivf(8, 6)].search(QUERIES, ASKED, 0).docs.shape == (40, 0)


def test_more_probes_find_more(indexes):
    exact = EXACT.search(QUERIES, ASKED, 50)
    few, many = (
        loss_against_exact(FaissIndex(DOCUMENTS, Ivf(8, probes), gpus=CPU).search(QUERIES, ASKED, 50), exact, [50])[50]
        for probes in (1, 8)
    )
    assert few < many == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Ivf(18), r"ivf\(lists=18, probes=8\): 18 centres need 702 documents .* there are 700: take at most 17 lists"),
        (Ivf(4, 5), "only 4 lists to probe"),
        (Ivf(0), "lists must be at least 1"),
        (Pq(8), "256 centres need 9984 documents .* there are 700: take fewer bits"),
        (Pq(5, 4), "16 dimensions can be cut into 1, 2, 4, 8, 16 equal parts"),
        (Pq(4, 13), "bits must be 12 or fewer"),
        (Hnsw(1), "at least 2 links"),
        (Hnsw(search=0), "search must be at least 1"),
        (Sq("4bit"), "number must be 8bit or fp16"),
        (Factory("Nonsense"), "FAISS cannot make 'Nonsense' for vectors of 16 dimensions"),
    ],
    ids=str,
)
def test_wrong_parameters(kind, message):
    with pytest.raises(ConfigError, match=message):
        FaissIndex(DOCUMENTS, kind)


def test_gpus_that_are_not_there(monkeypatch):
    monkeypatch.setattr(import_faiss(), "get_num_gpus", lambda: 0, raising=False)
    with pytest.raises(ConfigError, match=r"2 GPUs asked for, and this FAISS sees 0.*searchtune\[gpu\]"):
        FaissIndex(DOCUMENTS, gpus=Gpus(2))
    with pytest.raises(ConfigError, match="float16 is for a GPU"):
        FaissIndex(DOCUMENTS, gpus=Gpus(float16=True))


def test_broken_vectors(indexes):
    with pytest.raises(DataError, match="queries have 3 dimensions, the documents 16"):
        indexes[Flat()].search(QUERIES, ASKED[:, :3], 3)
    broken = ASKED.copy()
    broken[5, 5] = np.nan
    with pytest.raises(DataError, match="query vector 5"):
        indexes[Flat()].search(QUERIES, broken, 3)


def run_of(rows):
    docs = np.array(rows, dtype=np.int64).reshape(len(rows), len(rows[0]) if rows else 0)
    return Run.ranked(
        np.arange(len(rows)), docs, np.broadcast_to(-np.arange(docs.shape[1], dtype=np.float32), docs.shape)
    )


def test_loss_counts_the_exact_documents_that_were_kept():
    exact = run_of([[1, 2, 3, 4], [5, 6, NO_DOC, NO_DOC], [NO_DOC] * 4])
    other = run_of([[2, 9, 1, 3], [6, NO_DOC, NO_DOC, NO_DOC], [1, 2, 3, 4]])
    kept = loss_against_exact(other, exact, [1, 2, 4])
    assert kept[1] == pytest.approx((0 + 0 + 1) / 3)
    assert kept[2] == pytest.approx((1 / 2 + 1 / 2 + 1) / 3)
    assert kept[4] == pytest.approx((3 / 4 + 1 / 2 + 1) / 3)
    assert loss_against_exact(exact, exact) == {10: 1.0, 100: 1.0}
    assert loss_against_exact(run_of([]), run_of([])) == {10: 1.0, 100: 1.0}
    with pytest.raises(ValueError, match="different queries"):
        loss_against_exact(exact, exact.select(np.array([True, True, False])))


def test_an_approximate_index_loses_something(indexes):
    exact = EXACT.search(QUERIES, ASKED, 30)
    assert loss_against_exact(indexes[Pq(8, 4)].search(QUERIES, ASKED, 30), exact, [10])[10] < 1
