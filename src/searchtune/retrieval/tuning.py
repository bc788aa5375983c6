"""Finding the weights of a fusion, or the k of reciprocal ranks, on labelled queries.

What is found is fitted to those queries: report it on others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations, pairwise
from typing import Any

import numpy as np

from searchtune.errors import ConfigError, DataError
from searchtune.metrics import score
from searchtune.retrieval.fusion import Candidates, Method, Normalisation
from searchtune.types import NO_DOC, Qrels, Run

RRF_KS = (0, 1, 2, 5, 10, 20, 40, 60, 100, 200, 500)
"""The values of k that are tried."""
_MOST = 5000
"""Weightings that are tried at most."""


@dataclass(frozen=True)
class TunedFusion:
    """The best fusion that was tried; `fuse(runs, **tuned.options)` applies it."""

    method: Method
    normalisation: Normalisation
    weights: tuple[float, ...]
    """One for each run; they sum to 1."""
    k: float
    metric: str
    score: float
    """Mean of the metric over the judged queries that it was fitted on."""
    equal_score: float
    """The same with equal weights and k = 60: what tuning set out from."""
    tried: int

    @property
    def options(self) -> dict[str, Any]:
        """Arguments for `fuse`."""
        return {
            "method": self.method,
            "normalisation": self.normalisation,
            "weights": self.weights,
            "k": self.k,
        }


def tune_weights(
    runs: Sequence[Run],
    qrels: Qrels,
    metric: str = "ndcg@10",
    *,
    method: Method = "combsum",
    normalisation: Normalisation = "min-max",
    steps: int = 10,
    depth: int = 100,
    min_grade: int = 1,
) -> TunedFusion:
    """The weights, in steps of 1 / `steps` and summing to 1, under which the fused run scores best on `qrels`.

    For `rrf` the weights stay equal and k is chosen out of `RRF_KS`. Of equally good choices the one nearest to equal
    weights (to k = 60) is taken.

    Raises:
        ConfigError: an unknown metric or method, or a grid of more than 5000 weightings.
        DataError: no query has labels, or a run ranks nothing for those that have.
    """
    silent = [not (run.docs[np.isin(run.queries, qrels.queries)] != NO_DOC).any() for run in runs]
    if all(silent):
        raise DataError(
            f"{len(qrels)} queries have labels and the runs hold none of them: tune on a split that was searched"
        )
    if any(silent):
        raise DataError(
            f"run {silent.index(True) + 1} of {len(runs)} ranks nothing for the {len(qrels)} queries that weights are "
            "fitted on: add them to it, or give the weights as numbers"
        )

    def quality(candidates: Candidates, weights: tuple[float, ...]) -> float:
        return float(score(candidates.fuse(weights), qrels, [metric], min_grade=min_grade)[metric].mean())

    equal = tuple([1 / len(runs)] * len(runs))
    usual = Candidates(runs, method, normalisation=normalisation, depth=depth)
    start = quality(usual, equal)
    best, tried = (start, equal, 60.0), 1
    if method == "rrf":
        for k in sorted(RRF_KS, key=lambda k: abs(k - 60)):
            found = quality(Candidates(runs, method, depth=depth, k=k), equal)
            best, tried = max(best, (found, equal, float(k)), key=lambda choice: choice[0]), tried + 1
    else:
        for weights in _simplex(len(runs), steps):
            best, tried = max(best, (quality(usual, weights), weights, 60.0), key=lambda choice: choice[0]), tried + 1
    return TunedFusion(method, normalisation, best[1], best[2], metric, best[0], start, tried)


def _simplex(runs: int, steps: int) -> list[tuple[float, ...]]:
    """All weights in steps of 1 / `steps` that sum to 1, those nearest to equal first."""
    if steps < 1:
        raise ConfigError(f"steps {steps}: the grid needs at least 1 step between 0 and 1")
    size = math.comb(steps + runs - 1, runs - 1)
    if size > _MOST:
        raise ConfigError(
            f"{runs} runs in {steps} steps make {size} weightings, and {_MOST} are tried at most: take fewer steps"
        )
    grid = []
    for bars in combinations(range(steps + runs - 1), runs - 1):
        places = (-1, *bars, steps + runs - 1)
        grid.append(tuple((b - a - 1) / steps for a, b in pairwise(places)))
    return sorted(grid, key=lambda weights: sum((w - 1 / runs) ** 2 for w in weights))
