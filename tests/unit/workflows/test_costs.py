"""What a query costs: repeated, with a spread, and with all that comes before it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from searchtune.types import Run
from searchtune.workflows import costs
from searchtune.workflows.costs import REPEATS, costs_of, encoding_times, made_of, repeated
from searchtune.workflows.reranking import RerankRanker
from searchtune.workflows.systems import FusedRanker, Request, VectorRanker

QUERIES = np.arange(6)


class Index:
    """Ranks nothing new; a search advances the clock by what it takes for so many queries."""

    build_seconds, bytes = 0.0, 0

    def __init__(self, clock, each):
        self.clock, self.each = clock, each

    def search(self, queries, vectors, depth, *, exclude=None):
        self.clock.now += self.each * len(queries) / 1000
        return run_of(queries)


def run_of(queries):
    return Run(queries, np.tile([0, 1], (len(queries), 1)), np.tile(np.float32([2, 1]), (len(queries), 1)))


@pytest.fixture
def clock(monkeypatch):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(costs.time, "perf_counter", lambda: clock.now)
    return clock


def dense(clock, each, query_ms=()):
    return VectorRanker(Index(clock, each), QUERIES, np.zeros((6, 2), np.float32), query_ms=query_ms)


def told(rankers):
    return costs_of(rankers, {name: run_of(QUERIES) for name in rankers}, Request(QUERIES, 2))


def times(cost):
    return tuple(cost.get(f"search_ms_{name}") for name in ("per_query", "lowest", "highest"))


def test_encoding_and_parts_are_counted_each_once(clock):
    rankers = {
        "words": dense(clock, 2, [0]),
        "dense": dense(clock, 3, [10, 12, 14, 16, 30]),
        "both": FusedRanker(["words", "dense"]),
        "all": FusedRanker(["both", "words"]),
    }
    found = told(rankers)
    assert times(found["words"]) == pytest.approx((2, 2, 2))
    assert times(found["dense"]) == pytest.approx((3 + 14, 3 + 10, 3 + 30))
    assert times(found["both"]) == pytest.approx((2 + 17, 2 + 13, 2 + 33))
    assert times(found["all"]) == pytest.approx(times(found["both"]))
    assert made_of(rankers, "all") == ["words", "dense", "both", "all"]
    assert not any("leaves_out" in cost for cost in found.values())


def test_a_reranked_system_counts_its_first_stage(clock):
    def score_again(queries, docs):
        clock.now += 0.004 * len(docs)

    scorer = SimpleNamespace(milliseconds_per_pair=4.0, score_again=score_again)
    reranked = RerankRanker("words", scorer, 2, cost={"pairs_per_query": 2.0})
    found = told({"words": dense(clock, 5, [0]), "reranked": reranked})
    assert times(found["reranked"]) == pytest.approx((5 + 2 * 4,) * 3)
    scorer.milliseconds_per_pair = None
    found = told({"words": dense(clock, 5, [0]), "reranked": reranked})
    assert times(found["reranked"]) == pytest.approx((5, 5, 5))
    assert found["reranked"]["leaves_out"] == "reranking, whose scores came from the cache"


def test_what_was_not_timed_is_said_wherever_it_is_missing(clock):
    found = told({"cached": dense(clock, 5), "fused": FusedRanker(["cached", "cached"])})
    for name in found:
        assert found[name]["leaves_out"] == "encoding the query, whose vector came from the cache"


def test_slow_work_is_timed_on_fewer_queries(clock):
    asked = []

    def work(count):
        asked.append(count)
        clock.now += 0.1 * count

    assert repeated(work, 50) == pytest.approx([100] * REPEATS)
    assert asked == [4, *[2] * REPEATS]
    assert np.isnan(repeated(work, 0)).all()


def test_encoding_is_timed_over_a_sample(clock):
    seen = []

    def encode(texts):
        seen.append(len(texts))
        clock.now += 0.001 * len(texts)

    assert encoding_times(encode, ["a question"] * 500) == pytest.approx([1] * REPEATS)
    assert max(seen) == costs.SAMPLE
    assert encoding_times(encode, []) == []
