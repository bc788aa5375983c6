"""Reports side by side: one system of each, compared query by query on the queries that all of them judged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.figures import every_pair, figures
from searchtune.evaluation.report import Report, Slice
from searchtune.evaluation.wording import belief, change, figure, listed, metric_label, queries, too_few
from searchtune.metrics.ranking import parse_metric
from searchtune.metrics.significance import ROUNDS
from searchtune.types import FloatArray64


@dataclass(frozen=True)
class ComparisonTable:
    """What several reports say on the same queries."""

    collection: str
    metric: str
    systems: Mapping[str, str]
    """Label of a report -> the system that stands for it."""
    figures: Slice
    """Estimates by label, and every two labels compared, p-values corrected with Holm's method."""
    left_out: int
    """Queries that only some of the reports judged."""
    words: Sequence[str]
    """What it means, the most important sentence first."""


def compare_reports(
    reports: Sequence[Report],
    *,
    labels: Sequence[str] | None = None,
    systems: Sequence[str] | None = None,
    metric: str | None = None,
    common: bool = False,
    seed: int = 13,
    rounds: int = ROUNDS,
) -> ComparisonTable:
    """Compare one system of each report with one of every other, paired by query.

    `labels` name the reports (default A, B, ...). `systems` say which system stands for each; by default its first
    tuned one, or its best where nothing was tuned. `metric` is what they are compared by; None: the first report's
    headline metric.

    Raises:
        ConfigError: fewer than two reports, labels that repeat, or a system or metric that is not there.
        DataError: the reports judged other queries or collections and `common` is false, share no query at all, or one
            of them does not keep the metric by query.
    """
    names = list(labels) if labels is not None else [chr(ord("A") + i) for i in range(len(reports))]
    _check(reports, names, systems)
    chosen = [_system(reports[i], systems[i] if systems else None) for i in range(len(reports))]
    measure = _metric(reports, names, metric)
    ids, left_out = shared_queries(reports, names, common=common)
    values = {
        name: {measure: scores_of(report, system, ids, measure)}
        for name, report, system in zip(names, reports, chosen, strict=True)
    }
    part = figures(values, systems=names, pairs=every_pair(names), metrics=(measure,), seed=seed, rounds=rounds)
    part = part.model_copy(update={"headline_metric": measure})
    stands_for = dict(zip(names, chosen, strict=True))
    words = _words(part, stands_for, left_out)
    return ComparisonTable(reports[0].collection, measure, stands_for, part, left_out, words)


def shared_queries(reports: Sequence[Report], names: Sequence[str], *, common: bool) -> tuple[list[str], int]:
    """Ids of the queries that all reports judged, in the first one's order, and how many others there are.

    A `DataError` says what differs where the sets or the collections are not the same and `common` is false.
    """
    sets = [{row.id for row in report.per_query} for report in reports]
    shared, every = set.intersection(*sets), set.union(*sets)
    if not common:
        _must_agree(reports, names, sets)
    if not shared:
        raise DataError(f"{listed(names)} have no judged query in common: they cannot be compared")
    return [row.id for row in reports[0].per_query if row.id in shared], len(every) - len(shared)


def scores_of(report: Report, system: str, ids: Sequence[str], metric: str) -> FloatArray64:
    """One metric of one system for the queries named. Shape: (ids,)."""
    by_id = report.by_query(metric, system)
    return np.array([by_id[query_id] for query_id in ids], dtype=np.float64)


def _check(reports: Sequence[Report], names: Sequence[str], systems: Sequence[str] | None) -> None:
    if len(reports) < 2:
        raise ConfigError(f"{len(reports)} of the two or more reports that a comparison takes")
    if len(names) != len(reports) or len(set(names)) != len(names):
        raise ConfigError(f"labels {list(names)!r} for {len(reports)} reports: give each its own label")
    if systems is not None and len(systems) != len(reports):
        raise ConfigError(f"systems {list(systems)!r} for {len(reports)} reports: name one system for each")


def _system(report: Report, wanted: str | None) -> str:
    if wanted is not None:
        if wanted not in report.systems:
            raise ConfigError(f"the report has no system {wanted!r}{did_you_mean(wanted, report.systems)}")
        return wanted
    return report.tuned[0] if report.tuned else report.ranked()[0]


def _metric(reports: Sequence[Report], names: Sequence[str], wanted: str | None) -> str:
    """What is compared, which every report must have measured."""
    metric = str(parse_metric(wanted)) if wanted is not None else reports[0].headline_metric
    for name, report in zip(names, reports, strict=True):
        if metric not in report.metrics:
            raise ConfigError(f"{name} has no metric {metric!r}{did_you_mean(metric, report.metrics)}")
    return metric


def _must_agree(reports: Sequence[Report], names: Sequence[str], sets: Sequence[set[str]]) -> None:
    for (name, report, ids), (other_name, other, other_ids) in pairwise(zip(names, reports, sets, strict=True)):
        pair = f"{name} and {other_name}"
        remedy = "keep to the queries that both judged (--common), or evaluate both on the same data"
        if (report.collection, report.split) != (other.collection, other.split):
            have = f"{report.collection} {report.split}, the other {other.collection} {other.split}"
            raise DataError(f"{pair} are about different data: {have}; {remedy}")
        if ids != other_ids:
            only, only_other = len(ids - other_ids), len(other_ids - ids)
            raise DataError(
                f"{pair} judged different queries: {only:,} only in {name}, {only_other:,} only in {other_name}, "
                f"{len(ids & other_ids):,} in both; {remedy}"
            )
        if report.fingerprint and other.fingerprint and report.fingerprint != other.fingerprint:
            prints = f"{report.fingerprint[:12]} and {other.fingerprint[:12]}"
            raise DataError(f"{pair} have other documents, texts or labels (fingerprints {prints}); {remedy}")


def _words(part: Slice, systems: Mapping[str, str], left_out: int) -> list[str]:
    best, *rest = part.ranked()
    label = metric_label(part.headline_metric)
    beaten = [name for name in rest if (it := part.comparison(name, best)) is not None and it.significant]
    against = [it for name in rest if (it := part.comparison(name, best)) is not None]
    if len(beaten) == len(rest):
        head = f"{best} is best, beyond chance."
    elif all(too_few(it) for it in against):
        head = f"{queries(part.n)} cannot show which report is better; {best} has the highest mean."
    elif beaten:
        near = listed([name for name in rest if name not in beaten])
        head = f"{best} is ahead, but cannot be told apart from {near}."
    else:
        head = f"No report can be told apart from the best, {best}: the differences are within chance."
    means = ", ".join(f"{name} {figure(part.estimate(name).mean)} ({systems[name]})" for name in (best, *rest))
    on = queries(part.n)
    if left_out:
        on = f"{queries(part.n, 'common')}; {queries(left_out)} that only some of them judged are left out"
    sentences = [head, f"{label} on {on}: {means}."]
    return [*sentences, *(f"{best} against {it.a}: {change(it)}: {belief(it)}." for it in against)]
