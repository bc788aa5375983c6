"""A rewriter in front of a search: what is searched with, by which mode, and what that does to a run.

A mode decides what becomes of a rewrite: `replace` searches with it alone, `append` with utterance and rewrite as one
query, and `fuse` with each by itself, fused by reciprocal rank (Cormack et al. 2009). Where rewrite and utterance are
the same words, all of them search with the utterance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from searchtune.data.candidates import says_new, searched_text
from searchtune.data.rewrites import task_turns
from searchtune.metrics.significance import SAME
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.fusion import fuse
from searchtune.specs.rewrite import Mode
from searchtune.types import Collection, FloatArray64, IntArray, Run
from searchtune.workflows.progress import Progress
from searchtune.workflows.rewrite_run import Rewriter, Rewrites, kept_rewrites, rewrite_all
from searchtune.workflows.systems import Ranker, Request, Runs, rank_all


def combined(original: Run, rewritten: Run, mode: Mode, depth: int) -> Run:
    """The run of a mode, from the utterances' and that of what was searched with in their place."""
    return fuse([original, rewritten], depth=depth) if mode == "fuse" else rewritten


def changed_share(utterances: Sequence[str], queries: Sequence[str]) -> float:
    """Of the queries whose words are not the utterance's."""
    pairs = zip(utterances, queries, strict=True)
    return float(np.mean([says_new(said, query) for said, query in pairs])) if utterances else 0.0


def harm(before: FloatArray64, after: FloatArray64) -> dict[str, float]:
    """How a measure moves from query to query.

    `gain` is the mean change; `better` and `worse` are shares of the queries, `mean_rise` and `mean_fall` what these
    change by on average (0 where there are none). Shape: before and after (queries,).
    """
    change = after - before
    up, down = change > SAME, change < -SAME
    return {
        "gain": float(change.mean()) if len(change) else 0.0,
        "better": float(up.mean()) if len(change) else 0.0,
        "worse": float(down.mean()) if len(change) else 0.0,
        "mean_rise": float(change[up].mean()) if up.any() else 0.0,
        "mean_fall": float(change[down].mean()) if down.any() else 0.0,
    }


@dataclass(frozen=True, eq=False)
class RewrittenCollection:
    """A collection with other texts in place of some of its queries."""

    collection: Collection
    rewrites: Rewrites
    changed: float
    """Share of these queries whose words are new."""


def rewritten_collection(
    collection: Collection,
    queries: IntArray,
    rewriter: Rewriter,
    *,
    mode: Mode,
    history: bool = True,
    cache: EmbeddingCache | None = None,
    progress: Progress,
) -> RewrittenCollection:
    """Rewrite the queries at these positions, each once, kept beside the cache, and put in what is searched with.

    History is that of the collection's conversations (see `data.rewrites.task_turns`).
    """
    turns = task_turns(collection.query_ids, collection.query_texts, history=history)
    places = queries.tolist()
    found = rewrite_all(rewriter, [turns[i] for i in places], kept_rewrites(cache, rewriter), progress=progress)
    texts = list(collection.query_texts)
    for place, query in zip(places, found.queries, strict=True):
        texts[place] = searched_text(texts[place], query, mode)
    said = [collection.query_texts[i] for i in places]
    return RewrittenCollection(replace(collection, query_texts=texts), found, changed_share(said, found.queries))


@dataclass
class RewriteRanker:
    """A system behind a rewriter: the same ranking for other texts, or fused with that for the utterances."""

    of: str
    """The system that ranks; its run for the utterances comes before this one."""
    inner: Mapping[str, Ranker]
    """The same system, with those that it is made of before it, over `rewritten`."""
    rewritten: RewrittenCollection
    mode: Mode
    cost: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rewrites = self.rewritten.rewrites
        self.cost |= {
            "mode": self.mode,
            "rewritten_share": round(self.rewritten.changed, 3),
            "rewrite_ms_per_query": round(rewrites.milliseconds_per_turn, 2),
            "rewrite_tokens_per_query": round(rewrites.tokens_per_turn, 1),
        }

    def rank(self, request: Request, earlier: Runs) -> Run:
        runs, _ = rank_all(self.inner, self.rewritten.collection, request)
        return combined(earlier[self.of], runs[self.of], self.mode, request.depth)


def with_rewriting_time(
    costs: Mapping[str, Mapping[str, Any]], rankers: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Costs by system where a rewritten search's time per query holds the rewriter's, whenever it was at work."""
    result = {name: dict(cost) for name, cost in costs.items()}
    for name, ranker in rankers.items():
        if isinstance(ranker, RewriteRanker):
            spent = float(result[name]["search_ms_per_query"]) + float(ranker.cost["rewrite_ms_per_query"])
            result[name]["search_ms_per_query"] = round(spent, 2)
    return result
