"""Exact search and its streaming form, against a full sort: ties, odd shards, vectors on disk, broken vectors."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import DataError
from searchtune.retrieval import streaming
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.streaming import search_shards
from searchtune.retrieval.topk import TopK
from searchtune.types import NO_DOC


def whole(rows, dim=6, seed=0, high=2):
    """Vectors of small whole numbers: their inner products are exact in float32, and often equal."""
    return np.random.default_rng(seed).integers(-high, high + 1, size=(rows, dim)).astype(np.float32)


def by_hand(documents, queries, depth, exclude=()):
    scores = queries.astype(np.float64) @ documents.astype(np.float64).T
    keep = np.setdiff1d(np.arange(len(documents)), np.array(exclude, dtype=np.int64))
    order = [keep[np.lexsort((-keep, -row[keep]))][:depth] for row in scores]
    docs = np.array(order, dtype=np.int64).reshape(len(queries), -1)
    return docs, np.take_along_axis(scores, docs, axis=1)


def same(run, expected):
    assert run.docs.tolist() == expected[0].tolist()
    assert run.scores.tolist() == expected[1].tolist()
    assert (run.docs.dtype, run.scores.dtype) == (np.int64, np.float32)


def identical(one, other):
    assert one.docs.tobytes() == other.docs.tobytes()
    assert one.scores.tobytes() == other.scores.tobytes()


def cut(vectors, sizes):
    ends = np.cumsum(sizes)
    assert ends[-1] == len(vectors)
    return np.split(vectors, ends[:-1])


@settings(deadline=None, max_examples=60)
@given(
    documents=st.integers(1, 90),
    queries=st.integers(1, 20),
    depth=st.integers(1, 100),
    block=st.sampled_from([1, 7, 16, 64, 4096]),
    high=st.sampled_from([0, 1, 3]),
    data=st.data(),
)
def test_every_place_is_that_of_a_full_sort(documents, queries, depth, block, high, data):
    exclude = data.draw(st.lists(st.integers(0, documents - 1), max_size=documents))
    docs, asked = whole(documents, high=high), whole(queries, seed=1, high=high)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(streaming, "BLOCK", block)
        run = ExactIndex(docs).search(np.arange(queries), asked, depth, exclude=np.array(exclude, np.int64))
    same(run, by_hand(docs, asked, depth, exclude))


@pytest.mark.parametrize("depth", [1, 10, 300, 1000, 5000])
def test_several_blocks_and_batches(depth, monkeypatch):
    monkeypatch.setattr(streaming, "BATCH", 128)
    documents, queries = whole(9000, high=9), whole(300, seed=1, high=9)
    run = ExactIndex(documents).search(np.arange(300), queries, depth)
    same(run, by_hand(documents, queries, depth))


def test_documents_that_come_in_ascending_order_of_score():
    documents = np.arange(20_000, dtype=np.float32)[:, None]
    run = ExactIndex(documents).search(np.array([3, 4]), np.array([[1.0], [-1.0]], np.float32), 50)
    assert run.docs.tolist() == [list(range(19_999, 19_949, -1)), list(range(50))]
    assert run.queries.tolist() == [3, 4]


def test_all_documents_equal():
    run = ExactIndex(np.ones((10_000, 3), np.float32)).search(np.arange(2), np.ones((2, 3), np.float32), 30)
    assert run.docs.tolist() == [list(range(9999, 9969, -1))] * 2
    assert (run.scores == 3).all()


def test_both_zeros_are_one_score():
    documents = np.array([[0.0], [-0.0], [0.0], [-0.0]], np.float32)
    run = ExactIndex(documents).search(np.array([0]), np.array([[1.0]], np.float32), 3)
    assert run.docs.tolist() == [[3, 2, 1]]
    assert not np.signbit(run.scores).any()


@pytest.mark.parametrize("queries", [1, 2, 3, 15, 17, 31])
@pytest.mark.parametrize("copies", [5, 39, 63, 65])
def test_copies_of_a_document_tie_wherever_they_stand(queries, copies):
    random = np.random.default_rng(copies)
    documents = np.repeat(random.standard_normal((1, 384), dtype=np.float32), copies, axis=0)
    run = ExactIndex(documents).search(np.arange(queries), random.standard_normal((queries, 384), np.float32), 4)
    assert run.docs.tolist() == [list(range(copies - 1, copies - 5, -1))] * queries


@pytest.mark.parametrize("sizes", [[9000], [1, 8999], [4096, 4904], [0, 4095, 2, 0, 4903], [100] * 90, [8999, 1]])
def test_shards_give_the_run_of_one_shard_to_the_bit(sizes):
    random = np.random.default_rng(0)
    documents = random.standard_normal((9000, 24), dtype=np.float32)
    documents[5000:5400] = documents[1000:1400]
    queries = random.standard_normal((33, 24), dtype=np.float32)
    gone = np.array([17, 5003, 8999])
    run = search_shards(np.arange(33), queries, iter(cut(documents, sizes)), 200, exclude=gone)
    identical(run, ExactIndex(documents).search(np.arange(33), queries, 200, exclude=gone))


def test_a_shard_may_be_overwritten_once_the_next_is_asked_for():
    documents, queries = whole(5000, high=9), whole(3, seed=1, high=9)

    def shards():
        buffer = np.empty((30, 6), np.float32)
        for start in range(0, 5000, 30):
            part = documents[start : start + 30]
            buffer[: len(part)] = part
            yield buffer[: len(part)]
            buffer[:] = 1e6

    same(search_shards(np.arange(3), queries, shards(), 10), by_hand(documents, queries, 10))


def test_vectors_on_disk_and_in_half_precision(tmp_path):
    random = np.random.default_rng(0)
    documents = random.standard_normal((6000, 16), dtype=np.float32).astype(np.float16)
    queries = random.standard_normal((5, 16), dtype=np.float32)
    expected = ExactIndex(documents.astype(np.float32)).search(np.arange(5), queries, 70)
    for dtype in (np.float16, np.float32, np.float64):
        np.save(tmp_path / "vectors.npy", documents.astype(dtype))
        mapped = ExactIndex(np.load(tmp_path / "vectors.npy", mmap_mode="r"))
        identical(mapped.search(np.arange(5), queries, 70), expected)
        assert mapped.bytes == documents.size * np.dtype(dtype).itemsize
    strided = ExactIndex(np.asfortranarray(documents.astype(np.float32)))
    identical(strided.search(np.arange(5), queries, 70), expected)


def test_many_queries_take_several_passes(monkeypatch):
    monkeypatch.setattr("searchtune.retrieval.exact._TOGETHER", 2 * streaming.BATCH)
    documents, queries = whole(50), whole(5000, seed=1)
    run = ExactIndex(documents).search(np.arange(5000), queries, 3)
    same(run, by_hand(documents, queries, 3))
    identical(run, search_shards(np.arange(5000), queries, [documents], 3))


@pytest.mark.parametrize("threads", ["1", "2", "3", "", "many"])
def test_threads_do_not_matter(threads, monkeypatch):
    documents, queries = whole(5000, high=9), whole(300, seed=1, high=9)
    monkeypatch.setenv("OMP_NUM_THREADS", threads)
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(4)), raising=False)
    same(ExactIndex(documents).search(np.arange(300), queries, 20), by_hand(documents, queries, 20))


def test_nothing_to_find():
    index = ExactIndex(whole(5))
    assert index.search(np.zeros(0, np.int64), np.zeros((0, 6), np.float32), 3).docs.shape == (0, 0)
    assert index.search(np.arange(2), whole(2), 0).docs.shape == (2, 0)
    assert index.search(np.arange(2), whole(2), 4, exclude=np.arange(5)).docs.shape == (2, 0)
    assert index.search(np.arange(2), whole(2), 4, exclude=np.array([0, 0, 4])).docs.shape == (2, 3)
    assert ExactIndex(whole(0)).search(np.arange(2), whole(2), 4).docs.shape == (2, 0)
    assert search_shards(np.arange(2), whole(2), [], 4).docs.shape == (2, 0)
    assert search_shards(np.arange(2), whole(2), [whole(0), whole(3)], 4).docs.shape == (2, 3)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_vectors_are_named(value):
    documents = whole(5000)
    documents[4100, 2] = documents[4999, 0] = value
    with pytest.raises(DataError, match=r"document vector 4100 holds NaN.*1 of those.*encode again"):
        ExactIndex(documents).search(np.arange(2), whole(2), 3)
    queries = whole(3)
    queries[1, 1] = value
    with pytest.raises(DataError, match="query vector 1 holds NaN"):
        ExactIndex(whole(5)).search(np.arange(3), queries, 3)


def test_great_numbers_that_products_can_hold():
    documents = np.array([[1e18], [-1e18], [2e18]], np.float32)
    assert ExactIndex(np.repeat(documents, 200, axis=0)).search(np.array([0]), documents[:1], 1).docs.tolist() == [
        [599]
    ]


def test_wrong_shapes():
    index = ExactIndex(whole(5))
    with pytest.raises(DataError, match="queries have 3 dimensions, the documents 6: encode both with the same model"):
        index.search(np.arange(2), whole(2, dim=3), 3)
    with pytest.raises(DataError, match="queries have 3 dimensions, the documents 6"):
        search_shards(np.arange(2), whole(2, dim=3), [whole(4)], 3)
    with pytest.raises(ValueError, match="3 queries need as many vectors"):
        index.search(np.arange(3), whole(2), 3)
    with pytest.raises(ValueError, match="depth -1"):
        index.search(np.arange(2), whole(2), -1)
    with pytest.raises(ValueError, match="int64 of shape"):
        ExactIndex(np.zeros((3, 3), np.int64))


@pytest.mark.parametrize("exclude", [[-1], [5], [0, 7]])
def test_an_unknown_document_cannot_be_left_out(exclude):
    with pytest.raises(ValueError, match=r"document -?\d+ cannot be left out"):
        ExactIndex(whole(5)).search(np.arange(2), whole(2), 3, exclude=np.array(exclude))
    with pytest.raises(ValueError, match=r"document -?\d+ cannot be left out"):
        search_shards(np.arange(2), whole(2), [whole(5)], 3, exclude=np.array(exclude))


def test_rows_that_fill_at_different_speed():
    """Row 0 meets scores at every block, row 1 only at the last: minus infinity is no score."""
    best = TopK(2, 300)
    for first in range(0, 2000, 100):
        scores = np.full((2, 100), -np.inf, np.float32)
        scores[0] = np.arange(first, first + 100)
        if first == 1900:
            scores[1, :5] = [1, 5, 5, 3, 2]
        best.offer([(first, scores)])
    docs, found = best.ranked()
    assert docs[0].tolist() == list(range(1999, 1699, -1))
    assert docs[1].tolist() == [1902, 1901, 1903, 1904, 1900] + [NO_DOC] * 295
    assert np.isneginf(found[1, 5:]).all()


def test_a_row_without_enough_documents_has_no_bound():
    """Of 40 documents 30 have no score: nothing may be shut out by a bound."""
    best = TopK(1, 20)
    scores = np.full((1, 40), -np.inf, np.float32)
    scores[0, ::4] = -5
    best.offer([(0, scores), (40, scores[:, :8].copy())])
    docs, _ = best.ranked()
    assert docs[0].tolist() == [44, 40, 36, 32, 28, 24, 20, 16, 12, 8, 4, 0] + [NO_DOC] * (docs.shape[1] - 12)


@pytest.mark.parametrize("depth", [1, 3, 50, 400])
@pytest.mark.parametrize("widths", [[64], [64, 64, 64, 10], [7] * 60, [400, 1]])
def test_the_bound_shuts_out_none_of_the_best(depth, widths):
    scores = np.random.default_rng(depth).integers(-9, 9, (5, sum(widths))).astype(np.float32)
    starts = np.cumsum([0, *widths])
    best = TopK(5, depth)
    best.offer([(a, scores[:, a:b].copy()) for a, b in pairwise(starts.tolist())])
    docs, found = best.ranked()
    for row, (ranked, values) in enumerate(zip(docs, found, strict=True)):
        order = np.lexsort((-np.arange(scores.shape[1]), -scores[row]))[:depth]
        assert ranked[ranked != NO_DOC].tolist() == order.tolist()
        assert values[ranked != NO_DOC].tolist() == scores[row, order].tolist()


def test_few_scores_at_a_time_give_the_same_run(monkeypatch):
    documents, queries = whole(9000, high=9), whole(70, seed=1, high=9)
    expected = ExactIndex(documents).search(np.arange(70), queries, 300)
    monkeypatch.setattr(streaming, "_SCORES", 1)
    identical(ExactIndex(documents).search(np.arange(70), queries, 300), expected)
