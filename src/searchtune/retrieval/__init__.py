"""Turning queries into runs: FAISS over vectors, BM25 over words, and fusing both. Knows no model and no labels."""
