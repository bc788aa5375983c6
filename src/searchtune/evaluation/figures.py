"""Estimates and paired comparisons from values by query: what every part of a report is made of.

P-values are corrected with Holm's method over all comparisons of one metric on the same queries, and intervals are
widened to the level at which that decides, so that an interval leaves out 0 exactly where the difference counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from searchtune.evaluation.report import Comparison, Slice, SystemScores
from searchtune.metrics.cluster import Exchange
from searchtune.metrics.power import minimum_detectable_effect
from searchtune.metrics.significance import (
    ROUNDS,
    Estimate,
    Shifts,
    bootstrap_columns,
    effect_size_columns,
    holm,
    holm_levels,
    paired_t_columns,
    sign_flips,
    win_tie_loss,
)
from searchtune.types import FloatArray64

Values = Mapping[str, Mapping[str, FloatArray64]]
"""System -> metric -> one value per query."""
Pairs = Sequence[tuple[str, str]]
"""(reference, candidate) names of systems."""
NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


class PairTest(NamedTuple):
    """A comparison that was tested by itself, with what it takes to correct it for others."""

    comparison: Comparison
    test: Shifts | Exchange
    differences: FloatArray64
    """What is averaged; empty where the figure is no mean over queries. Shape: (queries,)."""


def figures(
    values: Values,
    *,
    systems: Iterable[str],
    pairs: Pairs,
    metrics: Sequence[str],
    seed: int,
    rounds: int = ROUNDS,
) -> Slice:
    """Every system's estimates and every pair's comparison; a system that has no values here gets n 0."""
    scores = {(name, metric): values[name][metric] for name in values for metric in metrics}
    intervals = bootstrap_columns(_columns(list(scores.values())), seed=seed, rounds=rounds)
    estimates = dict(zip(scores, intervals, strict=True))
    tested = compared(values, pairs=pairs, metrics=metrics, seed=seed, rounds=rounds)
    by_metric = {metric: corrected([it for it in tested if it.comparison.metric == metric]) for metric in metrics}
    return Slice(
        n=len(next(iter(scores.values()), ())),
        systems={
            name: SystemScores(metrics={metric: estimates.get((name, metric), NOTHING) for metric in metrics})
            for name in systems
        },
        comparisons=[by_metric[metric][i] for i in range(len(pairs)) for metric in metrics],
    )


def compared(
    values: Values, *, pairs: Pairs, metrics: Sequence[str], seed: int, rounds: int = ROUNDS
) -> list[PairTest]:
    """Every pair by every metric, each tested by itself; pairs without values here have n 0."""
    keys = [(a, b, metric) for a, b in pairs for metric in metrics]
    known = [(a, b, metric) for a, b, metric in keys if a in values and b in values]
    columns = _columns([values[b][metric] - values[a][metric] for a, b, metric in known])
    by_key = dict(zip(known, tested_columns(known, columns, seed=seed, rounds=rounds), strict=True))
    nothing = np.empty((0, 1))
    return [by_key[key] if key in by_key else tested_columns([key], nothing, seed=seed)[0] for key in keys]


def tested_columns(
    keys: Sequence[tuple[str, str, str]], differences: FloatArray64, *, seed: int, rounds: int = ROUNDS
) -> list[PairTest]:
    """Each column's comparison, tested by itself. Keys are (reference, candidate, metric). Shape: (n, keys)."""
    shifts = sign_flips(differences, seed=seed, rounds=rounds)
    others = zip(keys, shifts, paired_t_columns(differences), effect_size_columns(differences), strict=True)
    found = []
    for place, ((a, b, metric), shift, p_t, size) in enumerate(others):
        column, interval = differences[:, place], shift.interval()
        comparison = Comparison(
            a=a,
            b=b,
            metric=metric,
            delta=interval.mean,
            low=interval.low,
            high=interval.high,
            n=interval.n,
            p_value=shift.p_value,
            p_t=p_t,
            mde=np.nan,
            effect_size=size,
            **win_tie_loss(np.zeros_like(column), column)._asdict(),
        )
        found.append(PairTest(comparison, shift, column))
    return found


def corrected(family: Sequence[PairTest]) -> list[Comparison]:
    """The comparisons corrected for each other's number: p-value (Holm), interval, and what effect could be shown."""
    p_values = [it.test.p_value for it in family]
    found = []
    for it, p_holm, alpha in zip(family, holm(p_values), holm_levels(p_values), strict=True):
        interval = it.test.interval(alpha)
        mde = minimum_detectable_effect(it.differences, alpha) if len(it.differences) else np.nan
        changes = {"p_holm": p_holm, "alpha": alpha, "low": interval.low, "high": interval.high, "mde": mde}
        found.append(it.comparison.model_copy(update=changes))
    return found


def figures_of_bins(
    kinds: Mapping[str, Mapping[str, Values]],
    *,
    systems: Sequence[str],
    pairs: Pairs,
    metric: str,
    seed: int,
    rounds: int = ROUNDS,
) -> dict[str, dict[str, Slice]]:
    """One metric in every bin of every kind; each pair's comparisons are corrected over all bins of all kinds.

    The bin that gained or lost most is picked out of all of them.
    """
    bins = [(kind, name) for kind, named in kinds.items() for name in named]
    parts = {
        (kind, name): figures(kinds[kind][name], systems=systems, pairs=[], metrics=(metric,), seed=seed, rounds=rounds)
        for kind, name in bins
    }
    tested = [
        compared(kinds[kind][name], pairs=pairs, metrics=(metric,), seed=seed, rounds=rounds) for kind, name in bins
    ]
    by_pair = [corrected(family) for family in zip(*tested, strict=True)]
    for place, (kind, name) in enumerate(bins):
        changes = {"comparisons": [family[place] for family in by_pair], "headline_metric": metric}
        parts[kind, name] = parts[kind, name].model_copy(update=changes)
    return {kind: {name: parts[kind, name] for name in named} for kind, named in kinds.items()}


def every_pair(systems: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs, the one shown first as the reference: what is compared where nothing was tuned."""
    return list(combinations(systems, 2))


def _columns(arrays: Sequence[FloatArray64]) -> FloatArray64:
    """Shape: (n, arrays)."""
    return np.stack(arrays, axis=1) if arrays else np.empty((0, 0))
