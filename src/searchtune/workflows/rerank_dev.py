"""What dev is for when a reranker is trained: watching, then fitting the blend, the early exit and the calibration."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from searchtune.metrics.calibration import Calibration, brier, choose_calibration, expected_calibration_error
from searchtune.metrics.ranking import score
from searchtune.models.pairs import PairStore
from searchtune.models.reranker import Reranker
from searchtune.retrieval.early_exit import EarlyExit, TunedExit, tune_early_exit
from searchtune.retrieval.reorder import Blend, blended, reordered, tune_blend
from searchtune.specs.card import FittedBlend
from searchtune.specs.rerank import RerankRecipe
from searchtune.types import NO_DOC, Collection, FloatArray, Qrels, Run
from searchtune.workflows.dev import some_queries
from searchtune.workflows.first_stage import FirstStage

_TOLERANCE = 0.002
"""Mean nDCG@10 on dev that an early exit may cost."""


@dataclass(frozen=True)
class DevRankings:
    """Dev queries with their first-stage rankings."""

    watched: Qrels
    """The queries that are reranked while training."""
    watched_run: Run
    fit: Qrels
    """The queries that are reranked afterwards."""
    fit_run: Run
    depth: int
    metric: str
    min_grade: int

    @property
    def first_stage(self) -> dict[str, float]:
        """The metric of the first stage alone over the watched queries."""
        return self._mean(self.watched_run)

    def figures(self, reranker: Reranker, store: PairStore) -> dict[str, float]:
        """The metric over the watched queries, reranked by the model as it now is."""
        scores = scores_of(self.watched_run, reranker, store, self.depth)
        return self._mean(reordered(self.watched_run, scores, self.depth))

    def _mean(self, run: Run) -> dict[str, float]:
        values = score(run, self.watched, [self.metric], min_grade=self.min_grade)[self.metric]
        return {self.metric: float(values.mean())}


@dataclass(frozen=True)
class Fitted:
    """What was fitted on dev; empty where there is no dev."""

    blend: Blend | None = None
    exit: TunedExit | None = None
    calibration: Calibration | None = None
    calibration_error: tuple[float, float] = (float("nan"), float("nan"))
    """Expected calibration error and Brier score on the pairs it was fitted on."""
    queries: int = 0

    @property
    def card_blend(self) -> FittedBlend | None:
        """The blend as a card holds it."""
        return (
            None
            if self.blend is None
            else FittedBlend(weight=self.blend.weight, normalisation=self.blend.normalisation)
        )

    @property
    def rule(self) -> EarlyExit | None:
        return None if self.exit is None else self.exit.exit

    def facts(self) -> dict[str, Any]:
        """All of it as plain values."""
        return {
            "blend": None
            if self.blend is None
            else {"weight": self.blend.weight, "normalisation": self.blend.normalisation},
            "early_exit": None if self.rule is None else exit_facts(self.rule),
            "calibration": None if self.calibration is None else self.calibration.to_json(),
            "fitted_on_queries": self.queries,
        }

    def describe(self) -> list[str]:
        """Lines for people."""
        lines = []
        if self.blend is not None:
            weight, metric = self.blend.weight, self.blend.metric
            lines.append(
                f"blend fitted on {self.queries} dev queries: {weight:.0%} reranker, {1 - weight:.0%} first stage "
                f"({self.blend.normalisation}); {metric} {self.blend.score:.4f}"
            )
        if self.exit is not None:
            lines.append(
                f"early exit: {self.exit.metric} {self.exit.score:.4f} instead of {self.exit.full_score:.4f}, "
                f"margin {self.exit.exit.margin:.3g}"
            )
        if self.calibration is not None:
            lines.append(f"calibration: {self.calibration.kind}, expected error {self.calibration_error[0]:.3f}")
        return lines


def exit_facts(rule: EarlyExit) -> dict[str, float]:
    """An early exit as plain values."""
    return {"step": rule.step, "margin": rule.margin, "keep": rule.keep}


def dev_rankings(collection: Collection, recipe: RerankRecipe, first: FirstStage) -> DevRankings | None:
    """The dev rankings of a collection; None where it has no judged dev query."""
    if not len(collection.qrels["dev"]):
        return None
    fit = some_queries(collection, recipe.dev.fit_queries)
    watched = some_queries(collection, recipe.dev.max_queries)
    run = first.runs(fit.queries, recipe.depth)[recipe.reranked]
    watched_run = first.runs(watched.queries, recipe.depth)[recipe.reranked]
    return DevRankings(watched, watched_run, fit, run, recipe.depth, recipe.dev.metric, collection.min_grade)


def fit_on_dev(dev: DevRankings, reranker: Reranker, store: PairStore) -> Fitted:
    """Rerank the dev queries with the trained model, and fit on the scores."""
    run, qrels = dev.fit_run, dev.fit
    scores = scores_of(run, reranker, store, dev.depth)
    blend = tune_blend(run, scores, qrels, dev.depth, min_grade=dev.min_grade)

    def rank(run: Run, scores: FloatArray, depth: int) -> Run:
        return blended(run, scores, depth, weight=blend.weight, normalisation=blend.normalisation)

    early = tune_early_exit(run, scores, qrels, _TOLERANCE, min_grade=dev.min_grade, rank=rank)
    values, relevant, queries = _judged_pairs(run, scores, qrels, dev.min_grade)
    calibration = choose_calibration(values, relevant, queries).calibration if relevant.any() else None
    error = (float("nan"), float("nan"))
    if calibration is not None:
        probabilities = calibration(values)
        error = (expected_calibration_error(probabilities, relevant), brier(probabilities, relevant))
    return Fitted(blend, early, calibration, error, len(qrels))


def scores_of(run: Run, reranker: Reranker, store: PairStore, depth: int) -> FloatArray:
    """Scores of the first `depth` documents of every row, NaN elsewhere. Shape: (queries, run depth)."""
    places = (run.docs != NO_DOC) & (np.arange(run.depth) < depth)
    rows, _ = np.nonzero(places)
    scores = np.full(run.docs.shape, np.nan, dtype=np.float32)
    scores[places] = reranker.score_store(store, run.queries[rows], run.docs[places])
    return scores


def _judged_pairs(run: Run, scores: FloatArray, qrels: Qrels, min_grade: int) -> tuple[FloatArray, Any, Any]:
    """The scored pairs of a run: score, whether relevant by the labels (no label is not relevant), and query.

    Shape: (pairs,) each.
    """
    rows, columns = np.nonzero(np.isfinite(scores))
    queries, docs = run.queries[rows], run.docs[rows, columns]
    stride = int(max(docs.max(initial=0), qrels.docs.max(initial=0))) + 1
    good = qrels.grades >= min_grade
    relevant = np.isin(queries * stride + docs, qrels.label_queries[good] * stride + qrels.docs[good])
    return scores[rows, columns], relevant, queries
