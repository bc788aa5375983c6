"""From runs to a `Report`: scores, intervals and paired tests on all queries and on each slice.

Every tuned system is scored on all judged queries, on those whose relevant documents training never saw (`unseen`), on
the rest (`seen`), and on the residual collection, from which the documents that training saw as positives are taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.examples import pick_examples
from searchtune.evaluation.report import (
    HEADLINE,
    METRICS,
    Comparison,
    Examples,
    QueryScores,
    Report,
    Slice,
    SliceName,
    SystemScores,
    plain,
)
from searchtune.metrics.ranking import score
from searchtune.metrics.significance import (
    ROUNDS,
    Estimate,
    bootstrap_columns,
    minimum_detectable_effect,
    paired_randomisation_columns,
    win_tie_loss,
)
from searchtune.types import Collection, FloatArray64, Qrels, Run

BoolArray = npt.NDArray[np.bool_]
Values = Mapping[str, Mapping[str, FloatArray64]]
"""System -> metric -> one value per judged query."""
NOTHING = Estimate(np.nan, np.nan, np.nan, 0)


@dataclass(frozen=True, eq=False)
class Evidence:
    """All that a report is made from. Runs and `seen` are parallel to, or looked up by, the queries of `qrels`."""

    collection: Collection
    split: str
    qrels: Qrels
    runs: Mapping[str, Run]
    """Every system's run, in the order in which they shall be shown."""
    reference: str = "base"
    tuned: Sequence[str] = ()
    """The tuned systems, each compared with the reference; the first one is the headline."""
    pairs: Sequence[tuple[str, str]] = ()
    """Further comparisons (reference, candidate), such as ("hybrid", "tuned+bm25")."""
    seen: BoolArray | None = None
    """Whether each judged query shares a relevant document with training. Shape: (judged,). None: not known."""
    residual: tuple[Qrels, Mapping[str, Run]] | None = None
    """Labels and runs without the documents that training saw as positives."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """`curve` (rows of step, loss, lr and now and then dev), `dev_metric`, and further facts such as `seconds`."""
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per system: `seconds`, `queries_per_second`, `index_mb`, ..."""
    provenance: Mapping[str, Any] = field(default_factory=dict)


def build_report(evidence: Evidence, *, seed: int = 13, rounds: int = ROUNDS) -> Report:
    """Score every system, estimate every mean, test every pair, on all queries and on each slice."""
    _check(evidence)
    collection, qrels, seen = evidence.collection, evidence.qrels, evidence.seen
    values = _score(evidence.runs, qrels, collection.min_grade)
    sliced = {
        "unseen": {} if seen is None else _keep(values, ~seen),
        "seen": {} if seen is None else _keep(values, seen),
        "residual": _score(evidence.residual[1], evidence.residual[0], collection.min_grade)
        if evidence.residual
        else {},
    }
    overall = _figures(evidence, values, seed=seed, rounds=rounds)
    labels = _slice_labels(evidence)
    return Report(
        n=overall.n,
        systems={name: _with_missing(item, evidence.runs[name], qrels) for name, item in overall.systems.items()},
        comparisons=overall.comparisons,
        collection=collection.name,
        split=evidence.split,
        reference=evidence.reference,
        tuned=list(evidence.tuned),
        metrics=list(METRICS),
        overlap_measured=seen is not None,
        slices={name: _figures(evidence, part, seed=seed, rounds=rounds) for name, part in sliced.items()},
        per_query=_per_query(evidence, values, labels),
        examples=_examples(evidence, values, labels),
        training=plain(evidence.training),
        costs=plain(evidence.costs),
        provenance=plain(evidence.provenance),
    )


def _check(evidence: Evidence) -> None:
    """Names must be those of runs, and arrays must fit the judged queries."""
    if not len(evidence.qrels):
        raise DataError(f"{evidence.collection.name}: split {evidence.split!r} has no judged query to evaluate on")
    named = [evidence.reference, *evidence.tuned, *(name for pair in evidence.pairs for name in pair)]
    for name in named:
        if name not in evidence.runs:
            raise ConfigError(f"there is no run of a system {name!r}{did_you_mean(name, evidence.runs)}")
    if evidence.seen is not None and evidence.seen.shape != evidence.qrels.queries.shape:
        shape, judged = evidence.seen.shape, len(evidence.qrels)
        raise ValueError(f"seen has shape {shape}, expected ({judged},): one value per judged query")


def _score(runs: Mapping[str, Run], qrels: Qrels, min_grade: int) -> Values:
    return {name: score(run, qrels, METRICS, min_grade=min_grade) for name, run in runs.items()}


def _keep(values: Values, keep: BoolArray) -> Values:
    return {name: {metric: array[keep] for metric, array in arrays.items()} for name, arrays in values.items()}


def _with_missing(scores: SystemScores, run: Run, qrels: Qrels) -> SystemScores:
    missing = ~np.isin(qrels.queries, run.queries)
    return scores.model_copy(update={"missing": int(missing.sum())})


def _figures(evidence: Evidence, values: Values, *, seed: int, rounds: int) -> Slice:
    """Every system's estimates and every pair's comparison; a system that has no values here gets n 0."""
    pairs = dict.fromkeys([*((evidence.reference, name) for name in evidence.tuned), *evidence.pairs])
    scores = {(name, metric): array for name, arrays in values.items() for metric, array in arrays.items()}
    differences = {
        (a, b, metric): values[b][metric] - values[a][metric]
        for a, b in pairs
        for metric in METRICS
        if a in values and b in values
    }
    columns = [*scores.values(), *differences.values()]
    intervals = bootstrap_columns(_columns(columns), seed=seed, rounds=rounds)
    estimates = dict(zip([*scores, *differences], intervals, strict=True))
    tests = paired_randomisation_columns(_columns(list(differences.values())), seed=seed, rounds=rounds)
    p_values = dict(zip(differences, tests, strict=True))

    def compare(key: tuple[str, str, str]) -> Comparison:
        difference, interval = differences.get(key, np.empty(0)), estimates.get(key, NOTHING)
        return Comparison(
            a=key[0],
            b=key[1],
            metric=key[2],
            delta=interval.mean,
            low=interval.low,
            high=interval.high,
            n=interval.n,
            p_value=p_values.get(key, np.nan),
            mde=minimum_detectable_effect(difference),
            **win_tie_loss(np.zeros_like(difference), difference)._asdict(),
        )

    return Slice(
        n=len(next(iter(scores.values()), ())),
        systems={
            name: SystemScores(metrics={metric: estimates.get((name, metric), NOTHING) for metric in METRICS})
            for name in evidence.runs
        },
        comparisons=[compare((a, b, metric)) for a, b in pairs for metric in METRICS],
    )


def _columns(arrays: Sequence[FloatArray64]) -> FloatArray64:
    """Shape: (n, arrays)."""
    return np.stack(arrays, axis=1) if arrays else np.empty((0, 0))


def _slice_labels(evidence: Evidence) -> list[SliceName]:
    if evidence.seen is None:
        return ["unknown"] * len(evidence.qrels)
    return ["seen" if seen else "unseen" for seen in evidence.seen]


def _per_query(evidence: Evidence, values: Values, labels: Sequence[SliceName]) -> list[QueryScores]:
    collection = evidence.collection
    return [
        QueryScores(
            id=collection.query_ids[query],
            text=collection.query_texts[query],
            slice=labels[i],
            scores={name: round(float(values[name][HEADLINE][i]), 6) for name in values},
        )
        for i, query in enumerate(evidence.qrels.queries)
    ]


def _examples(evidence: Evidence, values: Values, labels: Sequence[SliceName]) -> Examples | None:
    """What the reference and the first tuned system ranked on top, where their difference was largest."""
    if not evidence.tuned:
        return None
    a, b = evidence.reference, evidence.tuned[0]
    return pick_examples(
        evidence.collection,
        evidence.qrels,
        runs=((a, evidence.runs[a]), (b, evidence.runs[b])),
        gains=values[b][HEADLINE] - values[a][HEADLINE],
        slices=labels,
    )
