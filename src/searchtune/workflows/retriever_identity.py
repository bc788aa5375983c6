"""What the rankings of a retriever depend on beside documents and texts, as plain JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from typing import Any

from searchtune.words import WORDS_VERSION
from searchtune.workflows.encode import BiEncoder

BM25 = "bm25"


def words_identity() -> dict[str, Any]:
    """The identity of BM25."""
    return {"what": BM25, "bm25s": version("bm25s"), "words": WORDS_VERSION}


def dense_identity(encoder: BiEncoder) -> dict[str, Any]:
    """The identity of a search by a bi-encoder's vectors."""
    queries, documents = encoder.queries.space, encoder.documents.space
    return {"what": "dense", "queries": queries, "documents": documents}


def fused_identity(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The identity of several retrievers fused by reciprocal rank."""
    return {"what": "rrf", "of": [dict(part) for part in parts]}
