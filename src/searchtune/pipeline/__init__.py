"""A search as it runs for users: stages one after the other, in batches or as a stream, with what each stage takes.

Knows indexes and models, not tasks, training or evaluation.
"""

from searchtune.pipeline.search import Hit, Search, Timing
from searchtune.pipeline.stages import Dense, Fused, PairReranker, Reranking, Retrieval, Words

__all__ = ["Dense", "Fused", "Hit", "PairReranker", "Reranking", "Retrieval", "Search", "Timing", "Words"]
