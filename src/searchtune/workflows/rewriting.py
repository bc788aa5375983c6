"""A rewriter in front of a search: what is searched with, by which mode, and what that does to a run.

A mode decides what becomes of a rewrite: `replace` searches with it alone, `append` with utterance and rewrite as one
query, and `fuse` with each by itself, fused by reciprocal rank (Cormack et al. 2009). Where rewrite and utterance are
the same words, all of them search with the utterance. A rule may leave other rewrites unused: then the ranking is that
of the utterance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from searchtune.data.candidates import says_new, searched_text
from searchtune.data.rewrites import conversations_told, task_turns
from searchtune.metrics.significance import SAME
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.choice import choose
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.gain_rule import Deciding
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
    written: Mapping[int, tuple[str, str]]
    """By position, what was asked and what was written for it."""

    @property
    def changed(self) -> float:
        """Share of these queries whose words are new."""
        return changed_share(*([pair[i] for pair in self.written.values()] for i in (0, 1)))

    def texts(self, queries: IntArray) -> tuple[list[str], list[str]]:
        """What was asked and what was written, for the queries at these positions."""
        pairs = [self.written[place] for place in queries.tolist()]
        return [said for said, _ in pairs], [query for _, query in pairs]


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
    if told := conversations_told([collection.query_ids[i] for i in places], [turns[i] for i in places]):
        progress.note(f"{told}; `history: false` reads each by itself")
    found = rewrite_all(rewriter, [turns[i] for i in places], kept_rewrites(cache, rewriter), progress=progress)
    texts = list(collection.query_texts)
    for place, query in zip(places, found.queries, strict=True):
        texts[place] = searched_text(texts[place], query, mode)
    said = [collection.query_texts[place] for place in places]
    written = dict(zip(places, zip(said, found.queries, strict=True), strict=True))
    return RewrittenCollection(replace(collection, query_texts=texts), found, written)


@dataclass
class RewriteRanker:
    """A system behind a rewriter: the same ranking for other texts, or fused with that for the utterances."""

    of: str
    """The system that ranks; its run for the utterances comes before this one."""
    inner: Mapping[str, Ranker]
    """The same system, with those that it is made of before it, over `rewritten`."""
    rewritten: RewrittenCollection
    mode: Mode
    rule: Deciding | None = None
    """Which rewrites are used; None uses all."""
    cost: dict[str, Any] = field(default_factory=dict)
    """`rewritten_share` is that of the queries that were ranked last in the whole collection."""

    def __post_init__(self) -> None:
        rewrites = self.rewritten.rewrites
        self.cost |= {} if self.rule is None else {"abstention": self.rule.use}
        self.cost |= {
            "mode": self.mode,
            "rewritten_share": round(self.rewritten.changed, 3),
            "rewrite_ms_per_query": round(rewrites.milliseconds_per_turn, 2),
            "rewrite_tokens_per_query": round(rewrites.tokens_per_turn, 1),
        }

    @property
    def searches_both(self) -> bool:
        """Whether a query takes the search for its utterance, too, or alone."""
        return self.mode == "fuse" if self.rule is None else self.mode == "fuse" or self.rule.use != "always"

    def rank(self, request: Request, earlier: Runs) -> Run:
        original = earlier[self.of]
        if self.rule is not None and self.rule.use == "never":
            return original
        runs = rank_all(self.inner, self.rewritten.collection, request)
        rewritten = combined(original, runs[self.of], self.mode, request.depth)
        if self.rule is None:
            return rewritten
        used = self.rule.decide(*self.rewritten.texts(request.queries), original, rewritten)
        if request.exclude is None:
            self.cost["rewritten_share"] = round(float(used.mean()), 3) if len(used) else 0.0
        return choose(original, rewritten, used)
