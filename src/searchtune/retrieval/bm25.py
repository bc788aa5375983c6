"""BM25 over the documents' words with bm25s: Lucene's variant, k1 1.5, b 0.75, English stop words, no stemming."""

from __future__ import annotations

from collections.abc import Sequence

import bm25s
import numpy as np

from searchtune.types import NO_DOC, IntArray, Run


class BM25Index:
    """A lexical index; documents without a query's words are not returned."""

    def __init__(self, documents: Sequence[str]) -> None:
        self.documents = len(documents)
        self._bm25 = bm25s.BM25()
        tokens = bm25s.tokenize(list(documents), stopwords="en", show_progress=False)
        self.empty = not tokens.vocab
        if not self.empty:
            self._bm25.index(tokens, show_progress=False)

    def search(self, queries: IntArray, texts: Sequence[str], depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out. Shape: queries (n,), texts (n,)."""
        depth = min(depth, self.documents - (0 if exclude is None else len(np.unique(exclude))))
        if self.empty or depth <= 0 or not len(queries):
            return Run.ranked(queries, np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
        weights = np.ones(self.documents, dtype=np.float32)
        weights[np.zeros(0, np.int64) if exclude is None else exclude] = 0
        tokens = bm25s.tokenize(list(texts), stopwords="en", show_progress=False)
        docs, scores = self._bm25.retrieve(tokens, k=depth, weight_mask=weights, show_progress=False)
        return Run.ranked(queries, np.where(scores > 0, docs, NO_DOC), scores)
