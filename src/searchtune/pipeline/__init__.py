"""A search as it runs for users: stages one after the other, in batches or as a stream, with what each stage takes.

Knows indexes and models, not tasks, training or evaluation.
"""

from searchtune.pipeline.search import Hit, Search, Timing
from searchtune.pipeline.stages import Answering, Dense, Fused, PairReranker, Reranking, Retrieval, Rewriting, Words

__all__ = [
    "Answering",
    "Dense",
    "Fused",
    "Hit",
    "PairReranker",
    "Reranking",
    "Retrieval",
    "Rewriting",
    "Search",
    "Timing",
    "Words",
]
