"""What a report means, in plain words: did tuning help, can that be believed, and is it learning or memory?

A system that has seen a query's answer during training may have memorised it. So a gain counts as learning only where
it holds on `unseen` queries; one that lives only in `seen` queries is called that.
"""

from __future__ import annotations

from enum import StrEnum

from searchtune.evaluation.report import HEADLINE, Comparison, Report
from searchtune.evaluation.wording import change, figure, metric_label, queries, signed


class Outcome(StrEnum):
    """The one thing that a report says."""

    GAIN = "gain"
    """Better, and on unseen queries too."""
    SEEN_ONLY = "seen only"
    """Better on the whole, but not on unseen queries."""
    UNSETTLED = "unsettled"
    """Better on the whole; too few unseen queries to say whether they share it."""
    INDISTINCT = "indistinct"
    """Better, but no query is unseen: memory and learning look alike."""
    UNCHECKED = "unchecked"
    """Better, but nobody looked which queries share documents with training."""
    NO_GAIN = "no gain"
    """The difference is within chance."""
    HARM = "harm"
    """Worse, beyond chance."""
    TOO_FEW = "too few"
    """Fewer than two queries."""
    NOT_COMPARED = "not compared"
    """No tuned system."""


_HEADLINES = {
    Outcome.GAIN: "Tuning helped, and the gain holds on queries whose relevant documents training never saw.",
    Outcome.SEEN_ONLY: "The headline gain lives only in seen queries: where training never saw the relevant documents, "
    "tuning did not help.",
    Outcome.UNSETTLED: "Tuning helped on the whole, but {unseen} cannot settle whether the gain holds there.",
    Outcome.INDISTINCT: "Tuning helped on these queries, but memory and learning cannot be told apart on them: each of "
    "them shares a relevant document with training.",
    Outcome.UNCHECKED: "Tuning helped on these queries, but part of the gain may be memory: nobody counted the queries "
    "that share a relevant document with training.",
    Outcome.NO_GAIN: "Tuning did not help: the difference on {n} is within chance.",
    Outcome.HARM: "Tuning did not help: it made search worse, beyond chance.",
    Outcome.TOO_FEW: "{n} cannot show whether tuning helped.",
}


def outcome(report: Report) -> Outcome:
    """Judge the first tuned system against the reference by the headline metric, at 5%."""
    headline = report.headline
    if headline is None:
        return Outcome.NOT_COMPARED
    if headline.n < 2:
        return Outcome.TOO_FEW
    if not headline.significant:
        return Outcome.NO_GAIN
    if headline.delta < 0:
        return Outcome.HARM
    return _origin(report, headline)


def _origin(report: Report, headline: Comparison) -> Outcome:
    """Where a significant gain comes from."""
    if not report.overlap_measured:
        return Outcome.UNCHECKED
    unseen = _on(report, "unseen", headline)
    if unseen is None:
        return Outcome.INDISTINCT
    if unseen.significant and unseen.delta > 0:
        return Outcome.GAIN
    excluded = unseen.high < headline.delta  # the interval on unseen queries leaves the headline gain out
    return Outcome.SEEN_ONLY if unseen.delta <= 0 or excluded else Outcome.UNSETTLED


def verdict(report: Report) -> list[str]:
    """Sentences, the most important one first."""
    headline = report.headline
    if headline is None:
        return [f"Nothing was tuned, so there is nothing to compare with {report.reference}.", *_warnings(report)]
    return [
        _headline(outcome(report), report, headline),
        _measured(report, headline),
        *_power(headline),
        *_slices(report, headline),
        *_further(report, headline),
        *_warnings(report),
    ]


def _headline(found: Outcome, report: Report, headline: Comparison) -> str:
    unseen = queries(report.slices["unseen"].n, "unseen")
    return _HEADLINES[found].format(n=queries(headline.n), unseen=unseen)


def _measured(report: Report, it: Comparison) -> str:
    before, after = report.estimate(it.a).mean, report.estimate(it.b).mean
    return (
        f"{metric_label(HEADLINE)} went from {figure(before)} ({it.a}) to {figure(after)} ({it.b}): {change(it)}; "
        f"{it.wins} of {queries(it.n)} better, {it.ties} the same, {it.losses} worse."
    )


def _power(it: Comparison) -> list[str]:
    """What this many queries could have shown at all."""
    if it.n < 2 or it.ties == it.n:
        return []
    text = f"The smallest true difference that {queries(it.n)} would show with 80% power is about {figure(it.mde)}"
    if it.significant:
        return [f"{text}."]
    return [f"{text}: a smaller effect may exist and was not ruled out."]


def _slices(report: Report, headline: Comparison) -> list[str]:
    if not report.overlap_measured:
        return ["Give the training positives to have queries split into seen and unseen.", *_residual(report, headline)]
    unseen, seen = (_on(report, name, headline) for name in ("unseen", "seen"))
    if unseen is None:
        sentences = ["No test query is unseen: look at the residual collection."]
    elif seen is None:
        sentences = ["Every test query is unseen: none shares a relevant document with training."]
    else:
        sentences = [f"On {_held(unseen, 'unseen')}.", f"On {_held(seen, 'seen')}."]
    return sentences + _residual(report, headline)


def _residual(report: Report, headline: Comparison) -> list[str]:
    residual = _on(report, "residual", headline)
    if residual is None:
        return ["The residual collection was not scored, or has no query left."]
    return [f"With the documents that training saw taken away, on {_held(residual, 'residual')}."]


def _held(it: Comparison, name: str) -> str:
    """`104 unseen queries the gain holds: +0.051 (...)`."""
    if it.significant:
        finding = "the gain holds" if it.delta > 0 else "tuning made search worse"
    else:
        finding = f"no gain was shown (smallest effect it could have shown: {figure(it.mde)})"
    return f"{queries(it.n, name)}, {finding}: {change(it)}"


def _further(report: Report, headline: Comparison) -> list[str]:
    """One sentence for every other comparison, and one where an untuned system is ahead."""
    others = [it for it in report.comparisons if it.metric == HEADLINE and it != headline and it.n]
    sentences = [f"{it.b} against {it.a}: {change(it)}{_there(_on(report, 'unseen', it))}." for it in others]
    rivals = [name for name in report.systems if name not in report.candidates]
    best = max(rivals, key=lambda name: report.estimate(name).mean, default=None)
    if best is not None and (lead := report.estimate(best).mean - report.estimate(headline.b).mean) > 0:
        sentences.append(f"{best}, which is not tuned, is ahead of {headline.b} by {signed(lead)}.")
    return sentences


def _there(unseen: Comparison | None) -> str:
    return f"; on unseen queries {change(unseen)}" if unseen is not None else ""


def _warnings(report: Report) -> list[str]:
    return [
        f"{name} returned nothing for {queries(item.missing)}; each counts 0."
        for name, item in report.systems.items()
        if item.missing
    ]


def _on(report: Report, name: str, headline: Comparison) -> Comparison | None:
    """The headline comparison on one slice, or None where the slice has no query."""
    found = report.slices[name].comparison(headline.a, headline.b)
    return found if found is not None and found.n else None
