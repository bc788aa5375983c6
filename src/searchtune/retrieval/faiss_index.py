"""FAISS indexes for inner products: flat, inverted lists, graphs, product and scalar quantisers (Douze et al. 2024).

On a GPU where the installed FAISS has one, otherwise on the CPU. Within equal scores FAISS ranks as it likes, so that
the last places of a ranking may hold other copies of a document than `ExactIndex` would give.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, fields
from typing import Any, Literal

import numpy as np

from searchtune.errors import ConfigError, MissingExtraError
from searchtune.retrieval.index import check_dimensions, check_queries, empty_run, excluded
from searchtune.types import NO_DOC, FloatArray, IntArray, Run

_PER_CENTRE = 39
"""Documents that k-means needs for each centre; FAISS warns below it."""
_GPU_DEPTH = 2048
"""The deepest ranking that FAISS gives on a GPU."""


@dataclass(frozen=True)
class Flat:
    """Every inner product, in float32."""


@dataclass(frozen=True)
class Ivf:
    """Documents in `lists` clusters, of which a search looks at the nearest `probes` (Sivic and Zisserman 2003)."""

    lists: int
    probes: int = 8


@dataclass(frozen=True)
class Hnsw:
    """A graph with `links` neighbours a document, walked with the best `search` in view (Malkov and Yashunin 2018)."""

    links: int = 32
    build: int = 80
    """Candidates in view while the graph is built."""
    search: int = 128


@dataclass(frozen=True)
class Pq:
    """Vectors cut into `parts`, each held as one of 2**`bits` centres (Jégou, Douze and Schmid 2011)."""

    parts: int
    bits: int = 8


@dataclass(frozen=True)
class Sq:
    """Each number in 8 bits between its dimension's extremes, or in float16."""

    number: Literal["8bit", "fp16"] = "8bit"


@dataclass(frozen=True)
class Factory:
    """Anything that FAISS's `index_factory` reads, at FAISS's own settings, such as `OPQ16,IVF256,PQ16x4fs`."""

    text: str


Kind = Flat | Ivf | Hnsw | Pq | Sq | Factory


@dataclass(frozen=True)
class Gpus:
    """Which GPUs hold the index: `count` of them (None: all there are), the documents split between them."""

    count: int | None = None
    float16: bool = False
    """Hold the vectors in half precision where the kind allows it."""


class FaissIndex:
    """A FAISS index of one kind over all documents: position in the index = position in the collection."""

    def __init__(self, vectors: FloatArray, kind: Kind | None = None, *, gpus: Gpus | None = None) -> None:
        """Train and fill; by default `Flat()` on all GPUs there are. Shape: vectors (documents, dim).

        Raises:
            ConfigError: parameters that do not fit each other, the documents, or the GPUs there are.
            MissingExtraError: FAISS is not installed.
        """
        settings, gpus = kind or Flat(), gpus or Gpus()
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
        _check(settings, documents=vectors.shape[0], dim=vectors.shape[1])
        start = time.perf_counter()
        index = _make(settings, vectors.shape[1])
        if not index.is_trained:
            index.train(vectors)
        index, count = _to_gpus(index, settings, gpus)
        index.add(vectors)
        self._adopt(index, settings, time.perf_counter() - start, count)
        self.exact &= not gpus.float16

    @classmethod
    def of(cls, index: Any, settings: Kind, build_seconds: float) -> FaissIndex:
        """Wrap a FAISS index that lies on the CPU and is already filled."""
        made = cls.__new__(cls)
        made._adopt(index, settings, build_seconds, 0)
        return made

    def _adopt(self, index: Any, settings: Kind, build_seconds: float, gpus: int) -> None:
        self.index, self.settings, self.build_seconds, self._gpus = index, settings, build_seconds, gpus
        self.documents, self.dim = int(index.ntotal), int(index.d)
        self.device = f"{gpus} GPU" if gpus else "CPU"
        self.kind = kind_text(settings)
        self.exact = isinstance(settings, Flat)

    @property
    def bytes(self) -> int:
        """Size of the index as FAISS writes it."""
        faiss, sizes = import_faiss(), [0]

        def count(piece: bytes) -> int:
            sizes[0] += len(piece)
            return len(piece)

        faiss.write_index(self.on_cpu(), faiss.PyCallbackIOWriter(count))
        return sizes[0]

    def on_cpu(self) -> Any:
        """The FAISS index, copied to the CPU where it lies on a GPU."""
        return import_faiss().index_gpu_to_cpu(self.index) if self._gpus else self.index

    def search(self, queries: IntArray, vectors: FloatArray, depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out of the collection.

        An index that is not exact may find fewer: the rest of a row is `NO_DOC`.
        Shape: queries (n,), vectors (n, dim) -> (n, depth), or as many columns as there are documents left.
        """
        vectors = check_queries(queries, vectors, depth)
        gone = excluded(exclude, self.documents)
        depth = min(depth, self.documents - len(gone))
        check_dimensions(vectors.shape[1], self.dim)
        if not len(queries) or not depth:
            return empty_run(queries)
        choosing = not self._gpus and isinstance(self.settings, Flat | Ivf | Hnsw | Sq)
        deeper = depth if choosing else depth + len(gone)
        if self._gpus and deeper > _GPU_DEPTH:
            raise ConfigError(
                f"a depth of {depth} with {len(gone)} documents left out is beyond the {_GPU_DEPTH} that FAISS ranks "
                "on a GPU: take Gpus(count=0) or a smaller depth"
            )
        scores, docs = self._search(vectors, deeper, gone if choosing else gone[:0])
        run = Run.ranked(queries, np.where(np.isin(docs, gone), NO_DOC, docs), scores)
        return Run(run.queries, run.docs[:, :depth], run.scores[:, :depth])

    def _search(self, vectors: FloatArray, depth: int, gone: IntArray) -> tuple[FloatArray, IntArray]:
        """FAISS's own answer; `gone` needs a kind that can choose while it searches. Shape: (n, depth) twice."""
        faiss = import_faiss()
        options = {"sel": faiss.IDSelectorNot(faiss.IDSelectorBatch(gone))} if len(gone) else {}
        parameters = None
        if isinstance(self.settings, Ivf) and not self._gpus:
            parameters = faiss.SearchParametersIVF(nprobe=self.settings.probes, **options)
        elif isinstance(self.settings, Hnsw):
            parameters = faiss.SearchParametersHNSW(efSearch=max(self.settings.search, depth), **options)
        elif options:
            parameters = faiss.SearchParameters(**options)
        if parameters is None:
            scores, docs = self.index.search(vectors, depth)
        else:
            scores, docs = self.index.search(vectors, depth, params=parameters)
        return scores, docs


def kind_text(settings: Kind) -> str:
    """A kind as reports show it: `flat`, `ivf(lists=64, probes=8)`."""
    values = ", ".join(f"{field.name}={getattr(settings, field.name)}" for field in fields(settings))
    name = type(settings).__name__.lower()
    return f"{name}({values})" if values else name


def import_faiss() -> Any:
    """The faiss module; a `MissingExtraError` says how to get it."""
    try:
        import faiss
    except ImportError as error:
        raise MissingExtraError("FAISS is not installed; pip install 'searchtune[cpu]' (or [gpu])") from error
    return faiss


def _make(settings: Kind, dim: int) -> Any:
    """An empty index of the kind, on the CPU."""
    faiss = import_faiss()
    product = faiss.METRIC_INNER_PRODUCT
    if isinstance(settings, Hnsw):
        index = faiss.IndexHNSWFlat(dim, settings.links, product)
        index.hnsw.efConstruction = settings.build
        return index
    text = {Flat: "Flat", Sq: "SQ8"}.get(type(settings), "")
    if isinstance(settings, Ivf):
        text = f"IVF{settings.lists},Flat"
    elif isinstance(settings, Pq):
        text = f"PQ{settings.parts}x{settings.bits}"
    elif isinstance(settings, Sq) and settings.number == "fp16":
        text = "SQfp16"
    elif isinstance(settings, Factory):
        text = settings.text
    try:
        index = faiss.index_factory(dim, text, product)
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ConfigError(f"FAISS cannot make {text!r} for vectors of {dim} dimensions: {reason}") from error
    if isinstance(settings, Ivf):
        index.nprobe = settings.probes
    return index


def _check(settings: Kind, *, documents: int, dim: int) -> None:
    """Raise `ConfigError` where the kind's parameters do not fit each other or the documents."""
    numbers = {field.name: getattr(settings, field.name) for field in fields(settings)}
    for name, value in numbers.items():
        if isinstance(value, int) and value < 1:
            raise ConfigError(f"{kind_text(settings)}: {name} must be at least 1")
    centres = 0
    if isinstance(settings, Ivf):
        centres = settings.lists
        if settings.probes > settings.lists:
            raise ConfigError(f"{kind_text(settings)}: there are only {settings.lists} lists to probe")
    elif isinstance(settings, Hnsw) and settings.links < 2:
        raise ConfigError(f"{kind_text(settings)}: a graph needs at least 2 links")
    elif isinstance(settings, Sq) and settings.number not in ("8bit", "fp16"):
        raise ConfigError(f"{kind_text(settings)}: number must be 8bit or fp16")
    elif isinstance(settings, Pq):
        centres = 2**settings.bits
        if settings.bits > 12:
            raise ConfigError(f"{kind_text(settings)}: bits must be 12 or fewer (8 is usual)")
        if dim % settings.parts:
            fitting = ", ".join(str(parts) for parts in range(1, dim + 1) if dim % parts == 0)
            raise ConfigError(f"{kind_text(settings)}: {dim} dimensions can be cut into {fitting} equal parts")
    if documents < centres * _PER_CENTRE:
        remedy = "fewer bits" if isinstance(settings, Pq) else f"at most {documents // _PER_CENTRE} lists"
        raise ConfigError(
            f"{kind_text(settings)}: {centres} centres need {centres * _PER_CENTRE} documents to learn from and there "
            f"are {documents}: take {remedy}, or a flat index, which is fast enough for so few"
        )


def _to_gpus(index: Any, settings: Kind, gpus: Gpus) -> tuple[Any, int]:
    """The index on the GPUs asked for, and their number. Kinds other than `Flat` and `Ivf` stay on the CPU, as 0."""
    faiss = import_faiss()
    there = faiss.get_num_gpus() if hasattr(faiss, "get_num_gpus") else 0
    count = there if gpus.count is None else gpus.count
    if not 0 <= count <= there:
        raise ConfigError(
            f"{count} GPUs asked for, and this FAISS sees {there}: take no more, or pip install 'searchtune[gpu]'"
        )
    if gpus.float16 and not count:
        raise ConfigError("float16 is for a GPU: on the CPU take Sq('fp16')")
    if not count or not isinstance(settings, Flat | Ivf):
        return index, 0
    options = faiss.GpuMultipleClonerOptions()
    options.shard = True
    options.useFloat16 = gpus.float16
    return faiss.index_cpu_to_all_gpus(index, co=options, ngpu=count), count
