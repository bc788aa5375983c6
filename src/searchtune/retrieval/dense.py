"""Exact inner-product search over document vectors with FAISS, on a GPU where the installed FAISS has one."""

from __future__ import annotations

from typing import Any

import numpy as np

from searchtune.errors import MissingExtraError
from searchtune.types import NO_DOC, FloatArray, IntArray, Run


class DenseIndex:
    """`IndexFlatIP` over all documents: position in the index = position in the collection."""

    def __init__(self, vectors: FloatArray) -> None:
        """Shape: vectors (documents, dim)."""
        faiss = import_faiss()
        self.documents = len(vectors)
        index = faiss.IndexFlatIP(vectors.shape[1])
        gpus = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
        self.device = f"{gpus} GPU" if gpus else "CPU"
        self.index = faiss.index_cpu_to_all_gpus(index) if gpus else index
        self.index.add(np.ascontiguousarray(vectors, dtype=np.float32))
        self._gpus = gpus

    def search(self, queries: IntArray, vectors: FloatArray, depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out of the collection.

        Shape: queries (n,), vectors (n, dim).
        """
        faiss = import_faiss()
        gone = np.zeros(0, dtype=np.int64) if exclude is None else np.unique(exclude)
        depth = min(depth, self.documents - len(gone))
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        if depth <= 0 or not len(queries):
            return Run.ranked(queries, np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
        if not len(gone):
            scores, docs = self.index.search(vectors, depth)
        elif self._gpus:
            return _without(Run.ranked(queries, *self._deeper(vectors, depth + len(gone))), gone, depth)
        else:
            keep = faiss.IDSelectorNot(faiss.IDSelectorBatch(gone))
            scores, docs = self.index.search(vectors, depth, params=faiss.SearchParameters(sel=keep))
        return Run.ranked(queries, docs, scores)

    def _deeper(self, vectors: FloatArray, depth: int) -> tuple[IntArray, FloatArray]:
        scores, docs = self.index.search(vectors, min(depth, self.documents))
        return docs, scores


def _without(run: Run, gone: IntArray, depth: int) -> Run:
    hidden = np.isin(run.docs, gone)
    deeper = Run.ranked(run.queries, np.where(hidden, NO_DOC, run.docs), run.scores)
    return Run(deeper.queries, deeper.docs[:, :depth], deeper.scores[:, :depth])


def without_self(run: Run, query_ids: list[str], doc_ids: list[str], depth: int) -> Run:
    """The run with each document that bears its query's id taken out, cut to `depth` (BEIR's rule for such sets)."""
    places = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    own = np.array([places.get(query_ids[query], NO_DOC) for query in run.queries])
    docs = np.where(run.docs == own[:, None], NO_DOC, run.docs)
    ranked = Run.ranked(run.queries, docs, run.scores)
    return Run(ranked.queries, ranked.docs[:, :depth], ranked.scores[:, :depth])


def import_faiss() -> Any:
    """The faiss module; a `MissingExtraError` says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("FAISS is not installed; pip install 'searchtune[cpu]' (or [gpu])") from error
    return faiss
