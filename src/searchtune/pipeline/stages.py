"""The stages of a pipeline.

Rewriters put what was said into queries, retrievers give a ranking for query texts, rerankers put its top in a new
order, and answerers write from passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from searchtune.models.pairs import BareTexts, PairStore, bare_texts
from searchtune.models.reranker import Reranker
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.index import VectorIndex
from searchtune.retrieval.reorder import blended, reordered
from searchtune.specs.card import FittedBlend
from searchtune.types import NO_DOC, Answer, FloatArray, Run, Turn


class Rewriting(Protocol):
    """Puts what was said into queries that stand alone."""

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        """The query for each turn, in order; the utterance itself where it is better left as it is."""


class Retrieval(Protocol):
    """Finds documents for texts."""

    def retrieve(self, queries: Sequence[str], depth: int) -> Run:
        """A ranking for each text; row `i` is text `i`. Shape: at most (texts, depth)."""


class Reranking(Protocol):
    """Reorders rankings."""

    def rerank(self, queries: Sequence[str], run: Run) -> Run:
        """The run of `retrieve` for these texts with its top in a new order."""


class Answering(Protocol):
    """Writes answers from passages."""

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        """The answer to each question from its own passages, the best first; a question may have none."""


@dataclass(frozen=True)
class Words:
    """BM25."""

    index: BM25Index

    def retrieve(self, queries: Sequence[str], depth: int) -> Run:
        return self.index.search(np.arange(len(queries)), list(queries), depth)


@dataclass(frozen=True)
class Dense:
    """A bi-encoder: what encodes queries, and an index of document vectors."""

    encode: Callable[[Sequence[str]], FloatArray]
    """Texts -> vectors. Shape: (texts, dim)."""
    index: VectorIndex

    def retrieve(self, queries: Sequence[str], depth: int) -> Run:
        return self.index.search(np.arange(len(queries)), self.encode(queries), depth)


@dataclass(frozen=True)
class Fused:
    """Several retrievers, fused by reciprocal rank."""

    parts: Sequence[Retrieval]

    def retrieve(self, queries: Sequence[str], depth: int) -> Run:
        return fuse([part.retrieve(queries, depth) for part in self.parts], depth=depth)


@dataclass
class PairReranker:
    """A model that reads query and document together. Documents are tokenised once, when the stage is made."""

    model: Reranker
    documents: Sequence[str]
    depth: int = 50
    blend: FittedBlend | None = None
    """How to weigh the retriever's scores in; None orders by the model alone."""
    _texts: BareTexts = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._form = self.model.form
        self._texts = bare_texts(self.model.tokenizer, self.documents, self._form)

    def rerank(self, queries: Sequence[str], run: Run) -> Run:
        asked = bare_texts(self.model.tokenizer, queries, self._form)
        places = (run.docs != NO_DOC) & (np.arange(run.depth) < self.depth)
        rows, _ = np.nonzero(places)
        scores = np.full(run.docs.shape, np.nan, dtype=np.float32)
        store = PairStore(asked, self._texts, self._form)
        scores[places] = self.model.score_store(store, run.queries[rows], run.docs[places])
        if self.blend is None:
            return reordered(run, scores, self.depth)
        weight, normalisation = self.blend.weight, self.blend.normalisation
        return blended(run, scores, self.depth, weight=weight, normalisation=normalisation)
