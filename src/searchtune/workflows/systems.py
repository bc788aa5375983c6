"""The systems of an evaluation as rankers: words, vectors, fused rankings, files. All give runs of one form.

A ranker may look at the runs of the systems before it, so that a fusion searches nothing again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from searchtune.data.named import run_in_collection
from searchtune.data.trec import read_trec_run
from searchtune.errors import ArtifactError, ConfigError, DataError, did_you_mean
from searchtune.retrieval.bm25 import BM25Index, kept_bm25
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import without_self
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.faiss_index import Factory, FaissIndex, Flat, Hnsw, Ivf, Kind, Pq, Sq, kind_text
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.index import VectorIndex
from searchtune.retrieval.store import load_index, save_index
from searchtune.specs.suite import IndexSpec
from searchtune.types import NO_DOC, Collection, FloatArray, IntArray, Run
from searchtune.workflows.progress import Progress

Runs = Mapping[str, Run]
_FAISS: dict[str, type[Kind]] = {"flat": Flat, "ivf": Ivf, "hnsw": Hnsw, "pq": Pq, "sq": Sq, "factory": Factory}


@dataclass(frozen=True)
class Request:
    """What is to be ranked."""

    queries: IntArray
    """Positions in the collection, ascending."""
    depth: int
    exclude: IntArray | None = None
    """Documents that are taken out of the collection."""


class Ranker(Protocol):
    """Anything that ranks documents for queries."""

    @property
    def cost(self) -> Mapping[str, Any]:
        """What it took to get ready: `index_seconds`, `index_mb`, ..."""

    def rank(self, request: Request, earlier: Runs) -> Run:
        """A run with a row for each of the request's queries, empty where nothing is found; `earlier` holds the runs of
        the systems before this one.
        """


@dataclass
class WordRanker:
    """BM25; with a folder to keep indexes in, that of the same documents is made once."""

    collection: Collection
    keep: Path | None = None
    cost: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        documents = self.collection.documents
        self.index = BM25Index(documents) if self.keep is None else kept_bm25(documents, self.keep)
        self.cost["index_seconds"] = round(self.index.build_seconds, 2)

    def rank(self, request: Request, earlier: Runs) -> Run:
        texts = [self.collection.query_texts[int(query)] for query in request.queries]
        return self.index.search(request.queries, texts, request.depth, exclude=request.exclude)


def kept_indexes(cache: EmbeddingCache | None) -> Path | None:
    """Where BM25 indexes are kept beside an embedding cache; None without one."""
    return None if cache is None else cache.folder.with_name("bm25")


@dataclass
class VectorRanker:
    """A bi-encoder: an index of document vectors, and the vectors of the queries that may be asked.

    Shape: known (queries,) ascending positions in the collection; vectors (queries, dim).
    """

    index: VectorIndex
    known: IntArray
    vectors: FloatArray
    encoding_seconds: float = 0.0
    """Time to encode the documents."""
    query_ms: Sequence[float] = ()
    """Milliseconds to encode a query, measured several times; empty where that was not measured."""

    @property
    def cost(self) -> dict[str, Any]:
        seconds = self.encoding_seconds + self.index.build_seconds
        return {"index_seconds": round(seconds, 2), "index_mb": round(self.index.bytes / 2**20, 1)}

    def rank(self, request: Request, earlier: Runs) -> Run:
        rows = np.searchsorted(self.known, request.queries)
        return self.index.search(request.queries, self.vectors[rows], request.depth, exclude=request.exclude)


@dataclass
class FusedRanker:
    """The fused runs of systems before it; `options` are those of `fuse`, by default reciprocal rank fusion."""

    parts: Sequence[str]
    options: Mapping[str, Any] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)

    def rank(self, request: Request, earlier: Runs) -> Run:
        return fuse([earlier[part] for part in self.parts], depth=request.depth, **self.options)


def fused_parts(rankers: Mapping[str, Ranker]) -> dict[str, Sequence[str]]:
    """The parts of every fusion."""
    return {name: ranker.parts for name, ranker in rankers.items() if isinstance(ranker, FusedRanker)}


@dataclass
class FileRanker:
    """A TREC run file. A query that it lacks is an empty ranking; its queries that the collection lacks are left out.

    Raises:
        DataError: it ranks documents that the collection lacks and `unknown` is "fail", or none of the collection's
            queries; see also `read_trec_run`.
    """

    file: Path
    collection: Collection
    unknown: Literal["fail", "skip"] = "fail"
    cost: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        named = read_trec_run(self.file)
        known = np.array([query in self.collection.query_index for query in named.query_ids], dtype=np.bool_)
        self.foreign_queries = int((~known).sum())
        """How many of its queries the collection lacks."""
        if not known.any():
            raise DataError(
                f"{self.file}: ranks none of {self.collection.name}'s queries, but others such as "
                f"{named.query_ids[0]!r}; name the run that was made on this task"
            )
        named = replace(named, tag=str(self.file), run=named.run.select(known[named.run.queries]))
        self.run, self.foreign_documents = run_in_collection(self.collection, named, on_unknown=self.unknown)

    def tell(self, queries: IntArray, progress: Progress) -> None:
        """How many of these queries it ranks, and what was left out of it: a warning where anything is amiss."""
        ranked = int(np.isin(queries, self.run.queries).sum())
        said = f"{self.file}: ranks {ranked:,} of {len(queries):,} queries"
        said += ", the rest are empty rankings" * (ranked < len(queries))
        left_out = {"queries": self.foreign_queries, "ranked documents": self.foreign_documents}
        words = [f"{count:,} {kind} that {self.collection.name} lacks" for kind, count in left_out.items() if count]
        said += f"; left out: {' and '.join(words)}" * bool(words)
        (progress.warn if ranked < len(queries) or words else progress.note)(said)

    def rank(self, request: Request, earlier: Runs) -> Run:
        run = self.run.over(request.queries)
        if request.exclude is not None:
            run = Run.ranked(run.queries, np.where(np.isin(run.docs, request.exclude), NO_DOC, run.docs), run.scores)
        return run.top(request.depth)


def rank_all(rankers: Mapping[str, Ranker], collection: Collection, request: Request) -> dict[str, Run]:
    """Every system's run, in the given order; `costs.costs_of` says how long they take.

    Where the collection says so, a document that bears its query's id is left out.
    """
    runs: dict[str, Run] = {}
    deeper = Request(request.queries, request.depth + collection.drop_self, request.exclude)
    for name, ranker in rankers.items():
        run = ranker.rank(deeper, runs)
        if collection.drop_self:
            run = without_self(run, list(collection.query_ids), list(collection.doc_ids), request.depth)
        runs[name] = run
    return runs


def open_index(spec: IndexSpec, vectors: FloatArray) -> ExactIndex | FaissIndex:
    """An index of the kind that a suite asks for. Shape: vectors (documents, dim).

    Raises:
        ConfigError: a setting that the kind does not have, or one it cannot do without.
    """
    settings = _settings(spec)
    return ExactIndex(vectors) if settings is None else FaissIndex(vectors, settings)


def open_kept_index(spec: IndexSpec, vectors: FloatArray, folder: Path, fingerprint: str) -> ExactIndex | FaissIndex:
    """The index that `folder` keeps, mapped; where there is no such folder, a new one, written there first.

    `fingerprint` stands for encoder and documents. Shape: vectors (documents, dim).

    Raises:
        ConfigError: a setting that the kind does not have, or one it cannot do without.
        ArtifactError: the folder is damaged, or another encoder, other documents or other settings made it.
    """
    settings = _settings(spec)
    if not folder.exists():
        built = open_index(spec, vectors)
        save_index(built, folder, fingerprint)
        return built
    index = load_index(folder, fingerprint)
    found = index.settings if isinstance(index, FaissIndex) else None
    if found != settings:
        raise ArtifactError(
            f"{folder}: keeps the index {index.kind}, and {kind_text(settings) if settings else ExactIndex.kind} is "
            "asked for; name another folder under index.save, or remove this one"
        )
    return index


def _settings(spec: IndexSpec) -> Kind | None:
    """The settings of a FAISS index; None for the exact one."""
    if spec.kind == "exact":
        _check_settings(spec, known=[], needed=[])
        return None
    kind = _FAISS[spec.kind]
    settings = fields(kind)
    needed = [it.name for it in settings if it.default is MISSING]
    _check_settings(spec, known=[it.name for it in settings], needed=needed)
    return kind(**spec.params)  # type: ignore[arg-type]


def _check_settings(spec: IndexSpec, *, known: Sequence[str], needed: Sequence[str]) -> None:
    for name in spec.params:
        if name not in known:
            have = ", ".join(known) or "none"
            raise ConfigError(f"index {spec.kind} has no setting {name!r} (it has: {have}){did_you_mean(name, known)}")
    missing = [name for name in needed if name not in spec.params]
    if missing:
        raise ConfigError(f"index {spec.kind} needs {', '.join(missing)}; give it under index.params")
