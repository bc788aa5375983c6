"""Estimates and paired comparisons from values by query: what every part of a report is made of.

P-values are corrected with Holm's method over all comparisons of one metric on the same queries.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from searchtune.evaluation.report import Comparison, Slice, SystemScores
from searchtune.metrics.significance import (
    ROUNDS,
    Estimate,
    bootstrap_columns,
    effect_size_columns,
    holm,
    minimum_detectable_effect,
    paired_randomisation_columns,
    paired_t_columns,
    win_tie_loss,
)
from searchtune.types import FloatArray64

Values = Mapping[str, Mapping[str, FloatArray64]]
"""System -> metric -> one value per query."""
Pairs = Sequence[tuple[str, str]]
"""(reference, candidate) names of systems."""
NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


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
    differences = {
        (a, b, metric): values[b][metric] - values[a][metric]
        for a, b in pairs
        for metric in metrics
        if a in values and b in values
    }
    intervals = bootstrap_columns(_columns([*scores.values(), *differences.values()]), seed=seed, rounds=rounds)
    estimates = dict(zip([*scores, *differences], intervals, strict=True))
    columns = _columns(list(differences.values()))
    randomised = paired_randomisation_columns(columns, seed=seed, rounds=rounds)
    by_pair = zip(randomised, paired_t_columns(columns), effect_size_columns(columns), strict=True)
    tests = dict(zip(differences, by_pair, strict=True))

    def compare(key: tuple[str, str, str]) -> Comparison:
        difference, interval = differences.get(key, np.empty(0)), estimates.get(key, NOTHING)
        p_value, p_t, size = tests.get(key, (np.nan, np.nan, np.nan))
        return Comparison(
            a=key[0],
            b=key[1],
            metric=key[2],
            delta=interval.mean,
            low=interval.low,
            high=interval.high,
            n=interval.n,
            p_value=p_value,
            p_t=p_t,
            mde=minimum_detectable_effect(difference),
            effect_size=size,
            **win_tie_loss(np.zeros_like(difference), difference)._asdict(),
        )

    by_metric = {metric: corrected([compare((a, b, metric)) for a, b in pairs]) for metric in metrics}
    return Slice(
        n=len(next(iter(scores.values()), ())),
        systems={
            name: SystemScores(metrics={metric: estimates.get((name, metric), NOTHING) for metric in metrics})
            for name in systems
        },
        comparisons=[by_metric[metric][i] for i in range(len(pairs)) for metric in metrics],
    )


def corrected(family: Sequence[Comparison]) -> list[Comparison]:
    """The comparisons with their p-values corrected for each other's number (Holm)."""
    adjusted = holm([it.p_value for it in family])
    return [it.model_copy(update={"p_holm": p}) for it, p in zip(family, adjusted, strict=True)]


def corrected_over_bins(bins: Mapping[str, Slice]) -> dict[str, Slice]:
    """Slices of one kind, each pair's p-values corrected over the bins instead of over the pairs of a bin."""
    names = list(bins)
    if not names:
        return {}
    rows = zip(*(bins[name].comparisons for name in names), strict=True)  # one row a pair and metric
    columns = list(zip(*(corrected(row) for row in rows), strict=True)) or [()] * len(names)
    return {
        name: bins[name].model_copy(update={"comparisons": list(column)})
        for name, column in zip(names, columns, strict=True)
    }


def every_pair(systems: Iterable[str]) -> list[tuple[str, str]]:
    """All pairs, the one shown first as the reference: what is compared where nothing was tuned."""
    return list(combinations(systems, 2))


def _columns(arrays: Sequence[FloatArray64]) -> FloatArray64:
    """Shape: (n, arrays)."""
    return np.stack(arrays, axis=1) if arrays else np.empty((0, 0))
