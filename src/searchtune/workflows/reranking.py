"""Reranking a collection's runs: pairs scored once, and a ranker that puts a reranker behind any other system."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from searchtune.data.groups import PairScores
from searchtune.evaluation import CostedRun
from searchtune.models.cut_count import CutCount
from searchtune.retrieval.cache import EmbeddingCache, EncoderKey
from searchtune.retrieval.early_exit import EarlyExit
from searchtune.retrieval.reorder import blended, reordered
from searchtune.specs.card import FittedBlend
from searchtune.types import NO_DOC, Collection, FloatArray, IntArray, Run
from searchtune.workflows.systems import Ranker, Request, Runs

if TYPE_CHECKING:
    from searchtune.models.pairs import PairStore
    from searchtune.models.reranker import Reranker

_AT_A_TIME = 16_384
"""Pairs between two writes to the cache: what a kill can cost."""


class PairScorer:
    """Scores of a collection's query-document pairs under one reranker; no pair is scored twice."""

    def __init__(
        self,
        collection: Collection,
        load: Callable[[], Reranker],
        *,
        store: PairStore | None = None,
        cache: EmbeddingCache | None = None,
        key: EncoderKey | None = None,
    ) -> None:
        """`load` opens the model when the first pair must be scored; `key` is what its scores are filed under.

        `store` holds the collection's texts where they are tokenised already.
        """
        self.collection, self._load, self._cache, self._key = collection, load, cache, key
        self._store = store
        self._known = PairScores(*_nothing())
        self.scored = 0
        """Pairs that the model scored, not the cache."""
        self.cuts = CutCount()
        """Of these, the pairs that were longer than what is read."""
        self.seconds = 0.0
        """Time that took."""

    @property
    def milliseconds_per_pair(self) -> float | None:
        """What a pair costs in a batch; None where every score came from the cache."""
        return 1000 * self.seconds / self.scored if self.scored else None

    def scores(self, queries: IntArray, docs: IntArray) -> FloatArray:
        """Scores of pairs. Shape: (pairs,) all."""
        found = self._known.at(queries, docs)
        missing = np.flatnonzero(np.isnan(found))
        if len(missing):
            stride = len(self.collection.doc_ids)
            new, inverse = np.unique(queries[missing] * stride + docs[missing], return_inverse=True)
            fresh = self._fresh(new // stride, new % stride)
            found[missing] = fresh[inverse]
            self._known = self._known.extended(new // stride, new % stride, fresh)
        return found

    def of_run(self, run: Run, depth: int) -> FloatArray:
        """Scores of each row's first `depth` documents, NaN elsewhere. Shape: (queries, run depth)."""
        return self.of_places(run, (run.docs != NO_DOC) & (np.arange(run.depth) < depth))

    def of_places(self, run: Run, places: npt.NDArray[np.bool_]) -> FloatArray:
        """Scores of some places of a run, NaN elsewhere. Shape: places and result (queries, run depth)."""
        scores = np.full(run.docs.shape, np.nan, dtype=np.float32)
        rows, _ = np.nonzero(places)
        scores[places] = self.scores(run.queries[rows], run.docs[places])
        return scores

    def latency(self, run: Run, depth: int, queries: int = 20) -> float | None:
        """Median milliseconds to rerank one query alone, over the first few; None for an empty run."""
        times = []
        for row in range(min(queries + 1, len(run.queries))):
            docs = run.docs[row, :depth]
            docs = docs[docs != NO_DOC]
            start = time.perf_counter()
            self._by_model(np.repeat(run.queries[row : row + 1], len(docs)), docs)
            times.append(1000 * (time.perf_counter() - start))
        return float(np.median(times[1:] or times)) if times else None  # the first one warms up

    def score_again(self, queries: IntArray, docs: IntArray) -> None:
        """Let the model score pairs, known or not, and forget what it says: for measuring time. Shape: (pairs,)."""
        self._by_model(queries, docs)

    def _fresh(self, queries: IntArray, docs: IntArray) -> FloatArray:
        parts = [slice(start, start + _AT_A_TIME) for start in range(0, len(queries), _AT_A_TIME)]
        return np.concatenate([self._through_cache(queries[part], docs[part]) for part in parts])

    def _through_cache(self, queries: IntArray, docs: IntArray) -> FloatArray:
        if self._cache is None or self._key is None:
            return self._timed(queries, docs)
        collection = self.collection
        texts = [
            json.dumps([collection.query_texts[int(query)], collection.documents[int(doc)]])
            for query, doc in zip(queries, docs, strict=True)
        ]
        place = {text: i for i, text in enumerate(texts)}

        def score(missing: Sequence[str]) -> FloatArray:
            rows = np.array([place[text] for text in missing])
            return self._timed(queries[rows], docs[rows])[:, None]

        return self._cache.encode_through(self._key, texts, score)[:, 0]

    def _timed(self, queries: IntArray, docs: IntArray) -> FloatArray:
        self._texts()
        start = time.perf_counter()
        scores = self._by_model(queries, docs)
        self.seconds += time.perf_counter() - start
        self.scored += len(queries)
        self._texts().count(queries, docs, self.cuts)
        return scores

    def _by_model(self, queries: IntArray, docs: IntArray) -> FloatArray:
        return self._load().score_store(self._texts(), queries, docs)

    def _texts(self) -> PairStore:
        if self._store is None:
            from searchtune.models.pairs import pair_store  # torch is opened where a pair must be scored

            reranker = self._load()
            texts = list(self.collection.query_texts)
            self._store = pair_store(reranker.tokenizer, texts, self.collection.documents, reranker.form)
        return self._store


def _nothing() -> tuple[IntArray, IntArray, FloatArray]:
    return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(0, np.float32)


@dataclass
class RerankRanker:
    """A reranker behind another system: its first `depth` documents in a new order, the rest below as they were."""

    of: str
    """The system whose run is reranked; it comes before this one."""
    scorer: PairScorer
    depth: int
    blend: FittedBlend | None = None
    """Weigh the first stage's scores in; None orders by the reranker alone."""
    exit: EarlyExit | None = None
    """Stop going down a ranking early; None reranks all `depth` documents."""
    sweep: Sequence[int] = ()
    """Depths that a report compares."""
    cost: dict[str, Any] = field(default_factory=dict)

    def rank(self, request: Request, earlier: Runs) -> Run:
        run = earlier[self.of]
        scores = self.scorer.of_run(run, self.depth) if self.exit is None else self._until_exit(run, self.exit)
        pairs = np.isfinite(scores).sum(axis=1)
        self.cost["pairs_per_query"] = round(float(pairs.mean()), 1) if len(pairs) else 0.0
        each = self.scorer.milliseconds_per_pair
        if each is not None:
            self.cost["rerank_ms_per_query"] = round(each * self.cost["pairs_per_query"], 2)
        if self.blend is None:
            return reordered(run, scores, self.depth)
        weight, normalisation = self.blend.weight, self.blend.normalisation
        return blended(run, scores, self.depth, weight=weight, normalisation=normalisation)

    def _until_exit(self, run: Run, rule: EarlyExit) -> FloatArray:
        """Scores step by step down the rankings, no further than the rule says. Shape: (queries, run depth)."""
        scores = np.full(run.docs.shape, np.nan, dtype=np.float32)
        active = np.ones(len(run.queries), dtype=np.bool_)
        columns = np.arange(run.depth)
        last = min(self.depth, run.depth)
        for start in range(0, last, rule.step):
            stop = min(start + rule.step, last)
            places = active[:, None] & (columns >= start) & (columns < stop) & (run.docs != NO_DOC)
            scores[places] = self.scorer.of_places(run, places)[places]
            active &= rule.goes_on(scores[:, :stop])
        return scores


def trade_offs(
    rankers: Mapping[str, Ranker], runs: Runs, costs: Mapping[str, Mapping[str, Any]]
) -> dict[str, list[CostedRun]]:
    """What each reranker with a sweep makes of its first stage at every depth, without early exit, and at what cost."""
    return {
        name: _sweep(ranker, runs[ranker.of], float(costs[ranker.of].get("search_ms_per_query", float("nan"))))
        for name, ranker in rankers.items()
        if isinstance(ranker, RerankRanker) and ranker.sweep
    }


def _sweep(ranker: RerankRanker, run: Run, first_stage_ms: float) -> list[CostedRun]:
    points = []
    for depth in ranker.sweep:
        at = RerankRanker(ranker.of, ranker.scorer, depth, ranker.blend)
        reranked = at.rank(Request(run.queries, run.depth), {ranker.of: run})
        milliseconds = first_stage_ms + float(at.cost.get("rerank_ms_per_query", float("nan")))
        pairs = float(at.cost["pairs_per_query"])
        points.append(CostedRun(reranked, depth, milliseconds, pairs, chosen=depth == ranker.depth))
    return points
