"""Early exit against a walk down each list by hand, and online decisions against the depths told afterwards."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.early_exit import EarlyExit, early_exit, tune_early_exit
from searchtune.retrieval.reorder import reordered
from searchtune.types import NO_DOC, Qrels, Run
from unit.retrieval.test_reorder import world

NAN, INF = np.nan, np.inf
SCORES = st.integers(1, 3).flatmap(
    lambda rows: st.integers(0, 9).flatmap(
        lambda width: st.lists(
            st.lists(st.sampled_from([NAN, -INF, 0.0, 1.0, 2.0, 2.5, 7.0]), min_size=width, max_size=width),
            min_size=rows,
            max_size=rows,
        )
    )
)


def walk(row, step, margin, keep):
    """How deep one list is read."""
    read = []
    depth = 0
    for start in range(0, len(row), step):
        part = [value for value in row[start : start + step] if value > -INF]
        if not part:
            break
        read += part
        depth = max(i + 1 for i, value in enumerate(row[: start + step]) if value > -INF)
        if len(read) >= keep and max(part) < sorted(read)[-keep] - margin:
            break
    return depth


@settings(deadline=None, max_examples=30)
@given(rows=SCORES, step=st.integers(1, 4), margin=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 99.0]), keep=st.integers(1, 4))
def test_depths(rows, step, margin, keep):
    scores = np.array(rows, dtype=np.float32)
    found = early_exit(scores, step, margin, keep)
    assert found.tolist() == [walk(row, step, margin, keep) for row in rows]
    assert (early_exit(scores, step, margin + 1, keep) >= found).all(), "a greater margin never stops earlier"


@settings(deadline=None, max_examples=30)
@given(rows=SCORES, step=st.integers(1, 4), margin=st.sampled_from([0.0, 0.5, 2.0]), keep=st.integers(1, 4))
def test_online_is_the_same(rows, step, margin, keep):
    scores = np.array(rows, dtype=np.float32)
    rule = EarlyExit(step, margin, keep)
    read = np.full_like(scores, NAN)
    going = rule.goes_on(read[:, :0])
    assert going.all()
    for start in range(0, scores.shape[1], step):
        read[going, start : start + step] = scores[going, start : start + step]
        going &= rule.goes_on(read[:, : start + step])
    places = np.where(np.isfinite(read), np.arange(1, scores.shape[1] + 1), 0)
    assert places.max(axis=1, initial=0).tolist() == early_exit(scores, step, margin, keep).tolist()


def test_by_hand():
    row = [5, 4, 1, 3.5, 0, 0, 9, 9]
    assert early_exit(np.array([row], np.float32), 2, 0.0, 2).tolist() == [4]
    assert early_exit(np.array([row], np.float32), 2, 0.5, 2).tolist() == [6], "3.5 is within a half of 4"
    assert early_exit(np.array([row], np.float32), 2, 4.0, 2).tolist() == [8]
    assert early_exit(np.array([row], np.float32), 2, -2.0, 2).tolist() == [2], "5 beats 4 by less than 2"
    assert early_exit(np.array([row], np.float32), 3, 0.0, 10).tolist() == [8], "fewer than 10 are never enough"


def test_lists_that_end():
    scores = np.array([[1, 2, NAN, NAN, 5], [NAN] * 5, [1, NAN, 2, NAN, NAN], [-INF] * 5], np.float32)
    assert early_exit(scores, 2, 9.0, 1).tolist() == [2, 0, 3, 0]
    assert early_exit(scores[:, :0], 2, 9.0, 1).tolist() == [0, 0, 0, 0]
    assert early_exit(scores[:0], 2, 9.0, 1).tolist() == []


def quality(run, scores, qrels, depths):
    read = np.where(np.arange(run.depth) < np.asarray(depths)[:, None], scores, np.float32(NAN))
    return score(reordered(run, read, run.depth), qrels, ["ndcg@10"])["ndcg@10"].mean()


@pytest.mark.parametrize("tolerance", [0.0, 0.01, 0.1, 1.0])
def test_tuning_saves_the_most_within_the_tolerance(tolerance):
    run, scores, qrels = world(0.7, 0.3, queries=15)
    tuned = tune_early_exit(run, scores, qrels, tolerance, step=5, keep=3)
    full = quality(run, scores, qrels, [30] * 15)
    depths = early_exit(scores, 5, tuned.exit.margin, 3)
    assert tuned.full_score == full
    assert tuned.full_depth == 30
    assert tuned.score == quality(run, scores, qrels, depths) >= full - tolerance
    assert tuned.mean_depth == depths.mean()
    for margin in np.linspace(-8, tuned.exit.margin, 200):
        depths = early_exit(scores, 5, margin, 3)
        assert depths.mean() >= tuned.mean_depth or quality(run, scores, qrels, depths) < full - tolerance
    assert 5 <= tuned.mean_depth < 30
    assert (tuned.mean_depth == 5) == (tolerance >= 0.1)


def test_no_tolerance_on_a_reranker_that_needs_everything():
    """The first stage has the order upside down, so each step holds better documents than the one before."""
    docs = np.tile(np.arange(20), (4, 1))
    run = Run.ranked(np.arange(4), docs, -docs.astype(np.float32))
    qrels = Qrels.from_triples(np.arange(4), np.full(4, 19), np.ones(4, np.int64))
    tuned = tune_early_exit(run, run.docs.astype(np.float32), qrels, 0.0, step=5, keep=2)
    assert tuned.mean_depth == tuned.full_depth == 20
    assert tuned.score == tuned.full_score == 1


def test_lists_shorter_than_what_is_kept():
    run = Run.ranked(np.arange(2), np.array([[3, 4, NO_DOC], [5, NO_DOC, NO_DOC]]), np.ones((2, 3), np.float32))
    qrels = Qrels.from_triples(np.array([0, 1]), np.array([3, 5]), np.array([1, 1]))
    tuned = tune_early_exit(run, np.array([[1, 2, 9], [4, 9, 9]], np.float32), qrels, step=1)
    assert tuned.mean_depth == tuned.full_depth == 1.5, "what stands beyond a list's end is no score"


def test_many_distances_take_few_tries():
    run, scores, qrels = world(0.7, 0.3, queries=200)
    tuned = tune_early_exit(run, scores, qrels, 0.002, step=1, keep=3)
    assert tuned.full_score - tuned.score <= 0.002
    assert tuned.mean_depth < 30


def test_wrong_options():
    run, scores, qrels = world(0.7, 0.3, queries=3)
    for options in ({"step": 0, "margin": 1}, {"step": 1, "margin": NAN}, {"step": 1, "margin": INF}):
        with pytest.raises(ConfigError, match="early exit with step"):
            EarlyExit(**options)
    with pytest.raises(ConfigError, match="keep 0"):
        early_exit(scores, 5, 0.0, 0)
    with pytest.raises(ConfigError, match="step 0"):
        tune_early_exit(run, scores, qrels, step=0)
    for tolerance in (-0.1, NAN):
        with pytest.raises(ConfigError, match="tolerance"):
            tune_early_exit(run, scores, qrels, tolerance)
    with pytest.raises(DataError, match="3 queries have labels and the run holds none"):
        tune_early_exit(Run(run.queries + 9, run.docs, run.scores), scores, qrels)
    with pytest.raises(ValueError, match="shape"):
        tune_early_exit(run, scores[:1], qrels)
    with pytest.raises(DataError, match="overflow"):
        tune_early_exit(run, np.where(scores == scores.max(), INF, scores).astype(np.float32), qrels)
