"""Retrieval alone, the base reranker, the tuned one and its blend, side by side on one split, as a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.leakage import residual, seen_mask
from searchtune.evaluation import Evidence, Report, build_report, write_report
from searchtune.evaluation.page import write_page
from searchtune.specs.rerank import RerankRecipe
from searchtune.types import Collection, IntArray, Qrels, Run
from searchtune.workflows.costs import costs_of
from searchtune.workflows.first_stage import FirstStage
from searchtune.workflows.provenance import command, hardware, now, spec_sha256, versions
from searchtune.workflows.rerank_dev import Fitted
from searchtune.workflows.reranking import PairScorer, RerankRanker, trade_offs
from searchtune.workflows.systems import Request, fused_parts, rank_all

DEPTH = 100
"""Documents in every run, so that recall beyond the reranked depth can be told."""
BASE, TUNED, BLENDED, EARLY = "base-reranker", "reranked", "blended", "early-exit"


@dataclass(frozen=True)
class Reranked:
    """What is measured: a split of a collection, its first stage, and the pairs as base and tuned model score them."""

    recipe: RerankRecipe
    collection: Collection
    split: str
    first: FirstStage
    base: PairScorer | None
    """None where the base had no head, so that its scores mean nothing."""
    tuned: PairScorer
    fitted: Fitted
    train_positives: IntArray
    training: Mapping[str, Any]
    reload_difference: float
    precision: str
    notes: Sequence[str] = ()
    """Warnings that the report repeats."""

    @property
    def qrels(self) -> Qrels:
        return self.collection.qrels[self.split]


def measure_reranker(subject: Reranked, folder: Path) -> Report:
    """Rank, rerank, score, compare, and write `report.json` and `report.html` into `folder`."""
    recipe, collection, qrels = subject.recipe, subject.collection, subject.qrels
    alone = recipe.reranked
    rerankers = _rerankers(subject)
    rankers = {**subject.first.rankers, **rerankers}
    depth = max(DEPTH, recipe.depth)
    runs = rank_all(rankers, collection, Request(qrels.queries, depth))
    left = residual(qrels, subject.train_positives, collection.min_grade)
    rest = rank_all(rankers, collection, Request(left.queries, depth, subject.train_positives))
    costs = costs_of(rankers, runs, Request(qrels.queries, depth))
    best = BLENDED if BLENDED in rerankers else TUNED
    others = [name for name in rerankers if name != best]
    report = build_report(
        Evidence(
            collection=collection,
            split=subject.split,
            qrels=qrels,
            runs=runs,
            reference=alone,
            tuned=[best, *(name for name in others if name != BASE)],
            pairs=[(alone, BASE), (BASE, TUNED)] if BASE in rerankers else [],
            seen=seen_mask(subject.train_positives, qrels, collection.min_grade),
            residual=(left, rest),
            training=subject.training,
            costs=costs,
            provenance=_provenance(subject),
            tags=collection.query_tags,
            notes=subject.notes,
            retrieval=alone,
            trade_offs=trade_offs(rankers, runs, costs),
            fusions=fused_parts(rankers),
            calibration=_calibration(subject, runs[alone]),
        ),
        seed=recipe.seed,
    )
    write_report(report, folder / "report.json")
    write_page(report, folder / "report.html")
    return report


def _rerankers(subject: Reranked) -> dict[str, RerankRanker]:
    recipe, fitted = subject.recipe, subject.fitted
    alone, depth, blend = recipe.reranked, recipe.depth, fitted.card_blend
    found = {} if subject.base is None else {BASE: RerankRanker(alone, subject.base, depth)}
    depths = sorted({*recipe.sweep, depth})
    found[TUNED] = RerankRanker(alone, subject.tuned, depth, sweep=depths if blend is None else ())
    if blend is not None:
        found[BLENDED] = RerankRanker(alone, subject.tuned, depth, blend, sweep=depths)
    if fitted.rule is not None:
        found[EARLY] = RerankRanker(alone, subject.tuned, depth, blend, fitted.rule)
    return found


def _calibration(subject: Reranked, run: Run) -> dict[str, Any]:
    """Probabilities of the test pairs before (sigmoid of the score) and after calibration, and what is relevant."""
    if subject.fitted.calibration is None:
        return {}
    scores = subject.tuned.of_run(run, subject.recipe.depth)
    rows, columns = np.nonzero(np.isfinite(scores))
    queries, docs = run.queries[rows], run.docs[rows, columns]
    good = subject.qrels.relevant(subject.collection.min_grade)
    stride = len(subject.collection.doc_ids)
    relevant = np.isin(queries * stride + docs, good.label_queries * stride + good.docs)
    values = scores[rows, columns].astype(np.float64)
    return {
        "before": (1 / (1 + np.exp(-values)), relevant),
        "after": (subject.fitted.calibration(values), relevant),
    }


def _provenance(subject: Reranked) -> dict[str, Any]:
    recipe, collection = subject.recipe, subject.collection
    runs = subject.first.runs(subject.qrels.queries[:21], recipe.depth)
    latency = subject.tuned.latency(runs[recipe.reranked], recipe.depth)
    return {
        "command": command(),
        "created": now(),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": spec_sha256(recipe),
        "data_fingerprint": collection.fingerprint,
        "documents": len(collection.doc_ids),
        "precision": subject.precision,
        "reload_difference": subject.reload_difference,
        "milliseconds_to_rerank_one_query_alone": None if latency is None else round(latency, 1),
        **subject.fitted.facts(),
        "versions": versions(),
        "hardware": hardware(),
    }
