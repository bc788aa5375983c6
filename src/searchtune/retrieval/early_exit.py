"""Reranking no deeper than it pays: go down a query's list in steps and stop when a step brings nothing near the top.

After each step the `keep`-th best score so far is what a document has to reach to be shown. A query goes on while the
best document of the last step came within `margin` of that, and while it has fewer than `keep` scores.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.reorder import reordered
from searchtune.types import NO_DOC, FloatArray, FloatArray64, IntArray, Qrels, Run

_METRIC = "ndcg@10"
_MARGINS = 64
"""At most so many margins are tried."""


@dataclass(frozen=True)
class EarlyExit:
    """When to stop; decides from scores alone, as they come in.

    Raises:
        ConfigError: a step or a number to keep below 1, or a margin that is not finite.
    """

    step: int
    """Documents scored at once."""
    margin: float
    """In units of the reranker's score. Below 0 a step must beat the `keep`-th best score by so much."""
    keep: int = 10
    """How many documents are shown."""

    def __post_init__(self) -> None:
        if self.step < 1 or self.keep < 1 or not np.isfinite(self.margin):
            raise ConfigError(
                f"early exit with step {self.step}, keep {self.keep}, margin {self.margin}: the first two are at least "
                "1, and the margin is a finite number"
            )

    def goes_on(self, scores_so_far: FloatArray) -> npt.NDArray[np.bool_]:
        """Which queries have their next step scored.

        `scores_so_far` are in the order of the list, from its start to the end of a step; NaN or minus infinity where
        there is no document or no score. A query without any score in the last step has come to its end.

        Shape: (queries, scored so far) -> (queries,).
        """
        return _distance(scores_so_far, self.step, self.keep) <= self.margin


@dataclass(frozen=True)
class TunedExit:
    """The early exit that saves most within the tolerance."""

    exit: EarlyExit
    metric: str
    score: float
    """Mean of the metric over the judged queries that it was fitted on."""
    full_score: float
    """The same with every score there is."""
    mean_depth: float
    """Documents scored a query."""
    full_depth: float
    """The same without early exit."""


def early_exit(scores: FloatArray, step: int, margin: float, keep: int = 10) -> IntArray:
    """How many documents of each query would have been scored, given all scores in the order of the list.

    NaN or minus infinity is no score. A list ends with its last score before a step that has none.

    Shape: (queries, depth) -> (queries,).

    Raises:
        ConfigError: see `EarlyExit`.
    """
    rule = EarlyExit(step, margin, keep)
    return _depths(scores, _distances(scores, rule.step, rule.keep), rule.step, rule.margin)


def tune_early_exit(
    run: Run,
    scores: FloatArray,
    qrels: Qrels,
    tolerance: float = 0.005,
    *,
    step: int = 10,
    keep: int = 10,
    min_grade: int = 1,
    rank: Callable[[Run, FloatArray, int], Run] = reordered,
) -> TunedExit:
    """The margin that has the fewest documents scored and loses at most `tolerance` of the mean nDCG@10.

    Margins are tried from the smallest up, out of those at which some query of `run` changes its depth; the greatest
    stops no query before the end of its list. `rank` makes a run of a run, its scores and its depth. What is found is
    fitted to these queries: report it on others.

    Shape: scores (queries, run depth), as for `reordered`.

    Raises:
        ConfigError: see `EarlyExit`; a tolerance below 0.
        DataError: no query has labels, or the run holds none of those that have; see also `reordered`.
    """
    if not np.isin(qrels.queries, run.queries).any():
        raise DataError(f"{len(qrels)} queries have labels and the run holds none of them: tune on a split it searched")
    if not tolerance >= 0:
        raise ConfigError(f"tolerance {tolerance}: how much of the metric may be lost is a number from 0 on")
    if scores.shape != run.docs.shape:
        raise ValueError(f"scores of shape {scores.shape} for a run of shape {run.docs.shape}")
    EarlyExit(step, 0.0, keep)  # an error where no margin can do
    scores = np.where(run.docs == NO_DOC, np.nan, scores).astype(np.float32)
    distances = _distances(scores, step, keep)
    lengths = _depths(scores, distances, step, np.inf)

    def quality(depths: IntArray) -> float:
        read = np.where(np.arange(run.depth) < depths[:, None], scores, np.float32(np.nan))
        found = score(rank(run, read, run.depth), qrels, [_METRIC], min_grade=min_grade)[_METRIC]
        return float(found.mean())

    full = quality(lengths)

    def tried(margin: float) -> TunedExit:
        depths = _depths(scores, distances, step, margin)
        means = float(depths.mean()), float(lengths.mean())
        return TunedExit(EarlyExit(step, margin, keep), _METRIC, quality(depths), full, *means)

    return next(found for found in map(tried, _margins(distances)) if found.score >= full - tolerance)


def _distance(scores: FloatArray, step: int, keep: int) -> FloatArray64:
    """How far the best of the last step is below the `keep`-th best so far; 0 or less where it is among them.

    Infinity where the last step has no score, minus infinity where there are fewer than `keep`.

    Shape: (queries, scored so far) -> (queries,).
    """
    rows, width = scores.shape
    if not width:
        return np.full(rows, -np.inf)
    known = np.where(np.isnan(scores), -np.inf, scores).astype(np.float64)
    best = known[:, (width - 1) // step * step :].max(axis=1)
    bar = np.partition(known, width - keep, axis=1)[:, width - keep] if width >= keep else np.full(rows, -np.inf)
    ended = np.isneginf(best)
    return np.where(ended, np.inf, bar - np.where(ended, 0, best))


def _distances(scores: FloatArray, step: int, keep: int) -> FloatArray64:
    """`_distance` after each step. Shape: (queries, depth) -> (queries, steps)."""
    ends = [min(end, scores.shape[1]) for end in range(step, scores.shape[1] + step, step)]
    found = [_distance(scores[:, :end], step, keep) for end in ends]
    return np.stack(found, axis=1) if found else np.zeros((len(scores), 0))


def _depths(scores: FloatArray, distances: FloatArray64, step: int, margin: float) -> IntArray:
    """The last score each query reads, counted from 1 down its list; a margin of infinity reads to the list's end.

    Shape: scores (queries, depth), distances (queries, steps) -> (queries,).
    """
    stops = np.pad((distances > margin) | np.isposinf(distances), ((0, 0), (0, 1)), constant_values=True)
    places = np.arange(1, scores.shape[1] + 1)
    read = np.isfinite(scores) & (places <= (stops.argmax(axis=1)[:, None] + 1) * step)
    depths: IntArray = np.where(read, places, 0).max(axis=1, initial=0)
    return depths


def _margins(distances: FloatArray64) -> list[float]:
    """Margins worth trying, rising: one below all distances, then distances that occur, evenly picked, the last too."""
    found = np.unique(distances[np.isfinite(distances)])
    if not len(found):
        return [0.0]
    picked = found[np.unique(np.linspace(0, len(found) - 1, _MARGINS).round().astype(np.int64))]
    return [float(found[0]) - 1.0, *(float(value) for value in picked)]
