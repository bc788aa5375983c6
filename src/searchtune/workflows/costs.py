"""What a query costs under every system, with all that comes before it: measured several times over, with a spread.

Times are those of a query in a batch of up to `SAMPLE`, not of one alone. What a system is made of counts in full: a
dense system encodes the query, a fusion searches its parts, a reranked or rewritten system does what it stands on, each
part once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from searchtune.types import NO_DOC, FloatArray64, Run
from searchtune.workflows.encode import BiEncoder
from searchtune.workflows.reranking import RerankRanker
from searchtune.workflows.rewriting import RewriteRanker
from searchtune.workflows.systems import FileRanker, FusedRanker, Ranker, Request, Runs, VectorRanker, rank_all

REPEATS = 5
SAMPLE = 50
"""Queries that are timed at most."""
SECONDS = 1.0
"""Time that the repeats of one part may take; of a slower one fewer queries are timed, one at least."""


def costs_of(rankers: Mapping[str, Ranker], runs: Runs, request: Request) -> dict[str, dict[str, Any]]:
    """By system: what it took to get ready, and what a query takes, the parts included.

    `search_ms_per_query` is the median of the repeats; `search_ms_lowest` and `search_ms_highest` are their ends.
    `leaves_out` names what was not timed: encoding where every vector came from a cache, and what a run file took.
    """
    sample = Request(request.queries[:SAMPLE], request.depth)
    earlier = {name: run.select(np.isin(run.queries, sample.queries)) for name, run in runs.items()}
    own = {name: own_times(ranker, sample, earlier) for name, ranker in rankers.items()}
    found = {}
    for name, ranker in rankers.items():
        parts = made_of(rankers, name)
        total = np.sum([own[part] for part in parts], axis=0)
        known = len(request.queries) and np.isfinite(total).all()
        times = [round(float(value), 3) for value in (np.median(total), total.min(), total.max())] if known else []
        keys = ("search_ms_per_query", "search_ms_lowest", "search_ms_highest")
        left_out = [text for part in parts for text in untimed(rankers[part])]
        found[name] = {
            **ranker.cost,
            **dict(zip(keys, times, strict=False)),
            **({"leaves_out": ", ".join(dict.fromkeys(left_out))} if left_out else {}),
        }
    return found


def made_of(rankers: Mapping[str, Ranker], name: str) -> list[str]:
    """A system and all that its queries pass through before it, each once."""
    ranker = rankers[name]
    before: Sequence[str] = ()
    if isinstance(ranker, FusedRanker):
        before = ranker.parts
    elif isinstance(ranker, RerankRanker) or (isinstance(ranker, RewriteRanker) and ranker.searches_both):
        before = [ranker.of]
    return list(dict.fromkeys([*(part for one in before for part in made_of(rankers, one)), name]))


def own_times(ranker: Ranker, sample: Request, earlier: Runs) -> FloatArray64:
    """Milliseconds a query of the system's own part, in each repeat; 0 of what is not timed. Shape: (REPEATS,)."""
    if isinstance(ranker, FileRanker):
        return np.zeros(REPEATS)
    if isinstance(ranker, RerankRanker):
        return _reranking(ranker, earlier[ranker.of])
    if isinstance(ranker, RewriteRanker):
        spent = np.full(REPEATS, float(ranker.cost["rewrite_ms_per_query"]))
        inner = rank_all(ranker.inner, ranker.rewritten.collection, sample)
        return spent + sum((own_times(part, sample, inner) for part in ranker.inner.values()), np.zeros(REPEATS))

    def search(count: int) -> None:
        first = sample.queries[:count]
        ranker.rank(Request(first, sample.depth), {n: _first(run, first) for n, run in earlier.items()})

    times = repeated(search, len(sample.queries))
    if isinstance(ranker, VectorRanker) and len(ranker.query_ms):
        times = times + np.resize(np.asarray(ranker.query_ms, np.float64), REPEATS)
    return times


def _reranking(ranker: RerankRanker, run: Run) -> FloatArray64:
    """Milliseconds to rerank a query, by some of its pairs scored again in each repeat. Shape: (REPEATS,)."""
    scorer, pairs = ranker.scorer, float(ranker.cost.get("pairs_per_query", 0.0))
    rows, places = np.nonzero(run.docs[:, : ranker.depth] != NO_DOC)
    if scorer.milliseconds_per_pair is None or not len(rows):
        return np.zeros(REPEATS)
    queries, docs = run.queries[rows], run.docs[rows, places]
    return pairs * repeated(lambda count: scorer.score_again(queries[:count], docs[:count]), len(rows))


def untimed(ranker: Ranker) -> list[str]:
    """What the own time of a system leaves out."""
    if isinstance(ranker, FileRanker):
        return ["what made the run file"]
    if isinstance(ranker, VectorRanker) and not len(ranker.query_ms):
        return ["encoding the query, whose vector came from the cache"]
    if isinstance(ranker, RerankRanker) and ranker.scorer.milliseconds_per_pair is None:
        return ["reranking, whose scores came from the cache"]
    if isinstance(ranker, RewriteRanker):
        return [text for part in ranker.inner.values() for text in untimed(part)]
    return []


def query_times(encoder: BiEncoder, texts: Sequence[str], encoded: int) -> list[float]:
    """`encoding_times` of an encoder that had something to encode; none of one that a cache spared the loading."""
    return encoding_times(encoder.queries.encode, texts) if encoded else []


def encoding_times(encode: Callable[[Sequence[str]], Any], texts: Sequence[str]) -> list[float]:
    """Milliseconds to encode a query, in each repeat; none where there is no query."""
    return repeated(lambda count: encode(texts[:count]), min(len(texts), SAMPLE)).tolist() if len(texts) else []


def repeated(work: Callable[[int], Any], queries: int) -> FloatArray64:
    """Milliseconds a query of `work`, which takes a number of queries, in each repeat after a first that warms up.

    The first is over few queries and settles how many fit into the time there is. Shape: (REPEATS,).
    """
    if not queries:
        return np.full(REPEATS, np.nan)
    few = min(queries, 4)
    each = _timed(work, few) / few
    count = int(np.clip(SECONDS / REPEATS / max(each, 1e-9), 1, queries))
    return np.array([1000 * _timed(work, count) / count for _ in range(REPEATS)])


def _timed(work: Callable[[int], Any], count: int) -> float:
    start = time.perf_counter()
    work(count)
    return time.perf_counter() - start


def _first(run: Run, queries: Any) -> Run:
    return run.select(np.isin(run.queries, queries))
