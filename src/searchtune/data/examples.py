"""Training pairs drawn from qrels, and which documents must not be called negatives for a query."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from searchtune.types import IntArray, Qrels


def text_groups(texts: Sequence[str]) -> IntArray:
    """A number for each text, equal where texts are equal up to case and white space. Shape: (texts,)."""
    seen: dict[str, int] = {}
    return np.array([seen.setdefault(" ".join(text.lower().split()), len(seen)) for text in texts], dtype=np.int64)


class KnownRelevance:
    """Which query-document pairs are known to be relevant, equal texts counting as one.

    A candidate that is relevant to the query by the labels, or whose text equals such a document's, is no negative; nor
    is a relevant document of another query with the same text.
    """

    def __init__(self, query_groups: IntArray, doc_groups: IntArray, relevant: Qrels) -> None:
        self.query_groups = query_groups
        self.doc_groups = doc_groups
        self._stride = int(doc_groups.max(initial=0)) + 1
        self._keys = np.unique(self._key(query_groups[relevant.label_queries], doc_groups[relevant.docs]))

    def mask(self, queries: IntArray, docs: IntArray) -> npt.NDArray[np.bool_]:
        """True where the document is known to be relevant to the query. Shape: (queries, docs)."""
        keys = self._key(self.query_groups[queries][:, None], self.doc_groups[docs][None, :])
        if not len(self._keys):
            return np.zeros(keys.shape, dtype=np.bool_)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        found: npt.NDArray[np.bool_] = self._keys[places] == keys
        return found

    def _key(self, queries: IntArray, docs: IntArray) -> IntArray:
        return queries * self._stride + docs


def epoch_pairs(relevant: Qrels, positives_per_query: int, rng: np.random.Generator) -> tuple[IntArray, IntArray]:
    """Each query with up to `positives_per_query` of its positives, drawn and shuffled by `rng`.

    Shape: queries (pairs,), docs (pairs,).
    """
    order = rng.permutation(len(relevant.docs))
    queries, docs = relevant.label_queries[order], relevant.docs[order]
    by_query = np.argsort(queries, kind="stable")
    starts = np.searchsorted(queries[by_query], queries[by_query])
    rank = np.empty(len(queries), dtype=np.int64)
    rank[by_query] = np.arange(len(queries)) - starts
    keep = rank < positives_per_query
    return queries[keep], docs[keep]


def pairs_in_epoch(relevant: Qrels, positives_per_query: int) -> int:
    """How many pairs `epoch_pairs` draws."""
    return int(np.minimum(np.diff(relevant.offsets), positives_per_query).sum())
