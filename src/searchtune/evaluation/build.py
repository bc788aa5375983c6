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
from searchtune.evaluation.calibration import reliability
from searchtune.evaluation.examples import pick_examples
from searchtune.evaluation.figures import Pairs, Values, compared, corrected, every_pair, figures, figures_of_bins
from searchtune.evaluation.rankings import gather_rankings
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
    TradeOff,
    plain,
)
from searchtune.evaluation.slices import Bins, query_bins
from searchtune.evaluation.trade_offs import CostedRun, measure_trade_off
from searchtune.metrics.curves import precision_curve, recall_curve
from searchtune.metrics.ranking import score
from searchtune.metrics.significance import ROUNDS
from searchtune.types import Collection, FloatArray64, Qrels, Run

BoolArray = npt.NDArray[np.bool_]


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
    headline: str = HEADLINE
    """The metric that verdict, pictures, gains by query, kinds of queries and examples are about."""
    tags: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Query id -> the user's tags, for slices of their own."""
    trade_offs: Mapping[str, Sequence[CostedRun]] = field(default_factory=dict)
    """Reranker -> its runs at several depths, each with its cost; they need not be among `runs`."""
    fusions: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Fusion -> its parts, each of which it is compared with."""
    retrieval: str | None = None
    """The system that rerankers start from, which trade-offs are measured against; None: the reference."""
    notes: Sequence[str] = ()
    """Warnings given while training or measuring."""
    calibration: Mapping[str, tuple[FloatArray64, BoolArray]] = field(default_factory=dict)
    """Name (such as `before`, `after`) -> predicted probabilities of labelled pairs, and whether each is relevant.

    Shape of each: (pairs,).
    """

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
    headline = evidence.headline
    tests: dict[str, Any] = {"pairs": evidence.compared, "seed": seed, "rounds": rounds}

    def part(of: Values) -> Slice:
        found = figures(of, systems=evidence.runs, metrics=evidence.metrics, **tests)
        return found.model_copy(update={"headline_metric": headline})

    overall = part(values)
    labels = _slice_labels(evidence)
    kinds = query_bins(collection, qrels, evidence.tags)
    return Report(
        n=overall.n,
        systems={name: _with_missing(item, evidence.runs[name], qrels) for name, item in overall.systems.items()},
        comparisons=overall.comparisons,
        headline_metric=headline,
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
        documents=len(collection.doc_ids),
        fingerprint=collection.fingerprint,
        breakdown=figures_of_bins(
            {kind: {name: _keep(values, inside) for name, inside in bins.items()} for kind, bins in kinds.items()},
            systems=list(evidence.runs),
            metric=headline,
            **tests,
        ),
        recall_curve={name: recall_curve(run, qrels, collection.min_grade) for name, run in evidence.runs.items()},
        precision_curve={
            name: precision_curve(run, qrels, collection.min_grade) for name, run in evidence.runs.items()
        },
        trade_offs=_trade_offs(evidence, values, seed=seed, rounds=rounds),
        fusions=_fusions(evidence, values, seed=seed, rounds=rounds),
        calibration={name: reliability(*pairs) for name, pairs in evidence.calibration.items()},
        rankings=gather_rankings(
            collection, qrels, runs=evidence.runs, values={name: values[name][headline] for name in values}
        ),
        notes=tuple(evidence.notes),
    )


def _check(evidence: Evidence) -> None:
    """Names must be those of runs, and arrays must fit the judged queries."""
    if not len(evidence.qrels):
        raise DataError(f"{evidence.collection.name}: split {evidence.split!r} has no judged query to evaluate on")
    if evidence.headline not in evidence.metrics:
        raise ConfigError(
            f"the headline metric {evidence.headline!r} is not among the metrics {list(evidence.metrics)}: put it "
            "there, or choose one of them"
        )
    named = [evidence.reference, *evidence.tuned, *(name for pair in evidence.pairs for name in pair)]
    named += [evidence.retrieval] if evidence.retrieval is not None else []
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
            scores={name: round(float(values[name][evidence.headline][i]), 6) for name in values},
            others={
                metric: [round(float(values[name][metric][i]), 6) for name in values]
                for metric in evidence.metrics
                if metric != evidence.headline
            },
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
        gains=values[b][evidence.headline] - values[a][evidence.headline],
        slices=labels,
    )


def _fusions(evidence: Evidence, values: Values, *, seed: int, rounds: int) -> dict[str, list[Comparison]]:
    """Every fusion against each of its parts, corrected for all of these comparisons."""
    pairs = [(part, name) for name, parts in evidence.fusions.items() for part in parts]
    tested = compared(values, pairs=pairs, metrics=[evidence.headline], seed=seed, rounds=rounds)
    found = corrected(tested)
    return {name: [it for it in found if it.b == name] for name in evidence.fusions}


def _trade_offs(evidence: Evidence, values: Values, *, seed: int, rounds: int) -> dict[str, TradeOff]:
    """Every reranker's figures by depth, against retrieval alone, on all judged queries."""
    reference, metric = evidence.retrieval or evidence.reference, evidence.headline
    min_grade = evidence.collection.min_grade

    def score_of(run: Run) -> FloatArray64:
        return score(run, evidence.qrels, [metric], min_grade=min_grade)[metric]

    return {
        name: measure_trade_off(
            name,
            points,
            reference=(reference, values[reference][metric]),
            metric=metric,
            score_of=score_of,
            seed=seed,
            rounds=rounds,
        )
        for name, points in evidence.trade_offs.items()
    }
