"""Comparing BM25, the base, the tuned model and their hybrids on one split, and writing the report."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.leakage import residual, seen_mask
from searchtune.evaluation import Evidence, Report, build_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.dense import DenseIndex, without_self
from searchtune.retrieval.fusion import reciprocal_rank_fusion
from searchtune.types import Collection, FloatArray, IntArray, Qrels, Run

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


def measure(subject: Subject, folder: Path, *, seed: int) -> Report:
    """Rank, score, compare, and write `report.json` and `report.html` into `folder`."""
    collection = subject.collection
    qrels = collection.qrels[subject.split]
    systems = _Systems(subject)
    runs, costs = systems.all_runs(qrels.queries, None)
    left = residual(qrels, subject.train_positives, collection.min_grade)
    rest, _ = systems.all_runs(left.queries, subject.train_positives)
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
            costs=costs,
            provenance=subject.provenance,
        ),
        seed=seed,
    )
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    return report


class _Systems:
    """The indexes behind the systems of a report."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.collection = subject.collection
        self.dense = {"base": DenseIndex(subject.base.documents), "tuned": DenseIndex(subject.tuned.documents)}
        start = time.perf_counter()
        self.bm25 = BM25Index(self.collection.documents)
        self.bm25_seconds = time.perf_counter() - start

    def all_runs(self, queries: IntArray, exclude: IntArray | None) -> tuple[dict[str, Run], dict[str, dict[str, Any]]]:
        """Runs and costs of every system, in the order in which the report shows them."""
        judged: Qrels = self.collection.qrels[self.subject.split]
        rows = np.searchsorted(judged.queries, queries)
        texts = [self.collection.query_texts[int(query)] for query in queries]
        depth = DEPTH + self.collection.drop_self
        runs: dict[str, Run] = {}
        costs: dict[str, dict[str, Any]] = {}
        start = time.perf_counter()
        runs["bm25"] = self._trim(self.bm25.search(queries, texts, depth, exclude=exclude))
        costs["bm25"] = self._cost(self.bm25_seconds, time.perf_counter() - start, len(queries), None)
        for name, vectors in (("base", self.subject.base), ("tuned", self.subject.tuned)):
            start = time.perf_counter()
            runs[name] = self._trim(self.dense[name].search(queries, vectors.queries[rows], depth, exclude=exclude))
            taken = time.perf_counter() - start
            costs[name] = self._cost(vectors.seconds, taken, len(queries), vectors.documents.nbytes / 2**20)
        runs["hybrid"] = reciprocal_rank_fusion([runs["bm25"], runs["base"]], DEPTH)
        runs["hybrid-tuned"] = reciprocal_rank_fusion([runs["bm25"], runs["tuned"]], DEPTH)
        return {name: runs[name] for name in ("bm25", "base", "hybrid", "tuned", "hybrid-tuned")}, costs

    def _trim(self, run: Run) -> Run:
        if not self.collection.drop_self:
            return run
        return without_self(run, list(self.collection.query_ids), list(self.collection.doc_ids), DEPTH)

    @staticmethod
    def _cost(index_seconds: float, search_seconds: float, queries: int, megabytes: float | None) -> dict[str, Any]:
        cost: dict[str, Any] = {"index_seconds": round(index_seconds, 2)}
        if queries:
            cost["search_ms_per_query"] = round(1000 * search_seconds / queries, 3)
        if megabytes is not None:
            cost["index_mb"] = round(megabytes, 1)
        return cost
