"""What every index over document vectors can do, and what all of them check before they search."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from searchtune.errors import DataError
from searchtune.types import FloatArray, IntArray, Run


class VectorIndex(Protocol):
    """Documents known by position, found by the inner product of their vectors with a query's."""

    @property
    def documents(self) -> int:
        """How many documents there are."""

    @property
    def kind(self) -> str:
        """What stands behind it, for reports: `exact`, `flat`, `ivf(lists=64, probes=8)`."""

    @property
    def bytes(self) -> int:
        """Size of the index in memory, or on disk where it is mapped."""

    @property
    def build_seconds(self) -> float:
        """Time that training and filling it took; 0 where there is nothing to build."""

    @property
    def exact(self) -> bool:
        """Whether it finds the greatest inner products of float32 vectors, rather than most of them."""

    def search(self, queries: IntArray, vectors: FloatArray, depth: int, *, exclude: IntArray | None = None) -> Run:
        """The `depth` best documents for each query, those in `exclude` left out of the collection.

        Shape: queries (n,), vectors (n, dim) -> (n, depth), or as many columns as there are documents left.
        """


def check_queries(queries: IntArray, vectors: FloatArray, depth: int) -> FloatArray:
    """The queries' vectors as contiguous float32. Shape: queries (n,), vectors (n, dim).

    Raises:
        DataError: a vector with NaN, an infinity, or numbers that no product in float32 can hold.
        ValueError: not one vector for each query, or a depth below 0.
    """
    if vectors.ndim != 2 or len(vectors) != len(queries):
        raise ValueError(f"{len(queries)} queries need as many vectors, but the array has the shape {vectors.shape}")
    if depth < 0:
        raise ValueError(f"depth {depth}: a ranking has at least 0 places")
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    check_finite(vectors, "query vector", 0)
    return vectors


def check_dimensions(queries: int, documents: int) -> None:
    """Raise `DataError` unless both sides have vectors of the same size."""
    if queries != documents:
        raise DataError(
            f"the queries have {queries} dimensions, the documents {documents}: encode both with the same model"
        )


def check_finite(vectors: FloatArray, what: str, first: int) -> None:
    """Raise `DataError` for NaN, infinities and lengths over about 1e19, whose products float32 cannot hold.

    `what` and `first` name the rows in the message. Shape: vectors (n, dim), contiguous.
    """
    flat = vectors.reshape(-1)
    with np.errstate(over="ignore", invalid="ignore"):
        if np.isfinite(np.dot(flat, flat)):
            return
        lengths = np.sqrt(np.square(vectors, dtype=np.float64).sum(axis=1))
    broken = np.flatnonzero(~(lengths < np.sqrt(np.finfo(np.float32).max)))
    if len(broken):
        raise DataError(
            f"{what} {first + int(broken[0])} holds NaN, an infinity or a number too great to multiply, as do "
            f"{len(broken) - 1} of those searched with it: look for an empty text or an overflow in float16, and "
            "encode again"
        )


def excluded(exclude: IntArray | None, documents: int) -> IntArray:
    """The positions in `exclude`, each once, ascending; a `ValueError` names one that no document has."""
    gone: IntArray = np.zeros(0, np.int64) if exclude is None else np.unique(np.asarray(exclude, np.int64))
    if len(gone) and (gone[0] < 0 or gone[-1] >= documents):
        wrong = int(gone[0] if gone[0] < 0 else gone[-1])
        raise ValueError(f"document {wrong} cannot be left out: there are documents 0 to {documents - 1}")
    return gone


def empty_run(queries: IntArray) -> Run:
    """A run that found nothing. Shape: (queries, 0)."""
    return Run.ranked(queries, np.zeros((len(queries), 0), np.int64), np.zeros((len(queries), 0), np.float32))
