"""Opening a search over a task's collection: words, a bi-encoder or both, and a reranker behind them."""

from __future__ import annotations

from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError
from searchtune.pipeline import Dense, Fused, PairReranker, Retrieval, Search, Words
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import DenseIndex
from searchtune.workflows.encode import encode_texts, open_encoder
from searchtune.workflows.open_reranker import open_reranker


def open_search(
    task: str,
    *,
    model: str | None = None,
    words: bool = False,
    reranker: str | None = None,
    depth: int | None = None,
    cache: EmbeddingCache | None = None,
) -> Search:
    """A search over the documents of a task, a task file or a BEIR folder.

    `model` is a bi-encoder or an embedding adapter, `words` adds BM25 (alone, or fused with the model by reciprocal
    rank), `reranker` a reranker's adapter or a cross-encoder that reorders the first `depth` documents; None takes the
    depth that the adapter was trained for, or 50.

    Raises:
        ConfigError: neither a model nor words.
        SearchtuneError: what cannot be opened.
    """
    if model is None and not words:
        raise ConfigError("a search needs a retriever: name a model, or set words")
    collection = open_collection(load_task(task))
    parts: list[Retrieval] = [Words(BM25Index(collection.documents))] if words else []
    if model is not None:
        encoder = open_encoder(model)
        vectors, _ = encode_texts(encoder.documents, encoder.reads(collection).documents, cache)
        parts.append(Dense(encoder.queries.encode, DenseIndex(vectors)))
    retriever = parts[0] if len(parts) == 1 else Fused(parts)
    if reranker is None:
        return Search(collection.doc_ids, retriever)
    opened = open_reranker(reranker)
    card = opened.card
    settled = depth or (card.depth if card is not None else 50)
    blend = None if card is None else card.blend
    stage = PairReranker(opened.load(), opened.reads(collection).documents, settled, blend)
    return Search(collection.doc_ids, retriever, stage, max(settled, 100))
