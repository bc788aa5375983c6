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
from searchtune.evaluation.figures import Pairs, Values, corrected_over_bins, every_pair, figures
from searchtune.evaluation.rankings import gather_rankings
from searchtune.evaluation.report import (
    HEADLINE,
    METRICS,
    Examples,
    QueryScores,
    Report,
    Slice,
    SliceName,
    SystemScores,
    plain,
)
from searchtune.evaluation.slices import Bins, query_bins
from searchtune.metrics.labels import rank_labels
from searchtune.metrics.ranking import score
from searchtune.metrics.significance import ROUNDS
from searchtune.types import Collection, Qrels, Run

BoolArray = npt.NDArray[np.bool_]
CURVE_DEPTH = 100
"""Deepest rank of the recall curve."""


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
    """Further comparisons (reference, candidate), such as ("hybrid", "tuned+bm25").

    Where there are none and nothing is tuned, every two systems are compared.
    """
    seen: BoolArray | None = None
    """Whether each judged query shares a relevant document with training. Shape: (judged,). None: not known."""
    residual: tuple[Qrels, Mapping[str, Run]] | None = None
    """Labels and runs without the documents that training saw as positives."""
    training: Mapping[str, Any] = field(default_factory=dict)
    """`curve` (rows of step, loss, lr and now and then dev), `dev_metric`, and further facts such as `seconds`."""
    costs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Per system: `search_ms_per_query`, `index_mb`, `exact_loss` (metric -> what an approximate index lost), ..."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[str] = METRICS
    """What is measured; the headline metric must be among them."""
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Query id -> the user's tags, for slices of their own."""

    @property
    def compared(self) -> Pairs:
        """Every pair that is compared, each once."""
        asked = [*((self.reference, name) for name in self.tuned), *self.pairs]
        return list(dict.fromkeys(asked)) or every_pair(self.runs)


def build_report(evidence: Evidence, *, seed: int = 13, rounds: int = ROUNDS) -> Report:
    """Score every system, estimate every mean, test every pair, on all queries and on each slice."""
    _check(evidence)
    collection, qrels, seen = evidence.collection, evidence.qrels, evidence.seen
    values = _score(evidence.runs, qrels, evidence)
    sliced = {
        "unseen": {} if seen is None else _keep(values, ~seen),
        "seen": {} if seen is None else _keep(values, seen),
        "residual": _score(evidence.residual[1], evidence.residual[0], evidence) if evidence.residual else {},
    }

    def part(of: Values, metrics: Sequence[str] = evidence.metrics) -> Slice:
        return figures(of, systems=evidence.runs, pairs=evidence.compared, metrics=metrics, seed=seed, rounds=rounds)

    overall = part(values)
    labels = _slice_labels(evidence)
    kinds = query_bins(collection, qrels, evidence.tags)
    return Report(
        n=overall.n,
        systems={name: _with_missing(item, evidence.runs[name], qrels) for name, item in overall.systems.items()},
        comparisons=overall.comparisons,
        collection=collection.name,
        split=evidence.split,
        reference=evidence.reference,
        tuned=list(evidence.tuned),
        metrics=list(evidence.metrics),
        overlap_measured=seen is not None,
        slices={name: part(of) for name, of in sliced.items()},
        per_query=_per_query(evidence, values, labels, kinds),
        examples=_examples(evidence, values, labels),
        training=plain(evidence.training),
        costs=plain(evidence.costs),
        provenance=plain(evidence.provenance),
        fingerprint=collection.fingerprint,
        breakdown={
            kind: corrected_over_bins({name: part(_keep(values, inside), (HEADLINE,)) for name, inside in bins.items()})
            for kind, bins in kinds.items()
        },
        recall_curve={name: recall_curve(run, qrels, collection.min_grade) for name, run in evidence.runs.items()},
        rankings=gather_rankings(
            collection, qrels, runs=evidence.runs, values={name: values[name][HEADLINE] for name in values}
        ),
    )


def recall_curve(run: Run, qrels: Qrels, min_grade: int = 1) -> list[float]:
    """Mean recall at rank 1, 2, ..., up to the run's depth or `CURVE_DEPTH`.

    A judged query without a relevant document, or that the run lacks, counts 0, as in `recall@k`.
    """
    labels = rank_labels(run, qrels, min_grade=min_grade, depth=CURVE_DEPTH)
    hits = labels.relevant
    shares = 1 / np.maximum(labels.relevant_count, 1)[hits.rows]  # of its query
    depth = min(run.depth, CURVE_DEPTH)
    added = np.bincount(hits.ranks - 1, weights=shares, minlength=depth)  # (depth,)
    return [round(float(share), 6) for share in np.cumsum(added) / max(1, len(qrels))]


def _check(evidence: Evidence) -> None:
    """Names must be those of runs, and arrays must fit the judged queries."""
    if not len(evidence.qrels):
        raise DataError(f"{evidence.collection.name}: split {evidence.split!r} has no judged query to evaluate on")
    if HEADLINE not in evidence.metrics:
        raise ConfigError(f"a report is about {HEADLINE}: put it among the metrics, which are {list(evidence.metrics)}")
    named = [evidence.reference, *evidence.tuned, *(name for pair in evidence.pairs for name in pair)]
    for name in named:
        if name not in evidence.runs:
            raise ConfigError(f"there is no run of a system {name!r}{did_you_mean(name, evidence.runs)}")
    if evidence.seen is not None and evidence.seen.shape != evidence.qrels.queries.shape:
        shape, judged = evidence.seen.shape, len(evidence.qrels)
        raise ValueError(f"seen has shape {shape}, expected ({judged},): one value per judged query")


def _score(runs: Mapping[str, Run], qrels: Qrels, evidence: Evidence) -> Values:
    min_grade = evidence.collection.min_grade
    return {name: score(run, qrels, evidence.metrics, min_grade=min_grade) for name, run in runs.items()}


def _keep(values: Values, keep: BoolArray) -> Values:
    return {name: {metric: array[keep] for metric, array in arrays.items()} for name, arrays in values.items()}


def _with_missing(scores: SystemScores, run: Run, qrels: Qrels) -> SystemScores:
    missing = ~np.isin(qrels.queries, run.queries)
    return scores.model_copy(update={"missing": int(missing.sum())})


def _slice_labels(evidence: Evidence) -> list[SliceName]:
    if evidence.seen is None:
        return ["unknown"] * len(evidence.qrels)
    return ["seen" if seen else "unseen" for seen in evidence.seen]


def _per_query(
    evidence: Evidence, values: Values, labels: Sequence[SliceName], kinds: Mapping[str, Bins]
) -> list[QueryScores]:
    collection = evidence.collection
    return [
        QueryScores(
            id=collection.query_ids[query],
            text=collection.query_texts[query],
            slice=labels[i],
            scores={name: round(float(values[name][HEADLINE][i]), 6) for name in values},
            bins={kind: [name for name, inside in bins.items() if inside[i]] for kind, bins in kinds.items()},
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
