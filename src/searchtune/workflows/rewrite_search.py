"""Searching for rewrites: a retriever by name, and a rewrite searched alone, behind the utterance, or fused with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from searchtune.data.candidates import searched_text
from searchtune.errors import ConfigError
from searchtune.metrics.ranking import score
from searchtune.pipeline.stages import Dense, Fused, Retrieval, Words
from searchtune.retrieval.bm25 import BM25Index, kept_bm25
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.choice import with_rows
from searchtune.retrieval.dense import DenseIndex, without_self
from searchtune.retrieval.fusion import fuse
from searchtune.specs.reward import Mode
from searchtune.types import Collection, FloatArray, FloatArray64, IntArray, Qrels, Run
from searchtune.workflows.encode import encode_texts, open_encoder
from searchtune.workflows.retriever_identity import BM25, dense_identity, fused_identity, words_identity
from searchtune.workflows.systems import kept_indexes


@dataclass(frozen=True, eq=False)
class OpenRetrieval:
    """A retriever over a collection's documents."""

    retrieval: Retrieval
    identity: Mapping[str, Any]
    """All that its rankings depend on beside documents and texts, as plain JSON."""


def open_retrieval(names: Sequence[str], collection: Collection, cache: EmbeddingCache | None = None) -> OpenRetrieval:
    """`bm25`, a bi-encoder or an embedding adapter over a collection; several are fused by reciprocal rank.

    With a cache, texts are encoded once, those of queries too.

    Raises:
        ConfigError: no name.
        SearchtuneError: a model that cannot be opened.
    """
    if not names:
        raise ConfigError("no retriever: name bm25, a model or an adapter")
    opened = [_words(collection, cache) if name == BM25 else _dense(name, collection, cache) for name in names]
    if len(opened) == 1:
        return opened[0]
    return OpenRetrieval(Fused([one.retrieval for one in opened]), fused_identity([one.identity for one in opened]))


@dataclass(frozen=True, eq=False)
class RewriteSearch:
    """Searches a collection for utterances and their rewrites, each distinct text of a call once."""

    collection: Collection
    opened: OpenRetrieval
    mode: Mode
    depth: int = 100

    def original(self, queries: IntArray | None, utterances: Sequence[str]) -> Run:
        """The ranking of each utterance. Row `i` is for the query at position `queries[i]` of the collection.

        Rows are numbered from 0, since a query may come more than once. Without `queries`, as for what somebody types,
        no document is left out for bearing the query's id. Shape: queries (n,) -> (n, at most depth).
        """
        return self._found(queries, utterances)

    def rewritten(
        self, queries: IntArray | None, utterances: Sequence[str], rewrites: Sequence[str], original: Run | None = None
    ) -> Run:
        """The ranking of each rewrite under the mode; `original` spares a fusion the search for the utterances.

        A rewrite that is empty or the utterance itself gives the utterance's own ranking. Shape: as `original`.
        """
        texts = [searched_text(old, new, self.mode) for old, new in zip(utterances, rewrites, strict=True)]
        if self.mode != "fuse":
            return self._found(queries, texts)
        original = self._found(queries, utterances) if original is None else original
        changed = np.array([old != new for old, new in zip(utterances, texts, strict=True)], dtype=np.bool_)
        if not changed.any():
            return original
        known = None if queries is None else queries[changed]
        found = self._found(known, [text for text, other in zip(texts, changed, strict=True) if other])
        first = Run(found.queries, original.docs[changed], original.scores[changed])
        return with_rows(original, changed, fuse([first, found], depth=self.depth))

    def scores(self, run: Run, qrels: Qrels, rows: IntArray, metric: str) -> FloatArray64:
        """The metric of each row of a run; `rows[i]` is the row of `qrels` whose labels row `i` has. Shape: (n,)."""
        counts = np.diff(qrels.offsets)[rows]
        offsets = np.concatenate(([0], np.cumsum(counts))).astype(np.int64)
        labels = np.repeat(qrels.offsets[rows] - offsets[:-1], counts) + np.arange(offsets[-1])  # (labels of all rows,)
        numbers = np.arange(len(rows))
        own = Qrels(numbers, offsets, qrels.docs[labels], qrels.grades[labels])
        found = Run(numbers, run.docs, run.scores)
        return score(found, own, [metric], min_grade=self.collection.min_grade)[metric]

    def _found(self, queries: IntArray | None, texts: Sequence[str]) -> Run:
        distinct = list(dict.fromkeys(texts))
        place = {text: i for i, text in enumerate(distinct)}
        run = self.opened.retrieval.retrieve(distinct, self.depth + self.collection.drop_self)
        rows = np.array([place[text] for text in texts], dtype=np.int64)
        found = Run(np.arange(len(texts)), run.docs[rows], run.scores[rows])
        if not self.collection.drop_self or queries is None:
            return Run(found.queries, found.docs[:, : self.depth], found.scores[:, : self.depth])
        ids = [self.collection.query_ids[int(query)] for query in queries]
        return without_self(found, ids, list(self.collection.doc_ids), self.depth)


def _words(collection: Collection, cache: EmbeddingCache | None) -> OpenRetrieval:
    keep = kept_indexes(cache)
    index = BM25Index(collection.documents) if keep is None else kept_bm25(collection.documents, keep)
    return OpenRetrieval(Words(index), words_identity())


def _dense(name: str, collection: Collection, cache: EmbeddingCache | None) -> OpenRetrieval:
    encoder = open_encoder(name)
    vectors, _ = encode_texts(encoder.documents, encoder.reads(collection).documents, cache)

    def encode(texts: Sequence[str]) -> FloatArray:
        return encode_texts(encoder.queries, texts, cache)[0]

    return OpenRetrieval(Dense(encode, DenseIndex(vectors)), dense_identity(encoder))
