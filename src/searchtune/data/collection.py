"""Making `Collection`s in memory, and the fingerprint that tells one from another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

import numpy as np

from searchtune.errors import DataError
from searchtune.storage.fingerprint import Fingerprint
from searchtune.types import Collection, Qrels

Label = tuple[str, str, int]
"""Query id, document id, grade."""


def build_collection(
    name: str,
    documents: Mapping[str, tuple[str, str]],
    queries: Mapping[str, str],
    labels: Mapping[str, Iterable[Label]],
) -> Collection:
    """A collection from plain Python: documents as id -> (title, text), queries as id -> text, labels by split.

    >>> tiny = build_collection("tiny", {"d": ("", "a cat")}, {"q": "cat"}, {"test": [("q", "d", 1)]})
    >>> len(tiny.split("test"))
    1
    """
    doc_ids, query_ids = sorted(documents), sorted(queries)
    doc_index = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    query_index = {query_id: i for i, query_id in enumerate(query_ids)}
    titles = [documents[doc_id][0] for doc_id in doc_ids]
    texts = [documents[doc_id][1] for doc_id in doc_ids]
    query_texts = [queries[query_id] for query_id in query_ids]
    qrels = {split: _qrels(split, rows, query_index, doc_index) for split, rows in labels.items()}
    fingerprint = fingerprint_of(doc_ids, titles, texts, query_ids, query_texts, qrels)
    return Collection(name, doc_ids, titles, texts, query_ids, query_texts, qrels, fingerprint)


def with_qrels(collection: Collection, qrels: Mapping[str, Qrels]) -> Collection:
    """The same documents and queries under other labels, fingerprint included."""
    c = collection
    fingerprint = fingerprint_of(c.doc_ids, c.titles, c.texts, c.query_ids, c.query_texts, qrels)
    return replace(collection, qrels=dict(qrels), fingerprint=fingerprint)


def fingerprint_of(
    doc_ids: Sequence[str],
    titles: Sequence[str],
    texts: Sequence[str],
    query_ids: Sequence[str],
    query_texts: Sequence[str],
    qrels: Mapping[str, Qrels],
) -> str:
    """SHA-256 over ids, titles, texts and labels. Rows come sorted by id, so the order in the files does not matter."""
    total = Fingerprint()
    for column in (doc_ids, titles, texts, query_ids, query_texts):
        total.add_texts(column)
    for split in sorted(qrels):
        labels = qrels[split]
        total.add(split)
        for array in (labels.queries, labels.offsets, labels.docs, labels.grades):
            total.add_array(array)
    return total.hexdigest()


def _qrels(split: str, rows: Iterable[Label], queries: Mapping[str, int], docs: Mapping[str, int]) -> Qrels:
    triples: dict[tuple[int, int], int] = {}
    for query_id, doc_id, grade in rows:
        if query_id not in queries or doc_id not in docs:
            raise DataError(f"{split}: label ({query_id!r}, {doc_id!r}) names a query or document that is not there")
        pair = (queries[query_id], docs[doc_id])
        if triples.setdefault(pair, grade) != grade:
            raise DataError(f"{split}: label ({query_id!r}, {doc_id!r}) has both grade {triples[pair]} and {grade}")
    table = np.array([(query, doc, grade) for (query, doc), grade in triples.items()], dtype=np.int64).reshape(-1, 3)
    return Qrels.from_triples(table[:, 0], table[:, 1], table[:, 2])
