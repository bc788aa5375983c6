"""The first stage of a reranked search: the systems of a recipe, opened over a collection and run on its splits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from searchtune.errors import ConfigError
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.suite import Bm25System, DenseSystem, FusionSystem, System
from searchtune.types import Collection, IntArray, Run
from searchtune.workflows.costs import query_times
from searchtune.workflows.encode import CollectionVectors, encode_collection, open_system, together
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.systems import (
    FusedRanker,
    Ranker,
    Request,
    VectorRanker,
    WordRanker,
    kept_indexes,
    open_index,
    rank_all,
)


class FirstStage:
    """Systems that rank; the last of them is what a reranker reorders."""

    def __init__(
        self,
        systems: Mapping[str, System],
        collection: Collection,
        splits: Sequence[str],
        cache: EmbeddingCache | None = None,
        progress: Progress = SILENT,
    ) -> None:
        """Raises `ConfigError` for a system that cannot rank every split, and what opening a model raises."""
        self.collection = collection
        self.rankers: dict[str, Ranker] = {}
        for name, system in systems.items():
            progress.stage(f"{collection.name}: {name}")
            match system:
                case Bm25System():
                    self.rankers[name] = WordRanker(collection, kept_indexes(cache))
                case DenseSystem():
                    self.rankers[name], _ = open_dense(system, collection, splits, cache, progress)
                case FusionSystem() if system.weights != "dev":
                    options = {"method": system.method, "normalisation": system.normalisation}
                    self.rankers[name] = FusedRanker(system.of, {**options, "weights": system.weights})
                case _:
                    raise ConfigError(f"first stage {name}: a system of kind {system.kind!r} cannot rank every split")
        self.last = list(systems)[-1]

    def runs(self, queries: IntArray, depth: int, exclude: IntArray | None = None) -> dict[str, Run]:
        """Every system's run; documents in `exclude` are left out."""
        return rank_all(self.rankers, self.collection, Request(queries, depth, exclude))


def open_dense(
    system: DenseSystem,
    collection: Collection,
    splits: Sequence[str],
    cache: EmbeddingCache | None,
    progress: Progress = SILENT,
) -> tuple[VectorRanker, CollectionVectors]:
    """A bi-encoder over a collection, ready for the queries of some splits, and its vectors."""
    encoder = open_system(system)
    vectors = encode_collection(collection, encoder, cache, splits=splits, progress=progress)
    known, rows = together(collection, vectors, splits)
    index = open_index(system.index, vectors.documents)
    texts = [collection.query_texts[int(query)] for query in known]
    query_ms = query_times(encoder, texts, vectors.encoded)
    return VectorRanker(index, known, rows, vectors.document_seconds, query_ms), vectors
