"""Comparing BM25, the base, the tuned model and their hybrids on one split, and writing the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchtune.data.leakage import residual, seen_mask
from searchtune.evaluation import Evidence, Report, build_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.retrieval.dense import DenseIndex
from searchtune.types import Collection, FloatArray, IntArray, Qrels
from searchtune.workflows.systems import (
    FusedRanker,
    Ranker,
    Request,
    VectorRanker,
    WordRanker,
    costs_of,
    rank_all,
)

DEPTH = 100


@dataclass(frozen=True)
class Vectors:
    """Vectors of one system. Shape: documents (documents, dim), queries (judged, dim)."""

    documents: FloatArray
    queries: FloatArray
    seconds: float = 0.0
    """Time to encode the documents."""


@dataclass(frozen=True)
class Subject:
    """What is measured: the test queries of a collection, with the vectors of base and tuned model."""

    collection: Collection
    split: str
    base: Vectors
    tuned: Vectors
    train_positives: IntArray
    training: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """Warnings that the report repeats."""


def measure(subject: Subject, folder: Path, *, seed: int) -> Report:
    """Rank, score, compare, and write `report.json` and `report.html` into `folder`."""
    collection = subject.collection
    qrels = collection.qrels[subject.split]
    rankers: dict[str, Ranker] = {
        "bm25": WordRanker(collection),
        "base": _dense(subject.base, qrels),
        "hybrid": FusedRanker(["bm25", "base"]),
        "tuned": _dense(subject.tuned, qrels),
        "hybrid-tuned": FusedRanker(["bm25", "tuned"]),
    }
    runs, milliseconds = rank_all(rankers, collection, Request(qrels.queries, DEPTH))
    left = residual(qrels, subject.train_positives, collection.min_grade)
    rest, _ = rank_all(rankers, collection, Request(left.queries, DEPTH, subject.train_positives))
    report = build_report(
        Evidence(
            collection=collection,
            split=subject.split,
            qrels=qrels,
            runs=runs,
            reference="base",
            tuned=["tuned"],
            pairs=[("hybrid", "hybrid-tuned")],
            seen=seen_mask(subject.train_positives, qrels, collection.min_grade),
            residual=(left, rest),
            training=subject.training,
            costs=costs_of(rankers, milliseconds),
            provenance=subject.provenance,
            tags=collection.query_tags,
            notes=subject.notes,
        ),
        seed=seed,
    )
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    return report


def _dense(vectors: Vectors, qrels: Qrels) -> VectorRanker:
    return VectorRanker(DenseIndex(vectors.documents), qrels.queries, vectors.queries, vectors.seconds)
