"""How many texts were longer than what a model reads: counted where they are read, told by whoever asked."""

from __future__ import annotations

from dataclasses import dataclass

LEAST_DOCUMENT = 0.25
"""Share of the room for query and document that a document has, if it is so long, however long the query is."""


@dataclass
class CutCount:
    """Texts read by a model so far, and how many of them lost their end."""

    texts: int = 0
    cut: int = 0
    queries: int = 0
    """Of pairs of query and document: how many of them lost the end of the query."""

    def add(self, texts: int, cut: int, queries: int = 0) -> None:
        """Count some more."""
        self.texts += texts
        self.cut += cut
        self.queries += queries

    def words(self, what: str, limit: int, remedy: str) -> str:
        """What was lost and what to set, in a sentence; empty where nothing was cut.

        >>> CutCount(texts=200, cut=3).words("documents", 128, "train with a larger max_tokens")
        '3 of 200 documents (1.5 %) are cut at 128 tokens: train with a larger max_tokens'
        """
        if not self.cut:
            return ""
        share = f"{100 * self.cut / self.texts:.2g}" if self.cut < self.texts else "100"
        queries = f", {self.queries:,} of them in the query too" if self.queries else ""
        return f"{self.cut:,} of {self.texts:,} {what} ({share} %) are cut at {limit:,} tokens{queries}: {remedy}"
