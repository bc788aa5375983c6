"""The stages of a pipeline.

Rewriters put what was said into queries, retrievers give a ranking for query texts, rerankers put its top in a new
order, and answerers write from passages.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from searchtune.models.pairs import BareTexts, PairStore, bare_texts
from searchtune.models.reranker import Reranker
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.index import VectorIndex
from searchtune.retrieval.reorder import blended, reordered
from searchtune.specs.card import FittedBlend
from searchtune.types import NO_DOC, Answer, FloatArray, IntArray, Run, Turn


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


class Judging(Protocol):
    """Grades passages."""

    def judge(self, queries: Sequence[str], passages: Sequence[str]) -> list[Graded]:
        """What is said of each pair; both lists are parallel."""


class Graded(NamedTuple):
    """One pair as a judge reads it."""

    grade: int | None
    """None where nothing could be read."""
    probabilities: tuple[float, ...] | None
    """Over the grades, lowest first."""
    reason: str | None = None
    """Why there is no grade."""


@dataclass(frozen=True)
class Quoting:
    """Answers without a model: the beginning of the best passage, cited."""

    words: int = 60

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        return [self._quoted(own) for own in passages]

    def _quoted(self, passages: Sequence[str]) -> Answer:
        if not passages:
            return Answer("", (), abstained=True)
        words = passages[0].split()
        cut = " ..." if len(words) > self.words else ""
        return Answer(f"{' '.join(words[: self.words])}{cut} [1]", (1,))


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
        places = self.places(run)
        rows, _ = np.nonzero(places)
        return self.ordered(run, self.scores(queries, run.queries[rows], run.docs[places]))

    def places(self, run: Run) -> npt.NDArray[np.bool_]:
        """Which places of a run are scored. Shape: (texts, run depth)."""
        found: npt.NDArray[np.bool_] = (run.docs != NO_DOC) & (np.arange(run.depth) < self.depth)
        return found

    def scores(self, queries: Sequence[str], rows: IntArray, docs: IntArray) -> FloatArray:
        """The model's score of each pair of a text, by its row in `queries`, and a document. Shape: (pairs,) all."""
        asked = bare_texts(self.model.tokenizer, queries, self._form)
        return self.model.score_store(PairStore(asked, self._texts, self._form), rows, docs)

    def ordered(self, run: Run, scores: FloatArray) -> Run:
        """The run in the order of these scores, one for each of `places`, row by row."""
        grid = np.full(run.docs.shape, np.nan, dtype=np.float32)
        grid[self.places(run)] = scores
        if self.blend is None:
            return reordered(run, grid, self.depth)
        weight, normalisation = self.blend.weight, self.blend.normalisation
        return blended(run, grid, self.depth, weight=weight, normalisation=normalisation)
