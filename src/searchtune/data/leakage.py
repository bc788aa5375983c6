"""What training may have seen of the test: near-duplicate queries, and relevant documents that both sides share.

The first is a leak and fails a run. The second is natural in most collections, so it is measured, never hidden.
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
class LeakReport:
    """Every leaking pair between two splits, the most similar first."""

    leaks: tuple[Leak, ...]
    threshold: float
    query_ids: Sequence[str]
    query_texts: Sequence[str]

    @property
    def train_queries(self) -> IntArray:
        """The train queries that leak, ascending."""
        return np.unique(np.array([leak.train for leak in self.leaks], dtype=np.int64))

    @property
    def test_queries(self) -> IntArray:
        """The test queries that leak, ascending."""
        return np.unique(np.array([leak.test for leak in self.leaks], dtype=np.int64))

    def without_leaks(self, train: Qrels) -> Qrels:
        """The train labels without the queries that leak."""
        return train.select(~np.isin(train.queries, self.train_queries))

    def describe(self, leak: Leak) -> str:
        """One leak in words, with the ids and both texts."""
        pair = f"train {self.query_ids[leak.train]!r} {self.query_texts[leak.train]!r}"
        if leak.kind == "same id":
            return f"{leak.kind}: {pair} is in both"
        other = f"test {self.query_ids[leak.test]!r} {self.query_texts[leak.test]!r}"
        return f"{leak.kind} ({leak.similarity:.2f}): {pair} / {other}"

    def raise_if_any(self) -> None:
        """Raise a `LeakError` that shows the first pairs; all of them are in its `.problems`."""
        if not self.leaks:
            return
        lines = tuple(self.describe(leak) for leak in self.leaks)
        more = [f"... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
        head = f"{len(self.test_queries):,} test queries are also in train (similarity >= {self.threshold:g})"
        remedy = "take these queries out of the train labels, or allow the leak explicitly"
        raise LeakError("\n".join([head, *lines[:_SHOWN], *more, remedy]), lines)


def find_leaks(collection: Collection, train: Qrels, test: Qrels, *, threshold: float = NEAR_THRESHOLD) -> LeakReport:
    """Train and test queries with the same id, the same normalised text, or a similarity of at least `threshold`."""
    texts = collection.query_texts
    pairs = near_pairs([texts[int(i)] for i in train.queries], [texts[int(i)] for i in test.queries], threshold)
    leaks = {(i, i): Leak(i, i, "same id", 1.0) for i in np.intersect1d(train.queries, test.queries).tolist()}
    for left, right, similarity in pairs:
        query, other = int(train.queries[left]), int(test.queries[right])
        same = normalise(texts[query]) == normalise(texts[other])
        leaks.setdefault((query, other), Leak(query, other, "same text" if same else "near-duplicate", similarity))
    order = sorted(leaks.values(), key=lambda leak: (-leak.similarity, leak.test, leak.train))
    return LeakReport(tuple(order), threshold, collection.query_ids, texts)


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
