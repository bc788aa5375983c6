"""From the labels of people and of judges to a `JudgeReport`: every figure with an interval over queries."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.calibration import reliability
from searchtune.evaluation.judge_report import (
    Bias,
    BiasBin,
    Canary,
    JobFacts,
    JudgeFigures,
    JudgeReport,
    KappaDifference,
    Ranking,
    SystemMeans,
)
from searchtune.metrics import agreement as measure
from searchtune.metrics.judge_bias import canaries, expected_grades, feature_bias
from searchtune.metrics.prediction_powered import prediction_powered
from searchtune.metrics.rank_correlation import rank_correlation
from searchtune.metrics.significance import ROUNDS, bootstrap_columns, holm, holm_levels
from searchtune.types import FloatArray64, IntArray

MOST_TAU_ROUNDS = 2_000
"""Resamples for the order of systems, which takes longer than means."""


@dataclass(frozen=True, eq=False)
class SystemScores:
    """One metric of some search systems by query, with people's labels and with a judge's.

    Shape: (queries, systems) each. A query that people did not label is NaN for all systems in `human`.
    """

    metric: str
    systems: Sequence[str]
    human: FloatArray64
    judge: FloatArray64


@dataclass(frozen=True, eq=False)
class JudgeLabels:
    """What one judge said of the pairs of a `JudgeEvidence`, in the same order."""

    grades: IntArray
    """-1 where there is none. Shape: (pairs,)."""
    kind: str = "judge"
    probabilities: FloatArray64 | None = None
    """Distribution over grades, NaN rows where there is none. Shape: (pairs, grades)."""
    calibrated: FloatArray64 | None = None
    """Probability of being relevant after calibration on *other* queries, NaN where there is none. Shape: (pairs,)."""
    min_grade: int | None = None
    """From which grade on the judge calls a pair relevant; None: as the person does."""
    graded: bool = True
    """Whether its grades are those of the person's scale."""
    reasons: Mapping[str, int] = field(default_factory=dict)
    """Why grades are missing -> pairs."""
    planted: Mapping[str, FloatArray64] = field(default_factory=dict)
    """Kind of canary -> expected grade of the pair with the canary in it, NaN where not tried. Shape: (pairs,)."""
    scores: SystemScores | None = None
    job: JobFacts | None = None


@dataclass(frozen=True, eq=False)
class JudgeEvidence:
    """Everything a report of judges is made from. Arrays are parallel: one entry for each pair."""

    collection: str
    human: IntArray
    """Grades of people, -1 where there is none."""
    queries: IntArray
    judges: Mapping[str, JudgeLabels]
    min_grade: int
    headline: str
    reference: str | None = None
    grades: Sequence[str] = ()
    """What each grade means, lowest first; empty: their numbers."""
    lengths: IntArray | None = None
    """Words of the passage."""
    overlaps: FloatArray64 | None = None
    """Share of the query's words that the passage has."""
    positions: FloatArray64 | None = None
    """Rank in the run that was judged, from 1; NaN where it was not ranked."""
    provenance: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    """Warnings given while training or judging."""


def build_judge_report(evidence: JudgeEvidence, *, seed: int = 0, rounds: int = ROUNDS) -> JudgeReport:
    """Measure every judge against people and compare each with the headline judge.

    Kappas are compared on the pairs that both judges graded, p-values corrected with Holm's method over the judges.

    Raises:
        ConfigError: a headline or reference that is no judge.
        DataError: labels that do not fit the pairs, grades off the scale, probabilities that are none.
    """
    _check(evidence)
    scale = len(evidence.grades) or int(evidence.human.max(initial=0)) + 1
    judges = {
        name: _measure_judge(evidence, labels, scale, seed=seed, rounds=rounds)
        for name, labels in evidence.judges.items()
    }
    return JudgeReport(
        collection=evidence.collection,
        pairs=int((evidence.human >= 0).sum()),
        queries=len(np.unique(evidence.queries[evidence.human >= 0])),
        min_grade=evidence.min_grade,
        grades=list(evidence.grades) or [str(grade) for grade in range(scale)],
        headline=evidence.headline,
        reference=evidence.reference,
        judges=judges,
        comparisons=_compare(evidence, seed=seed, rounds=rounds),
        provenance=dict(evidence.provenance),
        notes=tuple(evidence.notes),
    )


def _check(evidence: JudgeEvidence) -> None:
    for role in (evidence.headline, evidence.reference):
        if role is not None and role not in evidence.judges:
            raise ConfigError(f"no judge is called {role!r}{did_you_mean(role, evidence.judges)}")
    if evidence.headline == evidence.reference:
        raise ConfigError(f"{evidence.headline!r} is compared with itself: name another judge as the reference")
    pairs = len(evidence.human)
    for what, values in (
        ("lengths", evidence.lengths),
        ("overlaps", evidence.overlaps),
        ("positions", evidence.positions),
    ):
        if values is not None and len(values) != pairs:
            raise DataError(f"{len(values):,} {what} for {pairs:,} pairs: give one for each")
    for name, labels in evidence.judges.items():
        parts = {"grades": labels.grades, "probabilities": labels.probabilities, "calibrated": labels.calibrated}
        for what, values in (parts | dict(labels.planted)).items():
            if values is not None and len(values) != pairs:
                raise DataError(f"{name}: {len(values):,} {what} for {pairs:,} pairs: give one for each")
        sums = np.ones(1) if labels.probabilities is None else labels.probabilities.sum(axis=1)
        if (wrong := np.flatnonzero(np.abs(sums - 1) > 1e-3)).size:
            raise DataError(
                f"{name}: the probabilities of pair {wrong[0]} add up to {sums[wrong[0]]:g}: give a distribution over "
                "grades, or a row of NaN where there is none"
            )
        missing = int(((labels.grades < 0) & (evidence.human >= 0)).sum())
        if labels.reasons and sum(labels.reasons.values()) != missing:
            raise DataError(
                f"{name}: reasons for {sum(labels.reasons.values()):,} missing grades, but {missing:,} are missing: "
                "count one reason for each pair with a human grade and none of the judge"
            )


def _measure_judge(evidence: JudgeEvidence, labels: JudgeLabels, scale: int, *, seed: int, rounds: int) -> JudgeFigures:
    human, judged_from = evidence.human, labels.min_grade or evidence.min_grade
    size = max(scale, int(labels.grades.max(initial=0)) + 1)
    found = measure.confusion(human, labels.grades, evidence.queries, grades=size)
    figures = measure.agreement(
        found, human_from=evidence.min_grade, judge_from=judged_from, graded=labels.graded, seed=seed, rounds=rounds
    )
    why = {
        name: measure.why_undefined(found, name, human_from=evidence.min_grade, judge_from=judged_from)
        for name in figures
    }
    missing = int(((labels.grades < 0) & (human >= 0)).sum())
    expected = expected_grades(labels.grades, labels.probabilities)
    return JudgeFigures(
        kind=labels.kind,
        min_grade=judged_from,
        graded=labels.graded,
        judged=int(found.counts.sum()),
        unreadable=dict(labels.reasons) or ({"no grade": missing} if missing else {}),
        figures=figures,
        undefined={name: reason for name, reason in why.items() if reason is not None},
        confusion=found.total.tolist(),
        calibration=_calibration(evidence, labels, judged_from),
        bias=_biases(evidence, expected, seed=seed, rounds=rounds) if labels.graded else [],
        canaries={
            kind: Canary(**canaries(expected, planted, evidence.queries, seed=seed, rounds=rounds)._asdict())
            for kind, planted in labels.planted.items()
        },
        ranking=_ranking(labels.scores, seed=seed, rounds=rounds) if labels.scores is not None else None,
        job=labels.job,
    )


def _calibration(evidence: JudgeEvidence, labels: JudgeLabels, judged_from: int) -> dict[str, Any]:
    """How far the probability of being relevant can be believed, before and after it was calibrated."""
    given: dict[str, FloatArray64] = {}
    if labels.probabilities is not None:
        given["before"] = labels.probabilities[:, judged_from:].sum(axis=1).clip(0, 1)
    if labels.calibrated is not None:
        given["after"] = labels.calibrated
    found = {}
    for name, chances in given.items():
        keep = (evidence.human >= 0) & ~np.isnan(chances)
        found[name] = reliability(chances[keep], evidence.human[keep] >= evidence.min_grade)
    return found


def _biases(evidence: JudgeEvidence, expected: FloatArray64, *, seed: int, rounds: int) -> list[Bias]:
    """The features that the evidence holds; those that act by ratios as logarithms to base 2."""
    given: list[tuple[str, str, FloatArray64]] = []
    if evidence.lengths is not None:
        given.append(("passage length", "doubling", np.log2(np.maximum(evidence.lengths, 1).astype(np.float64))))
    if evidence.overlaps is not None:
        given.append(("shared words", "step from none to all", np.asarray(evidence.overlaps, np.float64)))
    if evidence.positions is not None:
        given.append(("rank", "doubling", np.log2(np.maximum(evidence.positions, 1))))
    biases = []
    for feature, unit, values in given:
        found = feature_bias(evidence.human, expected, evidence.queries, values, seed=seed, rounds=rounds)
        back = (lambda value: 2.0**value) if unit == "doubling" else float
        bins = [BiasBin(**it._replace(low=back(it.low), high=back(it.high))._asdict()) for it in found.bins]
        biases.append(Bias(feature=feature, unit=unit, pairs=found.pairs, slope=found.slope, bins=bins))
    return biases


def _ranking(scores: SystemScores, *, seed: int, rounds: int) -> Ranking:
    """Systems by people's and by the judge's labels: correlations on queries that have both, means on what there is."""
    shape = (len(scores.judge), len(scores.systems))
    if scores.human.shape != shape or scores.judge.shape != shape:
        raise DataError(
            f"system scores of shapes {scores.human.shape} and {scores.judge.shape} for {shape[1]} systems: give "
            "(queries, systems) twice"
        )
    both = np.isfinite(scores.human.sum(axis=1))
    found = rank_correlation(scores.human[both], scores.judge[both], seed=seed, rounds=min(rounds, MOST_TAU_ROUNDS))
    human = bootstrap_columns(scores.human[both], seed=seed, rounds=rounds)
    judge = bootstrap_columns(scores.judge, seed=seed, rounds=rounds)
    systems = {}
    for column, name in enumerate(scores.systems):
        powered = None if both.all() else prediction_powered(scores.human[:, column], scores.judge[:, column])
        systems[name] = SystemMeans(
            human=human[column],
            judge=judge[column],
            corrected=None if powered is None else powered.estimate,
            effective=math.nan if powered is None else powered.effective,
        )
    return Ranking(metric=scores.metric, queries=len(scores.judge), systems=systems, tau=found.tau, tau_ap=found.tau_ap)


def _compare(evidence: JudgeEvidence, *, seed: int, rounds: int) -> list[KappaDifference]:
    """The headline judge against every other, the reference first."""
    lead = evidence.judges[evidence.headline]
    others = [name for name in evidence.judges if name != evidence.headline]
    others.sort(key=lambda name: name != evidence.reference)
    found = []
    for name in others:
        other = evidence.judges[name]
        both = (lead.grades >= 0) & (other.grades >= 0)
        a, b = (
            measure.confusion(evidence.human, np.where(both, it.grades, -1), evidence.queries).relevant_from(
                evidence.min_grade, it.min_grade or evidence.min_grade
            )
            for it in (other, lead)
        )
        found.append((name, int(a.counts.sum()), measure.difference(a, b, seed=seed, rounds=rounds)))
    p_values = [it.p_value for _, _, it in found]
    return [
        KappaDifference(
            a=name, b=evidence.headline, pairs=pairs, p_value=it.p_value, p_holm=p, estimate=it.interval(alpha)
        )
        for (name, pairs, it), p, alpha in zip(found, holm(p_values), holm_levels(p_values), strict=True)
    ]
