"""What training may have seen of the test: near-duplicate queries and answers, and documents that both sides share.

A train query that is nearly a test query is a leak and fails a run. So does a train positive that is nearly a document
relevant to the test under another id: no count of shared ids would show it. Relevant documents that both sides share by
id are natural in most collections, so they are counted, never hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from searchtune.data.near import NEAR_THRESHOLD, near_pairs, normalise
from searchtune.errors import LeakError
from searchtune.types import Collection, IntArray, Qrels

BoolArray = npt.NDArray[np.bool_]

_SHOWN = 5
_SHOWN_TEXT = 120


@dataclass(frozen=True)
class Leak:
    """One train query that is also, or nearly, a test query."""

    train: int
    """Position in the collection's queries, as is `test`."""
    test: int
    kind: Literal["same id", "same text", "near-duplicate"]
    similarity: float
    """Jaccard similarity of the words and word pairs; see `searchtune.data.near`."""


@dataclass(frozen=True)
class DocumentLeak:
    """One positive of train that is, or nearly is, another document that is relevant to the test."""

    train: int
    """Position in the collection's documents, as is `test`."""
    test: int
    similarity: float


@dataclass(frozen=True)
class SharedDocuments:
    """Relevant documents that train and test have in common by id: no leak, but memory can look like learning there."""

    queries: int
    """Test queries with a relevant document that is a positive of train."""
    judged: int
    documents: int
    """Documents that are relevant on both sides."""

    def describe(self) -> str:
        """`196 of 300 test queries share a relevant document with train (221 documents)`."""
        return (
            f"{self.queries:,} of {self.judged:,} test queries share a relevant document with train "
            f"({self.documents:,} {'document' if self.documents == 1 else 'documents'})"
        )


@dataclass(frozen=True)
class LeakReport:
    """Every leaking pair between two splits, the most similar first."""

    leaks: tuple[Leak, ...]
    """Pairs of queries."""
    documents: tuple[DocumentLeak, ...]
    """Pairs of relevant documents with different ids, where the test's one is no positive of train itself."""
    threshold: float
    collection: Collection
    splits: tuple[str, str] = ("train", "test")
    """What messages call the two."""

    @property
    def train_queries(self) -> IntArray:
        """The train queries that leak, ascending."""
        return np.unique(np.array([leak.train for leak in self.leaks], dtype=np.int64))

    @property
    def test_queries(self) -> IntArray:
        """The test queries that leak, ascending."""
        return np.unique(np.array([leak.test for leak in self.leaks], dtype=np.int64))

    def without_leaks(self, train: Qrels) -> Qrels:
        """The train labels without the queries and without the documents that leak."""
        left = train.select(~np.isin(train.queries, self.train_queries))
        keep = ~np.isin(left.docs, [leak.train for leak in self.documents])
        return Qrels.from_triples(left.label_queries[keep], left.docs[keep], left.grades[keep])

    def describe(self, leak: Leak) -> str:
        """One leak in words, with the ids and both texts."""
        ids, texts = self.collection.query_ids, self.collection.query_texts
        pair = f"{self.splits[0]} {ids[leak.train]!r} {texts[leak.train]!r}"
        if leak.kind == "same id":
            return f"{leak.kind}: {pair} is in both"
        other = f"{self.splits[1]} {ids[leak.test]!r} {texts[leak.test]!r}"
        return f"{leak.kind} ({leak.similarity:.2f}): {pair} / {other}"

    def describe_document(self, leak: DocumentLeak) -> str:
        """One pair of relevant documents in words, with the ids and the beginning of the test's one."""
        ids = self.collection.doc_ids
        text = " ".join(self.collection.documents[leak.test].split())
        shown = text if len(text) <= _SHOWN_TEXT else text[:_SHOWN_TEXT] + "…"
        first, second = self.splits
        return (
            f"same answer ({leak.similarity:.2f}): {first} {ids[leak.train]!r} / {second} {ids[leak.test]!r} {shown!r}"
        )

    def parts(self) -> tuple[list[str], tuple[str, ...]]:
        """What leaks in a few lines, and every pair in words; nothing where nothing does."""
        first, second = self.splits
        queries = tuple(self.describe(leak) for leak in self.leaks)
        documents = tuple(self.describe_document(leak) for leak in self.documents)
        parts: list[str] = []
        if queries:
            head = f"{len(self.test_queries):,} {second} queries are also in {first} (similarity >= {self.threshold:g})"
            parts += [head, *_first_lines(queries)]
        if documents:
            copies = len({leak.test for leak in self.documents})
            head = f"{copies:,} relevant {second} documents are, under another id, positives of {first}"
            parts += [f"{head} (similarity >= {self.threshold:g})", *_first_lines(documents)]
        return parts, queries + documents

    def raise_if_any(self) -> None:
        """Raise a `LeakError` that shows the first pairs; all of them are in its `.problems`."""
        raise_leaks([self])


def raise_leaks(reports: Sequence[LeakReport]) -> None:
    """Raise one `LeakError` of all reports where any has a leak: the first pairs of each are shown."""
    shown: list[str] = []
    pairs: list[str] = []
    for report in reports:
        lines, found = report.parts()
        shown += lines
        pairs += found
    if pairs:
        remedy = (
            "pass --leaks drop to leave them out of training, or --leaks allow to keep them (leaks= in Python); "
            "`searchtune data check FOLDER --json` lists every pair"
        )
        raise LeakError("\n".join([*shown, remedy]), tuple(pairs))


def few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - _SHOWN:,} more" if len(names) > _SHOWN else ""
    return ", ".join(map(repr, names[:_SHOWN])) + more


def find_leaks(
    collection: Collection,
    train: Qrels,
    test: Qrels,
    *,
    threshold: float = NEAR_THRESHOLD,
    splits: tuple[str, str] = ("train", "test"),
) -> LeakReport:
    """Train and test queries with the same id, the same normalised text, or a similarity of at least `threshold`.

    Also the relevant documents of the two that are so similar under different ids; see `LeakReport.documents`.
    `splits` is what messages call the two.
    """
    texts = collection.query_texts
    pairs = near_pairs([texts[int(i)] for i in train.queries], [texts[int(i)] for i in test.queries], threshold)
    leaks = {(i, i): Leak(i, i, "same id", 1.0) for i in np.intersect1d(train.queries, test.queries).tolist()}
    for left, right, similarity in pairs:
        query, other = int(train.queries[left]), int(test.queries[right])
        same = normalise(texts[query]) == normalise(texts[other])
        leaks.setdefault((query, other), Leak(query, other, "same text" if same else "near-duplicate", similarity))
    order = sorted(leaks.values(), key=lambda leak: (-leak.similarity, leak.test, leak.train))
    return LeakReport(tuple(order), _document_leaks(collection, train, test, threshold), threshold, collection, splits)


def shared_documents(collection: Collection, train: Qrels, test: Qrels) -> SharedDocuments:
    """How many test queries, and how many documents, both sides share by id."""
    ours = positives(train, collection.min_grade)
    queries = int(seen_mask(ours, test, collection.min_grade).sum())
    documents = len(np.intersect1d(ours, positives(test, collection.min_grade)))
    return SharedDocuments(queries, len(test), documents)


def seen_mask(train_positives: IntArray, test: Qrels, min_grade: int = 1) -> BoolArray:
    """Which test queries have a relevant document that training saw as a positive. Shape: (judged,)."""
    rows = np.repeat(np.arange(len(test)), np.diff(test.offsets))
    hit = (test.grades >= min_grade) & np.isin(test.docs, train_positives)
    return np.bincount(rows[hit], minlength=len(test)) > 0


def positives(labels: Qrels, min_grade: int = 1) -> IntArray:
    """The documents that are relevant to any query of a split, ascending."""
    return np.unique(labels.docs[labels.grades >= min_grade])


def residual(test: Qrels, seen_docs: IntArray, min_grade: int = 1) -> Qrels:
    """The labels without those of documents that training saw; queries left without a relevant document drop out.

    The same documents must be taken out of the rankings that are scored with it.
    """
    keep = ~np.isin(test.docs, seen_docs)
    left = Qrels.from_triples(test.label_queries[keep], test.docs[keep], test.grades[keep])
    return left.select(np.isin(left.queries, left.relevant(min_grade).queries))


def _document_leaks(collection: Collection, train: Qrels, test: Qrels, threshold: float) -> tuple[DocumentLeak, ...]:
    """Near-equal relevant documents across the splits, where the test's one is not a positive of train as well."""
    ours = positives(train, collection.min_grade)
    theirs = np.setdiff1d(positives(test, collection.min_grade), ours)
    texts = collection.documents
    pairs = near_pairs([texts[int(i)] for i in ours], [texts[int(i)] for i in theirs], threshold)
    found = [DocumentLeak(int(ours[left]), int(theirs[right]), similarity) for left, right, similarity in pairs]
    return tuple(sorted(found, key=lambda leak: (-leak.similarity, leak.test, leak.train)))


def _first_lines(lines: Sequence[str]) -> list[str]:
    more = [f"... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
    return [*lines[:_SHOWN], *more]
