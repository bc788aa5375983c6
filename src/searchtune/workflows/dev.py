"""Watching training on the dev split: exact search over a small pool of documents, the same at every look."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from searchtune.metrics.ranking import score
from searchtune.models.encoder import Encoder
from searchtune.retrieval.dense import DenseIndex
from searchtune.specs.recipe import EmbedRecipe
from searchtune.types import Collection, FloatArray, IntArray, Qrels, Run
from searchtune.workflows.bank import Bank
from searchtune.workflows.training_set import at_most

_HARD = 10
"""How many of the base model's best documents each dev query brings into the pool."""


@dataclass(frozen=True)
class DevPool:
    """Dev queries, and the documents they are ranked over: all judged ones and the base model's best.

    Figures over a pool are higher than over the whole collection; they serve to compare steps of one run.
    """

    qrels: Qrels
    documents: IntArray
    """Positions in the collection, ascending. Shape: (pool,)."""
    base_vectors: FloatArray
    """Shape: (pool, dim)."""
    base_queries: FloatArray
    """Shape: (dev queries, dim)."""
    metrics: tuple[str, ...]
    min_grade: int
    fixed_documents: bool
    """Whether documents keep the base's vectors (query-only adaptation)."""

    def figures(self, encoder: Encoder, bank: Bank) -> dict[str, float]:
        """Mean of each metric under the encoder as it now is."""
        vectors = self.base_vectors if self.fixed_documents else bank.encode_some(encoder, self.documents)
        return self._figures(vectors, bank.encode_queries(encoder, self.qrels.queries))

    def base_figures(self) -> dict[str, float]:
        """The same under the base, from vectors that are there."""
        return self._figures(self.base_vectors, self.base_queries)

    def _figures(self, vectors: FloatArray, queries: FloatArray) -> dict[str, float]:
        run = DenseIndex(vectors).search(self.qrels.queries, queries, 100)
        whole = Run.ranked(run.queries, self.documents[run.docs], run.scores)
        values = score(whole, self.qrels, self.metrics, min_grade=self.min_grade)
        return {metric: float(each.mean()) for metric, each in values.items()}


def build_dev_pool(
    collection: Collection, recipe: EmbedRecipe, bank: Bank, encoder: Encoder, base_documents: FloatArray
) -> DevPool | None:
    """The dev pool of a collection; None where it has no dev split, or the recipe wants no evaluation."""
    if "dev" not in collection.qrels or not recipe.dev.times or not len(collection.qrels["dev"]):
        return None
    qrels = some_queries(collection, recipe.dev.max_queries)
    queries = bank.encode_queries(encoder, qrels.queries)
    run = DenseIndex(base_documents).search(qrels.queries, queries, _HARD)
    documents = np.unique(np.concatenate([qrels.docs, run.docs.ravel()]))
    return DevPool(
        qrels=qrels,
        documents=documents,
        base_vectors=base_documents[documents],
        base_queries=queries,
        metrics=tuple(dict.fromkeys((recipe.dev.metric, "recall@100"))),
        min_grade=collection.min_grade,
        fixed_documents=recipe.side == "query",
    )


def some_queries(collection: Collection, most: int) -> Qrels:
    """The dev labels of at most `most` queries, chosen by the hash of their id."""
    return at_most(collection, collection.qrels["dev"], most)
