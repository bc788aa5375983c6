"""Comparing BM25, the base, the tuned model and their hybrids on one split, and writing the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from searchtune.data.leakage import residual, seen_mask
from searchtune.evaluation import Evidence, Report, build_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.evaluation.report import HEADLINE
from searchtune.metrics.ranking import score
from searchtune.retrieval.dense import DenseIndex
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.tuning import tune_weights
from searchtune.types import NO_DOC, Collection, FloatArray, IntArray, Qrels
from searchtune.workflows.costs import costs_of
from searchtune.workflows.systems import (
    FusedRanker,
    Ranker,
    Request,
    VectorRanker,
    WordRanker,
    fused_parts,
    rank_all,
)

DEPTH = 100
ENOUGH_TO_FIT = 20
"""Dev queries from which a hybrid's weights are fitted to them; with fewer, chance would choose."""


@dataclass(frozen=True)
class Vectors:
    """Vectors of one system. Shape: documents (documents, dim), queries (judged, dim)."""

    documents: FloatArray
    queries: FloatArray
    seconds: float = 0.0
    """Time to encode the documents."""
    query_ms: Sequence[float] = ()
    """Milliseconds to encode a query, measured several times."""
    dev: FloatArray | None = None
    """Vectors of the dev queries. Shape: (judged, dim)."""


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
    dev: Qrels | None = None
    """Labels of the dev queries, in the order of `Vectors.dev`; where there are enough, hybrids are fitted to them."""


def measure(subject: Subject, folder: Path, *, seed: int) -> Report:
    """Rank, score, compare, and write `report.json` and `report.html` into `folder`."""
    collection = subject.collection
    qrels = collection.qrels[subject.split]
    words, base, tuned = WordRanker(collection), _dense(subject.base, qrels), _dense(subject.tuned, qrels)
    rankers: dict[str, Ranker] = {
        "bm25": words,
        "base": base,
        "hybrid": _hybrid(subject, words, "base", base, subject.base.dev),
        "tuned": tuned,
        "hybrid-tuned": _hybrid(subject, words, "tuned", tuned, subject.tuned.dev),
    }
    runs = rank_all(rankers, collection, Request(qrels.queries, DEPTH))
    left = residual(qrels, subject.train_positives, collection.min_grade)
    rest = rank_all(rankers, collection, Request(left.queries, DEPTH, subject.train_positives))
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
            costs=costs_of(rankers, runs, Request(qrels.queries, DEPTH)),
            provenance=subject.provenance,
            tags=collection.query_tags,
            notes=subject.notes,
            fusions=fused_parts(rankers),
        ),
        seed=seed,
    )
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    return report


def _dense(vectors: Vectors, qrels: Qrels) -> VectorRanker:
    return VectorRanker(
        DenseIndex(vectors.documents), qrels.queries, vectors.queries, vectors.seconds, vectors.query_ms
    )


def _hybrid(
    subject: Subject, words: WordRanker, name: str, dense: VectorRanker, dev_vectors: FloatArray | None
) -> FusedRanker:
    """BM25 and a dense system fused: by the weights that are best on dev, or by reciprocal ranks (k = 60).

    Weighted are scores, normalised query by query. Reciprocal ranks stay where dev does not have them beaten, or holds
    fewer than `ENOUGH_TO_FIT` queries: they can be far worse than the better of two unequal parts.
    """
    parts, dev = ["bm25", name], subject.dev
    if dev is None or dev_vectors is None or len(dev) < ENOUGH_TO_FIT:
        return FusedRanker(parts, cost={"fusion": "reciprocal ranks"})
    asked = Request(dev.queries, DEPTH)
    found: dict[str, Ranker] = {
        "bm25": words,
        name: VectorRanker(dense.index, dev.queries, dev_vectors),
    }
    runs = rank_all(found, subject.collection, asked)
    silent = [part for part in parts if not (runs[part].docs != NO_DOC).any()]
    if silent:  # queries and documents in two languages, say: there is nothing to weigh
        return FusedRanker(parts, cost={"fusion": f"reciprocal ranks, since {silent[0]} finds nothing for dev"})
    min_grade = subject.collection.min_grade
    tuned = tune_weights([runs[part] for part in parts], dev, HEADLINE, min_grade=min_grade)
    usual = score(fuse([runs[part] for part in parts]), dev, [HEADLINE], min_grade=min_grade)[HEADLINE].mean()
    if usual >= tuned.score:
        return FusedRanker(parts, cost={"fusion": f"reciprocal ranks, as {len(dev):,} dev queries have it"})
    weights = " + ".join(f"{weight:g} {part}" for part, weight in zip(parts, tuned.weights, strict=True))
    return FusedRanker(parts, tuned.options, {"fusion": f"{weights}, fitted on {len(dev):,} dev queries"})
