"""Fitted fusions: the best of the grid, nearest to equal weights, and what cannot be tuned."""

import numpy as np
import pytest

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.tuning import RRF_KS, tune_weights
from searchtune.types import NO_DOC, Qrels, Run


def world(noise, seed=0, queries=30, documents=40):
    """One run a noise level: scores are the true relevance plus noise. The qrels name each query's three best."""
    random = np.random.default_rng(seed)
    truth = random.normal(size=(queries, documents))
    docs = np.broadcast_to(np.arange(documents), truth.shape)
    runs = [Run.ranked(np.arange(queries), docs, truth + random.normal(size=truth.shape) * level) for level in noise]
    best = np.argsort(-truth, axis=1)[:, :3]
    return runs, Qrels.from_triples(np.repeat(np.arange(queries), 3), best.ravel(), np.ones(queries * 3, np.int64))


def ndcg(run, qrels):
    return score(run, qrels, ["ndcg@10"])["ndcg@10"].mean()


@pytest.mark.parametrize("method", ["combsum", "combmnz", "combmax"])
def test_the_best_of_the_grid(method):
    runs, qrels = world([0.3, 2.0])
    tuned = tune_weights(runs, qrels, method=method)
    by_hand = {weight: ndcg(fuse(runs, method, weights=[weight / 10, 1 - weight / 10]), qrels) for weight in range(11)}
    assert tuned.score == pytest.approx(max(by_hand.values()), abs=1e-9)
    assert ndcg(fuse(runs, **tuned.options), qrels) == tuned.score
    assert tuned.score > tuned.equal_score == pytest.approx(by_hand[5])
    assert tuned.weights[0] > 0.5
    assert tuned.tried == 12
    assert sum(tuned.weights) == pytest.approx(1)


def test_a_useless_run_loses_its_weight():
    runs, qrels = world([0.3, 0.3, 50.0])
    tuned = tune_weights(runs, qrels, "map", steps=5)
    assert tuned.weights[2] < min(tuned.weights[:2])
    assert tuned.tried == 22


def test_equal_weights_win_where_weights_do_not_matter():
    runs, qrels = world([0.5])
    tuned = tune_weights([runs[0], runs[0], runs[0]], qrels, steps=4)
    assert tuned.weights == pytest.approx((1 / 3, 1 / 3, 1 / 3))
    assert tune_weights(runs, qrels).weights == (1.0,)
    assert tune_weights([runs[0], runs[0]], qrels, method="rrf").k == 60


def test_rrf_tunes_k():
    runs, qrels = world([0.3, 3.0], seed=4)
    tuned = tune_weights(runs, qrels, method="rrf")
    best = max(ndcg(fuse(runs, "rrf", k=k), qrels) for k in RRF_KS)
    assert tuned.score == pytest.approx(best)
    assert ndcg(fuse(runs, **tuned.options), qrels) == tuned.score
    assert tuned.weights == (0.5, 0.5)


def test_a_judged_query_that_the_runs_lack_counts_nothing():
    runs, qrels = world([0.3, 0.3])
    half = np.arange(30) < 15
    full, part = tune_weights(runs, qrels), tune_weights([run.select(half) for run in runs], qrels)
    assert 0 < part.score < full.score * 0.6


def test_a_run_that_ranks_nothing_where_weights_are_fitted():
    runs, qrels = world([0.3, 0.3])
    silent = Run(runs[1].queries, np.full_like(runs[1].docs, NO_DOC), np.full_like(runs[1].scores, -np.inf))
    for lacks in (silent, runs[1].select(np.zeros(30, dtype=bool))):
        with pytest.raises(DataError, match="run 2 of 2 ranks nothing for the 30 queries"):
            tune_weights([runs[0], lacks], qrels)


def test_what_cannot_be_tuned():
    runs, qrels = world([0.3, 0.3])
    with pytest.raises(DataError, match="30 queries have labels and the runs hold none"):
        tune_weights([Run(run.queries + 100, run.docs, run.scores) for run in runs], qrels)
    with pytest.raises(DataError, match="0 queries have labels"):
        tune_weights(runs, qrels.select(np.zeros(30, dtype=bool)))
    with pytest.raises(DataError, match="hold none"):
        tune_weights([], qrels)
    with pytest.raises(ConfigError, match="steps 0"):
        tune_weights(runs, qrels, steps=0)
    with pytest.raises(ConfigError, match="7 runs in 10 steps make 8008 weightings, and 5000"):
        tune_weights([runs[0]] * 7, qrels)
    with pytest.raises(ConfigError, match="unknown metric"):
        tune_weights(runs, qrels, "ndgc@10")
