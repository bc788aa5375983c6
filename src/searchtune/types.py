"""The nouns that every room shares: `Collection`, `Qrels`, `Run` and `RankExample` (array-native), `Judgment`, `Turn`
and `Answer`.

Documents and queries are known by integer position. A `Collection` keeps its documents and its queries in
the byte order of their ids, so that comparing two positions is the same as comparing two id strings: the
tie rule of trec_eval (equal scores: the greater id first) is then "the greater position first".

This module does not know files, models or metrics.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float32]
FloatArray64 = npt.NDArray[np.float64]

NO_DOC = -1
"""Fills the places of a `Run` row that has fewer documents than the run is deep."""


@dataclass(frozen=True, eq=False)
class Qrels:
    """Relevance labels of one split, as compressed sparse rows.

    Row `i` holds the labels of query `queries[i]`: documents `docs[offsets[i]:offsets[i + 1]]` with `grades` alike.

    Shape: queries (judged,) ascending; offsets (judged + 1,); docs and grades (labels,), docs ascending in a row.
    """

    queries: IntArray
    offsets: IntArray
    docs: IntArray
    grades: IntArray

    @classmethod
    def from_triples(cls, queries: IntArray, docs: IntArray, grades: IntArray) -> Qrels:
        """Build from parallel arrays of (query, document, grade) in any order; pairs must be unique."""
        order = np.lexsort((docs, queries))
        q = np.asarray(queries, dtype=np.int64)[order]
        judged, counts = np.unique(q, return_counts=True)
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        return cls(judged, offsets, np.asarray(docs, np.int64)[order], np.asarray(grades, np.int64)[order])

    @classmethod
    def joined(cls, parts: Sequence[Qrels]) -> Qrels:
        """The labels of several sets of queries together; no pair may be in two of them."""
        return cls.from_triples(
            np.concatenate([part.label_queries for part in parts]),
            np.concatenate([part.docs for part in parts]),
            np.concatenate([part.grades for part in parts]),
        )

    def __len__(self) -> int:
        return len(self.queries)

    def row(self, i: int) -> tuple[IntArray, IntArray]:
        """Documents and grades of the `i`-th judged query."""
        part = slice(int(self.offsets[i]), int(self.offsets[i + 1]))
        return self.docs[part], self.grades[part]

    @property
    def label_queries(self) -> IntArray:
        """The query of every label. Shape: (labels,)."""
        return np.repeat(self.queries, np.diff(self.offsets))

    def relevant(self, min_grade: int = 1) -> Qrels:
        """Only the labels of at least `min_grade`; queries left without any label drop out."""
        keep = self.grades >= min_grade
        return Qrels.from_triples(self.label_queries[keep], self.docs[keep], self.grades[keep])

    def select(self, keep: npt.NDArray[np.bool_]) -> Qrels:
        """Only the judged queries where `keep` is true. Shape: keep (judged,)."""
        labels = np.repeat(keep, np.diff(self.offsets))
        return Qrels.from_triples(self.label_queries[labels], self.docs[labels], self.grades[labels])


@dataclass(frozen=True, eq=False)
class Run:
    """Ranked documents for every judged query, best first, ties by the greater document id first (trec_eval).

    Shape: queries (judged,) ascending; docs (judged, depth), `NO_DOC` where a row ends early;
    scores (judged, depth) float32, minus infinity there.
    """

    queries: IntArray
    docs: IntArray
    scores: FloatArray

    @classmethod
    def ranked(cls, queries: IntArray, docs: IntArray, scores: FloatArray) -> Run:
        """Sort each row by (-score, -document) and return the run; rows may arrive in any order of documents."""
        scores = np.where(docs == NO_DOC, -np.inf, scores).astype(np.float32)
        order = np.lexsort((-docs, -scores), axis=1)
        return cls(
            np.asarray(queries, np.int64),
            np.take_along_axis(np.asarray(docs, np.int64), order, axis=1),
            np.take_along_axis(scores, order, axis=1),
        )

    @property
    def depth(self) -> int:
        return int(self.docs.shape[1])

    def select(self, keep: npt.NDArray[np.bool_]) -> Run:
        """Only the rows where `keep` is true."""
        return Run(self.queries[keep], self.docs[keep], self.scores[keep])

    def top(self, depth: int) -> Run:
        """The first `depth` places of every row."""
        return Run(self.queries, self.docs[:, :depth], self.scores[:, :depth])

    def over(self, queries: IntArray) -> Run:
        """The rankings of these queries, empty for those that the run lacks. Shape: queries (any,) ascending."""
        if np.array_equal(self.queries, queries):
            return self
        place = np.searchsorted(self.queries, queries)
        found = np.isin(queries, self.queries)
        docs = np.full((len(queries), self.depth), NO_DOC, dtype=np.int64)
        scores = np.full(docs.shape, -np.inf, dtype=np.float32)
        docs[found], scores[found] = self.docs[place[found]], self.scores[place[found]]
        return Run(np.asarray(queries, np.int64), docs, scores)


@dataclass(frozen=True)
class Collection:
    """A test collection: documents, queries and graded labels by split.

    `doc_ids` and `query_ids` ascend in byte order (see the module's docstring). `titles`, `texts` and `doc_ids` are
    parallel, as are `query_ids` and `query_texts`. `fingerprint` is a sha256 over ids, texts and labels.
    """

    name: str
    doc_ids: Sequence[str]
    titles: Sequence[str]
    texts: Sequence[str]
    query_ids: Sequence[str]
    query_texts: Sequence[str]
    qrels: Mapping[str, Qrels]
    fingerprint: str
    doc_template: str = "{title} {text}"
    min_grade: int = 1
    drop_self: bool = False
    """Whether a document whose id equals the query's id is left out of rankings (BEIR's rule, as for ArguAna)."""
    query_tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The user's own kinds of queries, by query id; reports break figures down by them."""

    @cached_property
    def documents(self) -> list[str]:
        """Every document as the text a model reads (see `document_text`)."""
        pairs = zip(self.titles, self.texts, strict=True)
        return [document_text(self.doc_template, title, text) for title, text in pairs]

    def read_as(self, doc_template: str | None) -> Collection:
        """The same collection with documents under another template; None keeps its own."""
        same = doc_template is None or doc_template == self.doc_template
        return self if same else replace(self, doc_template=str(doc_template))

    @cached_property
    def doc_index(self) -> dict[str, int]:
        return {doc_id: i for i, doc_id in enumerate(self.doc_ids)}

    @cached_property
    def query_index(self) -> dict[str, int]:
        return {query_id: i for i, query_id in enumerate(self.query_ids)}

    def split(self, name: str) -> Qrels:
        """Labels of one split; a `KeyError` names the splits there are."""
        if name not in self.qrels:
            have = ", ".join(sorted(self.qrels)) or "none"
            raise KeyError(f"{self.name} has no split {name!r} (it has: {have})")
        return self.qrels[name]


def document_text(template: str, title: str, text: str) -> str:
    """The text that a model reads of a document: the template filled with title and text, trimmed."""
    return template.format(title=title, text=text).strip()


@dataclass(frozen=True)
class RankExample:
    """One training query with its documents, all as positions into a `Collection`."""

    query: int
    positives: tuple[int, ...]
    negatives: tuple[int, ...] = ()
    teacher_scores: tuple[float, ...] | None = None
    """One score for each positive, then each negative, where a teacher gave them."""


@dataclass(frozen=True)
class Judgment:
    """What a judge, human or model, said about one pair; `grade` is None where it said nothing that could be read."""

    query_id: str
    doc_id: str
    grade: int | None
    probabilities: tuple[float, ...] | None = None
    """The judge's distribution over the grades of its rubric, lowest first; None where it gave only a grade."""
    reason: str | None = None
    """Why there is no grade."""

    @property
    def expected(self) -> float | None:
        """The mean of the distribution over grades 0, 1, ...; the grade itself where there is no distribution."""
        if self.probabilities is None:
            return None if self.grade is None else float(self.grade)
        return sum(grade * share for grade, share in enumerate(self.probabilities))


@dataclass(frozen=True)
class Turn:
    """What somebody asks, with what was said before it."""

    utterance: str
    history: tuple[tuple[Literal["user", "assistant", "title"], str], ...] = ()
    """Who said what, the oldest first; a title names what a conversation is about. Empty for a single question."""


@dataclass(frozen=True)
class Answer:
    """What was answered from passages."""

    text: str
    """As it was written, citations such as `[2]` included."""
    citations: tuple[int, ...] = ()
    """The passages it cites by their number, counted from 1, each once and in the order of their first mention."""
    abstained: bool = False
    """Whether it says that the passages do not answer the question."""
