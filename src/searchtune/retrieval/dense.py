"""The index behind the workflows, and the rule for documents that are their own query."""

from __future__ import annotations

import numpy as np

from searchtune.retrieval.faiss_index import FaissIndex, Flat
from searchtune.types import NO_DOC, FloatArray, Run


class DenseIndex(FaissIndex):
    """FAISS's `IndexFlatIP` over all documents, on all GPUs there are."""

    def __init__(self, vectors: FloatArray) -> None:
        """Shape: vectors (documents, dim)."""
        super().__init__(vectors, Flat())


def without_self(run: Run, query_ids: list[str], doc_ids: list[str], depth: int) -> Run:
    """The run with each document that bears its query's id taken out, cut to `depth` (BEIR's rule for such sets)."""
    places = {doc_id: i for i, doc_id in enumerate(doc_ids)}
    own = np.array([places.get(query_ids[query], NO_DOC) for query in run.queries])
    docs = np.where(run.docs == own[:, None], NO_DOC, run.docs)
    ranked = Run.ranked(run.queries, docs, run.scores)
    return Run(ranked.queries, ranked.docs[:, :depth], ranked.scores[:, :depth])
