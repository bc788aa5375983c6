"""What a reranker's scores do to a first-stage run: put its top in a new order, alone or blended with the first scores.

The first `depth` documents of a query that have a score are its head and get a new order; all others are its tail and
follow in the order they had. A head's scores and a tail's are of different kinds, so the tail's are made anew: they
fall below the head's lowest in even steps. A query of which nothing is scored stays as it is.

How many documents a query should have scored at all is the matter of `early_exit`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.fusion import Candidates, Normalisation
from searchtune.types import NO_DOC, FloatArray, Qrels, Run

_GREATEST = 1e30
"""No reranker scores higher, and float32 has room below for a tail."""
_ROOM = 4
"""A tail's step, in units of float32's resolution at the head's lowest score: enough that rounding makes no ties."""


@dataclass(frozen=True)
class Blend:
    """The best blend that was tried; `blended(run, scores, **blend.options)` applies it."""

    depth: int
    weight: float
    """Of the reranker; the first stage has the rest."""
    normalisation: Normalisation
    metric: str
    score: float
    """Mean of the metric over the judged queries that it was fitted on."""
    reranker_score: float
    """The same with the reranker alone."""
    retriever_score: float
    """The same with the first stage alone."""
    tried: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for `blended`."""
        return {"depth": self.depth, "weight": self.weight, "normalisation": self.normalisation}


def reordered(run: Run, scores: FloatArray, depth: int) -> Run:
    """The run with its head sorted by (-score, -document).

    `scores[i, j]` belongs to `run.docs[i, j]`; NaN or minus infinity where it was not scored. Equal scores count as
    float32 sees them.

    Shape: scores (queries, run depth) -> a run of the same shape.

    Raises:
        ConfigError: a negative depth.
        DataError: a score of infinity, or beyond 1e30.
        ValueError: scores of another shape than the run.
    """
    head = _head(run, scores, depth)
    return _with_tail(Run.ranked(run.queries, np.where(head, run.docs, NO_DOC), scores), run, head)


def blended(
    run: Run, scores: FloatArray, depth: int, *, weight: float, normalisation: Normalisation = "min-max"
) -> Run:
    """The run with its head sorted by `weight` x reranker + (1 - `weight`) x first stage.

    Both are normalised over the head of each query first, as in `fusion`. Shape: see `reordered`.

    Raises:
        ConfigError: a weight outside [0, 1], an unknown normalisation, or a negative depth.
        DataError: a first-stage score of the head that is NaN or infinite; see also `reordered`.
    """
    if not 0 <= weight <= 1:
        raise ConfigError(f"weight {weight}: the reranker's share of a blend is a number from 0 to 1")
    head = _head(run, scores, depth)
    return _with_tail(_candidates(run, scores, head, normalisation).fuse((weight, 1 - weight)), run, head)


def tune_blend(
    run: Run,
    scores: FloatArray,
    qrels: Qrels,
    depth: int,
    *,
    metric: str = "ndcg@10",
    normalisations: Sequence[Normalisation] = ("min-max", "z-score"),
    steps: int = 10,
    min_grade: int = 1,
) -> Blend:
    """The weight, in steps of 1 / `steps`, and normalisation under which the blended run scores best on `qrels`.

    Of equally good choices the one nearest to equal weights is taken, then the normalisation named first. What is found
    is fitted to these queries: report it on others. Shape: scores (queries, run depth).

    Raises:
        ConfigError: an unknown metric or normalisation, none at all, or fewer than 1 step.
        DataError: no query has labels, or the run holds none of those that have; see also `reordered`.
    """
    if not np.isin(qrels.queries, run.queries).any():
        raise DataError(f"{len(qrels)} queries have labels and the run holds none of them: tune on a split it searched")
    if steps < 1 or not normalisations:
        raise ConfigError(f"steps {steps}, normalisations {tuple(normalisations)}: tuning needs at least 1 of each")
    head = _head(run, scores, depth)

    def quality(candidate: Run) -> float:
        return float(score(candidate, qrels, [metric], min_grade=min_grade)[metric].mean())

    weights = sorted((step / steps for step in range(steps + 1)), key=lambda weight: abs(weight - 0.5))
    tops = {name: _candidates(run, scores, head, name) for name in normalisations}
    tried = [
        (quality(_with_tail(tops[name].fuse((weight, 1 - weight)), run, head)), weight, name)
        for weight in weights
        for name in normalisations
    ]
    best, weight, name = max(tried, key=lambda choice: choice[0])
    alone = quality(reordered(run, scores, depth))
    return Blend(depth, weight, name, metric, best, alone, quality(run), len(tried))


def _head(run: Run, scores: FloatArray, depth: int) -> npt.NDArray[np.bool_]:
    """True where a document is among the first `depth` and has a score. Shape: (queries, run depth)."""
    if scores.shape != run.docs.shape:
        raise ValueError(f"scores of shape {scores.shape} for a run of shape {run.docs.shape}")
    if depth < 0:
        raise ConfigError(f"depth {depth}: how many documents are reranked is a number from 0 on")
    scored: npt.NDArray[np.bool_] = (run.docs != NO_DOC) & ~np.isnan(scores) & ~np.isneginf(scores)
    scored[:, depth:] = False
    wrong = np.argwhere(scored & ~(np.abs(scores) <= _GREATEST))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(
            f"the reranker scores document {run.docs[row, column]} {scores[row, column]} for query {run.queries[row]} "
            f"(positions): scores lie within {_GREATEST:g} of 0; look for an overflow in the model's output"
        )
    return scored


def _candidates(run: Run, scores: FloatArray, head: npt.NDArray[np.bool_], normalisation: Normalisation) -> Candidates:
    """The heads under both scores, ready to be fused with weights for reranker and first stage."""
    docs = np.where(head, run.docs, NO_DOC)
    both = [Run.ranked(run.queries, docs, values) for values in (scores, run.scores)]
    return Candidates(both, "combsum", normalisation=normalisation, depth=run.depth)


def _with_tail(top: Run, run: Run, head: npt.NDArray[np.bool_]) -> Run:
    """The documents of `top`, which are those of the head, then the rest of the run. Shape: as the run."""
    tail = (run.docs != NO_DOC) & ~head
    lowest = np.where(top.docs != NO_DOC, top.scores, np.inf).min(axis=1, keepdims=True, initial=np.inf)  # (queries, 1)
    lowest = lowest.astype(np.float64)
    none = np.isinf(lowest)  # nothing is scored
    start = np.where(none, 0, lowest)
    step = np.maximum(1.0, _ROOM * np.spacing(np.abs(start).astype(np.float32)))
    fallen = start - step * np.cumsum(tail, axis=1)  # (queries, run depth)
    docs = np.concatenate([top.docs, np.where(tail, run.docs, NO_DOC)], axis=1)
    values = np.concatenate([top.scores, np.where(none, run.scores, fallen)], axis=1)
    both = Run.ranked(run.queries, docs, values)
    return Run(both.queries, both.docs[:, : run.depth], both.scores[:, : run.depth])
