"""`Search`: retrieve, then rerank, for a batch of texts or for a stream of them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import NamedTuple

from searchtune.errors import ConfigError, DataError
from searchtune.pipeline.stages import Reranking, Retrieval
from searchtune.types import NO_DOC, Run


class Hit(NamedTuple):
    """One document found. `score` is that of the last stage."""

    id: str
    score: float
    document: int
    """Its position in the corpus."""


@dataclass
class Timing:
    """What a stage has taken so far."""

    seconds: float = 0.0
    queries: int = 0

    @property
    def milliseconds_per_query(self) -> float:
        """0 before the first query."""
        return 1000 * self.seconds / self.queries if self.queries else 0.0


@dataclass
class Search:
    """A retriever over a corpus, with a reranker behind it or without.

    `doc_ids` are the corpus's ids in the order in which the index has them. `timings` grow with every call.
    """

    doc_ids: Sequence[str]
    retriever: Retrieval
    reranker: Reranking | None = None
    depth: int = 100
    """How many documents the retriever hands to the reranker; without one, as many as are asked for."""
    timings: dict[str, Timing] = field(default_factory=dict)

    def search(self, queries: Sequence[str], top: int = 10) -> list[list[Hit]]:
        """The `top` documents for each text, best first.

        Raises:
            DataError: a text is empty.
            ConfigError: `top` below 1, or beyond what the retriever hands on.
        """
        if top < 1 or (self.reranker is not None and top > self.depth):
            raise ConfigError(f"top {top}: it is at least 1, and at most the depth {self.depth} that is reranked from")
        for place, text in enumerate(queries):
            if not text.strip():
                raise DataError(f"query {place + 1} of {len(queries)} is empty; say what to look for")
        if not queries:
            return []
        with self._timed("retrieve", len(queries)):
            run = self.retriever.retrieve(queries, top if self.reranker is None else self.depth)
        if self.reranker is not None:
            with self._timed("rerank", len(queries)):
                run = self.reranker.rerank(queries, run)
        return [self._hits(run, row, top) for row in range(len(queries))]

    def stream(self, queries: Iterable[str], top: int = 10, *, batch: int = 32) -> Iterator[list[Hit]]:
        """The same, text by text as they come, in batches of `batch` so that models stay busy."""
        waiting = iter(queries)
        while texts := list(islice(waiting, batch)):
            yield from self.search(texts, top)

    def _hits(self, run: Run, row: int, top: int) -> list[Hit]:
        found = zip(run.docs[row, :top].tolist(), run.scores[row, :top].tolist(), strict=True)
        return [Hit(self.doc_ids[doc], score, doc) for doc, score in found if doc != NO_DOC]

    @contextmanager
    def _timed(self, stage: str, queries: int) -> Iterator[None]:
        start = time.perf_counter()
        yield
        timing = self.timings.setdefault(stage, Timing())
        timing.seconds += time.perf_counter() - start
        timing.queries += queries
