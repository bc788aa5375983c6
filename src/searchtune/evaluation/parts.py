"""Which parts of a report say something: slices that repeat nothing, stars that set apart, cutoffs that cut."""

from __future__ import annotations

from searchtune.evaluation.report import ALL, Report, Slice
from searchtune.evaluation.wording import figure, metric_label
from searchtune.metrics.ranking import parse_metric

_WHOLE = ("recall", "hit", "precision", "judged")
"""Metrics that look at the first k as a set: where k is the whole collection, the order has no say."""


def shown_parts(report: Report) -> dict[str, Slice]:
    """All queries and the slices that say anything else: with no seen query, `unseen` would repeat all."""
    if not report.tuned:
        return {ALL: report}  # without training no query is seen
    slices = {name: part for name, part in report.slices.items() if part.n}
    repeats = [name for name in ("unseen", "seen") if name in slices and slices[name].n == report.n]
    return {ALL: report} | {name: part for name, part in slices.items() if name not in repeats}


def leaders(part: Slice, metric: str, report: Report) -> set[str]:
    """The systems that a star marks: those of the highest mean, none where all are alike or the cutoff cuts nothing."""
    shown = {name: figure(it.metrics[metric].mean) for name, it in part.systems.items() if it.metrics[metric].n}
    if len(set(shown.values())) < 2 or cuts_nothing(report, metric):
        return set()
    best = figure(part.best(metric))
    return {name for name, text in shown.items() if text == best}


def cuts_nothing(report: Report, metric: str) -> bool:
    """Whether the metric looks at so many documents that it takes in the whole collection, in whatever order."""
    parsed, documents = parse_metric(metric), _documents(report)
    return parsed.name in _WHOLE and parsed.cutoff is not None and 0 < documents <= parsed.cutoff


def cutoff_notes(report: Report) -> list[str]:
    """One sentence for every metric that looks at the whole collection."""
    return [
        f"{metric_label(metric)} takes in all {_documents(report):,} documents of this collection, in whatever order: "
        "it tells no system from another. Choose a smaller cutoff."
        for metric in report.metrics
        if cuts_nothing(report, metric)
    ]


def _documents(report: Report) -> int:
    """0 where an older report does not say."""
    known = report.documents or report.provenance.get("documents", 0)
    return known if isinstance(known, int) else 0
