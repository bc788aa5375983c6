"""Reranked and blended runs against sorting by hand: the head in its new order, the tail in its old one."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.reorder import blended, reordered, tune_blend
from searchtune.types import NO_DOC, Qrels, Run

NAN, INF = np.nan, np.inf
SCORE = st.one_of(
    st.sampled_from([NAN, -INF, 0.0, -0.0, 1.0, 1e30, -1e30, 1e-40, 2.0**24 - 1, 1 - 2.0**24]),
    st.floats(-100, 100, width=32),
)
ROW = st.lists(st.tuples(st.integers(0, 20), SCORE), unique_by=lambda pair: pair[0], max_size=9)


def run_of(rows, width=None):
    """Documents in this order, with first-stage scores that fall from 10 by 1."""
    width = max(map(len, rows)) if width is None else width
    docs = np.array([[*row, *[NO_DOC] * (width - len(row))] for row in rows], dtype=np.int64).reshape(len(rows), width)
    scores = np.where(docs == NO_DOC, -np.inf, 10.0 - np.arange(width)).astype(np.float32)
    return Run(np.arange(len(rows)) * 3, docs, scores)


def table(rows, fill=NAN):
    width = max(map(len, rows))
    return np.array([[*row, *[fill] * (width - len(row))] for row in rows], dtype=np.float32).reshape(len(rows), width)


def check_order(run):
    """What every run promises: sorted by (-score, -document), no document twice, nothing after the end."""
    for docs, scores in zip(run.docs, run.scores, strict=True):
        pairs = [(-s, -d) for d, s in zip(docs.tolist(), scores.tolist(), strict=True)]
        assert pairs == sorted(pairs)
        found = docs[docs != NO_DOC].tolist()
        assert len(found) == len(set(found))
        assert (docs[len(found) :] == NO_DOC).all()
        assert np.isneginf(scores[len(found) :]).all()
        assert np.isfinite(scores[: len(found)]).all()
    again = Run.ranked(run.queries, run.docs, run.scores)
    assert np.array_equal(again.docs, run.docs)
    assert run.scores.dtype == np.float32


def by_hand(docs, scores, depth):
    places = [i for i in range(min(depth, len(docs))) if not (np.isnan(scores[i]) or scores[i] == -INF)]
    head = sorted(places, key=lambda i: (-np.float32(scores[i]), -docs[i]))
    return [docs[i] for i in head], [docs[i] for i in range(len(docs)) if i not in places]


@settings(deadline=None, max_examples=30)
@given(data=st.lists(ROW, min_size=1, max_size=3), depth=st.integers(0, 11))
def test_reordering(data, depth):
    rows = [[doc for doc, _ in row] for row in data]
    scores = table([[value for _, value in row] for row in data], fill=5.0)  # beyond the end is never looked at
    run = run_of(rows)
    found = reordered(run, scores, depth)
    check_order(found)
    assert found.docs.shape == run.docs.shape
    for row, docs in enumerate(rows):
        head, tail = by_hand(docs, scores[row], depth)
        assert found.docs[row, : len(docs)].tolist() == head + tail
        if head:
            own = dict(zip(docs, scores[row].tolist(), strict=False))
            assert found.scores[row, : len(head)].tolist() == [own[doc] for doc in head]
            assert (np.diff(found.scores[row, max(len(head) - 1, 0) : len(docs)]) < 0).all(), "the tail falls strictly"
        else:
            assert found.scores[row].tolist() == run.scores[row].tolist()


def test_by_hand():
    run = run_of([[5, 2, 9, 1, 7], [3, 4]])
    scores = table([[0.1, 0.7, NAN, 0.7, 99], [NAN, NAN]])
    found = reordered(run, scores, 4)
    assert found.docs.tolist() == [[2, 1, 5, 9, 7], [3, 4, NO_DOC, NO_DOC, NO_DOC]]
    assert found.scores[0].tolist() == pytest.approx([0.7, 0.7, 0.1, -0.9, -1.9])
    assert found.scores[1].tolist() == [10, 9, -INF, -INF, -INF]
    assert found.queries.tolist() == [0, 3]
    assert reordered(run, scores, 0).docs.tolist() == run.docs.tolist()
    assert reordered(run, scores, 99).docs[0].tolist() == [7, 2, 1, 5, 9]


@pytest.mark.parametrize("lowest", [0.0, -1e-45, 1e-30, 3.3, -(2.0**23), 2.0**24, 1 - 2.0**24, 1e20, -1e30, 1e30])
def test_a_long_tail_falls_strictly_whatever_the_heads_scores(lowest):
    order = np.random.default_rng(0).permutation(3000)
    scores = np.full((1, 3000), NAN, np.float32)
    scores[0, :3] = lowest
    found = reordered(run_of([order.tolist()]), scores, 3)
    check_order(found)
    assert found.docs[0, :3].tolist() == sorted(order[:3].tolist(), reverse=True)
    assert found.docs[0, 3:].tolist() == order[3:].tolist()
    assert (np.diff(found.scores[0, 2:]) < 0).all()


def test_runs_with_nothing_in_them():
    nothing = run_of([[], []], width=3)
    scores = np.ones((2, 3), np.float32)
    none = Run(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    flat = run_of([[], []], width=0)
    for change in (lambda *args: reordered(*args, 2), lambda *args: blended(*args, 2, weight=0.5)):
        assert (change(nothing, scores).docs == NO_DOC).all()
        assert change(none, scores[:0]).docs.shape == (0, 3)
        assert change(flat, scores[:, :0]).docs.shape == (2, 0)


def test_what_is_no_score():
    run = run_of([[1, 2], [4, 5]])
    for wrong, shown in ((INF, "inf"), (2e30, r"2\.\d+e\+30"), (-2e30, r"-2\.\d+e\+30")):
        with pytest.raises(DataError, match=rf"document 5 {shown}.* for query 3 "):
            reordered(run, table([[1, 2], [1, wrong]]), 2)
        reordered(run, table([[1, 2], [1, wrong]]), 1)
    with pytest.raises(ValueError, match=r"shape \(2, 1\) for a run of shape \(2, 2\)"):
        reordered(run, table([[1], [1]]), 1)
    with pytest.raises(ConfigError, match="depth -1"):
        reordered(run, table([[1, 2], [1, 2]]), -1)


def test_the_inputs_stay_as_they_are():
    run, scores = run_of([[1, 2, 3]]), table([[1, 3, 2]])
    before = run.docs.copy(), run.scores.copy(), scores.copy()
    reordered(run, scores, 2)
    blended(run, scores, 2, weight=0.5)
    for now, then in zip((run.docs, run.scores, scores), before, strict=True):
        assert np.array_equal(now, then)


def test_blending_by_hand():
    run = run_of([[5, 2, 9, 1]])  # 10, 9, 8, 7
    scores = table([[0.0, 4.0, 2.0, 100.0]])
    found = blended(run, scores, 3, weight=0.25)
    assert found.docs.tolist() == [[5, 2, 9, 1]]
    assert found.scores[0].tolist() == pytest.approx([0.75, 0.75 / 2 + 0.25, 0.125, -0.875])
    found = blended(run, scores, 3, weight=0.8, normalisation="z-score")
    high = np.sqrt(1.5)
    assert found.docs.tolist() == [[2, 9, 5, 1]]
    z_scores = np.array([0.8 * high, -0.2 * high, -0.8 * high + 0.2 * high])
    assert found.scores[0, :3].tolist() == pytest.approx(z_scores + high)  # less the lowest z-score of either list


@settings(deadline=None, max_examples=30)
@given(
    data=st.lists(
        st.lists(st.tuples(st.integers(0, 20), st.sampled_from([NAN, -2.0, 0.0, 1.0, 5.0])), unique_by=lambda p: p[0])
    ).filter(bool),
    depth=st.integers(0, 11),
    weight=st.sampled_from([0.0, 0.3, 1.0]),
    normalisation=st.sampled_from(["min-max", "z-score", "rank", "none"]),
)
def test_blends_keep_heads_and_tails_apart(data, depth, weight, normalisation):
    rows = [[doc for doc, _ in row] for row in data]
    scores = table([[value for _, value in row] for row in data])
    run = run_of(rows)
    found = blended(run, scores, depth, weight=weight, normalisation=normalisation)
    check_order(found)
    for row, docs in enumerate(rows):
        head, tail = by_hand(docs, scores[row], depth)
        in_run_order = [doc for doc in docs if doc in head]
        assert sorted(found.docs[row, : len(head)].tolist()) == sorted(head)
        assert found.docs[row, len(head) : len(docs)].tolist() == tail
        if weight == 1 and normalisation != "rank":
            assert found.docs[row, : len(head)].tolist() == head
        if weight == 0:
            assert found.docs[row, : len(head)].tolist() == in_run_order


def test_wrong_blends():
    run, scores = run_of([[1, 2]]), table([[1, 2]])
    for weight in (-0.1, 1.1, NAN):
        with pytest.raises(ConfigError, match="from 0 to 1"):
            blended(run, scores, 2, weight=weight)
    with pytest.raises(ConfigError, match="did you mean 'min-max'"):
        blended(run, scores, 2, weight=0.5, normalisation="minmax")
    broken = Run(run.queries, run.docs, np.array([[1, NAN]], np.float32))
    with pytest.raises(DataError, match="run 1 scores document 2 nan"):
        blended(broken, scores, 2, weight=0.5)
    assert blended(broken, scores, 1, weight=0.5).docs.tolist() == [[1, 2]]


def world(first, second, seed=0, queries=40, documents=30):
    """A first stage and a reranker that see the true relevance under noise; each query's three best are relevant."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(queries, documents))
    noisy = [truth + random.normal(size=truth.shape) * level for level in (first, second)]
    run = Run.ranked(np.arange(queries), np.tile(np.arange(documents), (queries, 1)), noisy[0])
    best = np.argsort(-truth, axis=1)[:, :3]
    qrels = Qrels.from_triples(np.repeat(np.arange(queries), 3), best.ravel(), np.ones(queries * 3, np.int64))
    return run, (np.take_along_axis(noisy[1], run.docs, axis=1) * 3).astype(np.float32), qrels


def ndcg(run, qrels):
    return score(run, qrels, ["ndcg@10"])["ndcg@10"].mean()


def test_the_best_blend_of_the_grid():
    run, scores, qrels = world(1.0, 0.8)
    tuned = tune_blend(run, scores, qrels, 20)
    by_hand = {
        (weight, name): ndcg(blended(run, scores, 20, weight=weight / 10, normalisation=name), qrels)
        for weight in range(11)
        for name in ("min-max", "z-score")
    }
    assert tuned.score == max(by_hand.values())
    assert ndcg(blended(run, scores, **tuned.options), qrels) == tuned.score
    assert tuned.reranker_score == ndcg(reordered(run, scores, 20), qrels)
    assert tuned.retriever_score == ndcg(run, qrels)
    assert tuned.score > max(tuned.reranker_score, tuned.retriever_score), "two noisy views beat one"
    assert 0 < tuned.weight < 1
    assert tuned.tried == 22


def test_the_better_side_gets_the_weight():
    assert tune_blend(*world(5.0, 0.1), 30).weight >= 0.8
    assert tune_blend(*world(0.1, 5.0), 30).weight <= 0.2


def test_equal_weights_where_weights_do_not_matter():
    run, _, qrels = world(0.5, 0.5)
    same = tune_blend(run, run.scores, qrels, 30, normalisations=["z-score", "min-max"])
    assert (same.weight, same.normalisation) == (0.5, "z-score")
    nothing = tune_blend(run, np.full_like(run.scores, NAN), qrels, 30)
    assert nothing.score == nothing.reranker_score == nothing.retriever_score


def test_what_cannot_be_tuned():
    run, scores, qrels = world(1.0, 1.0)
    with pytest.raises(DataError, match="40 queries have labels and the run holds none"):
        tune_blend(Run(run.queries + 100, run.docs, run.scores), scores, qrels, 10)
    with pytest.raises(DataError, match="0 queries have labels"):
        tune_blend(run, scores, qrels.select(np.zeros(40, bool)), 10)
    with pytest.raises(ConfigError, match="steps 0"):
        tune_blend(run, scores, qrels, 10, steps=0)
    with pytest.raises(ConfigError, match="normalisations"):
        tune_blend(run, scores, qrels, 10, normalisations=[])
    with pytest.raises(ConfigError, match="unknown metric"):
        tune_blend(run, scores, qrels, 10, metric="ndgc@10")
