"""What a report means, in plain words: did tuning help, can that be believed, and is it learning or memory?

A system that has seen a query's answer during training may have memorised it. So a gain counts as learning only where
it holds on `unseen` queries; one that lives only in `seen` queries is called that. Where nothing was tuned, the verdict
says which system is best, and from which of the others it can be told apart.
"""

from __future__ import annotations

import math
from enum import StrEnum

from searchtune.evaluation.report import Comparison, Report
from searchtune.evaluation.reranking import reranking_words
from searchtune.evaluation.wording import (
    belief,
    cannot_show,
    change,
    figure,
    interval,
    listed,
    metric_label,
    queries,
    signed,
    strength,
    too_few,
)


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
    """Within chance, and a gain that would matter is ruled out."""
    NOT_SHOWN = "not shown"
    """Within chance, and a gain that would matter is not ruled out."""
    NO_CHANGE = "no change"
    """The same on every query."""
    HARM = "harm"
    """Worse, beyond chance."""
    TOO_FEW = "too few"
    """So few queries, or so few that differ, that no difference could be shown."""
    LEADS = "leads"
    """Nothing was tuned; one system is ahead of every other, beyond chance."""
    LEVEL = "level"
    """Nothing was tuned; the best system cannot be told apart from at least one other."""
    NOT_COMPARED = "not compared"
    """Nothing was tuned, and no two systems were compared."""


_HEADLINES = {
    Outcome.GAIN: "Tuning helped, and the gain holds on queries whose relevant documents training never saw.",
    Outcome.SEEN_ONLY: "The headline gain lives only in seen queries: where training never saw the relevant documents, "
    "no such gain is there.",
    Outcome.UNSETTLED: "Tuning helped on the whole, but {unseen} cannot settle whether the gain holds there.",
    Outcome.INDISTINCT: "Tuning helped on these queries, but memory and learning cannot be told apart on them: each of "
    "them shares a relevant document with training.",
    Outcome.UNCHECKED: "Tuning helped on these queries, but part of the gain may be memory: nobody counted the queries "
    "that share a relevant document with training.",
    Outcome.NO_GAIN: "Tuning gained nothing that matters: the difference on {n} is within chance, and a true gain of "
    "{worthwhile} or more is ruled out.",
    Outcome.NOT_SHOWN: "No sure gain: the difference on {n} is within chance, and they are too few to tell whether "
    "tuning helped.",
    Outcome.NO_CHANGE: "Tuning changed nothing here: {metric} is the same on all {n}.",
    Outcome.HARM: "Tuning made search worse, beyond chance.",
    Outcome.TOO_FEW: "{n} cannot show whether tuning helped.",
}
WORTHWHILE = 0.01
"""The least gain that is called one that matters, in the metric's own unit."""
ENOUGH = 50
"""Queries below which a verdict never rules a gain out: the customary least size of a test collection (Buckley and
Voorhees 2000, SIGIR)."""


def outcome(report: Report) -> Outcome:
    """Judge the first tuned system against the reference by the headline metric, at 5%."""
    headline = report.headline
    if headline is None:
        return _untuned_outcome(report)
    if headline.significant:
        return Outcome.HARM if headline.delta < 0 else _origin(report, headline)
    if too_few(headline):
        return Outcome.TOO_FEW
    if not headline.untied:
        return Outcome.NO_CHANGE
    ruled_out = headline.n >= ENOUGH and headline.high < WORTHWHILE and headline.mde <= WORTHWHILE
    return Outcome.NO_GAIN if ruled_out else Outcome.NOT_SHOWN


def _untuned_outcome(report: Report) -> Outcome:
    against = _against_best(report)
    if not against:
        return Outcome.NOT_COMPARED
    if all(too_few(it) for it in against):
        return Outcome.TOO_FEW
    return Outcome.LEADS if all(it.significant for it in against) else Outcome.LEVEL


def _origin(report: Report, headline: Comparison) -> Outcome:
    """Where a significant gain comes from."""
    if not report.overlap_measured:
        return Outcome.UNCHECKED
    unseen = _on(report, "unseen", headline)
    if unseen is None:
        return Outcome.INDISTINCT
    if unseen.significant and unseen.delta > 0:
        return Outcome.GAIN
    # only an interval on unseen queries that leaves the headline gain out shows that they do not share it
    return Outcome.SEEN_ONLY if unseen.testable and unseen.high < headline.delta else Outcome.UNSETTLED


def verdict(report: Report) -> list[str]:
    """Sentences, the most important one first."""
    headline = report.headline
    if headline is None:
        head, *rest = _untuned(report)
        return [head, *reranking_words(report), *_fusing(report), *rest, *_breakdown(report), *_warnings(report)]
    return [
        _headline(outcome(report), report, headline),
        *reranking_words(report),
        _measured(report, headline),
        *_credence(headline),
        *_power(headline),
        *_slices(report, headline),
        *_fusing(report),
        *_further(report, headline),
        *_breakdown(report),
        *_warnings(report),
    ]


def _headline(found: Outcome, report: Report, headline: Comparison) -> str:
    unseen = queries(report.slices["unseen"].n, "unseen")
    metric, worthwhile = metric_label(headline.metric), figure(WORTHWHILE)
    return _HEADLINES[found].format(n=queries(headline.n), unseen=unseen, metric=metric, worthwhile=worthwhile)


def _measured(report: Report, it: Comparison) -> str:
    before, after = report.estimate(it.a).mean, report.estimate(it.b).mean
    return (
        f"{metric_label(it.metric)} went from {figure(before)} ({it.a}) to {figure(after)} ({it.b}): {change(it)}; "
        f"{it.wins} of {queries(it.n)} better, {it.ties} the same, {it.losses} worse."
    )


def _credence(it: Comparison) -> list[str]:
    """Whether the headline difference can be believed, and how large it is beside its own spread."""
    if it.n < 2 or it.ties == it.n:
        return []
    if not it.testable:
        return [f"{cannot_show(it)}."]
    if math.isnan(it.p_t):  # from before a second test was made
        return []
    d = it.effect_size
    size = "" if math.isnan(d) else f"; effect size d = {signed(d)}, {strength(d)}"
    return [f"Can it be believed? It is {belief(it)}{size}."]


def _untuned(report: Report) -> list[str]:
    """Which system is best, and against which others that can be believed."""
    ranked = report.ranked()
    label = metric_label(report.headline_metric)
    against = _against_best(report)
    if not against:
        only = ranked[0] if ranked else report.reference
        estimate = report.estimate(only)
        return [
            f"Nothing was tuned, so there is nothing to compare with {report.reference}.",
            f"{label} of {only} is {figure(estimate.mean)} (95% interval {interval(estimate)}) on {queries(report.n)}.",
        ]
    best = ranked[0]
    level = [it.a for it in against if not it.significant]
    if all(too_few(it) for it in against):
        head = f"{queries(report.n)} cannot show which system is better."
    elif not level:
        head = f"{best} is the best system here, beyond chance."
    elif len(level) < len(against):
        head = f"{best} is ahead, but {queries(report.n)} cannot tell it apart from {listed(level)}."
    else:
        head = f"No system is better than the others beyond chance; {best} has the highest mean."
    means = ", ".join(f"{name} {figure(report.estimate(name).mean)}" for name in ranked)
    hidden = [figure(it.mde) for it in against if not it.significant and not math.isnan(it.mde)]
    power = [f"True differences below about {max(hidden)} would stay hidden on {queries(report.n)}."] if hidden else []
    return [
        head,
        f"Nothing was tuned: the systems are compared as they are. {label}: {means}.",
        *(f"{best} against {it.a}: {change(it)}: {belief(it)}." for it in against),
        *power,
    ]


def _against_best(report: Report) -> list[Comparison]:
    """The best system compared with every other, the nearest first."""
    best, *rest = report.ranked() or [report.reference]
    found = (report.comparison(name, best) for name in rest)
    return [it for it in found if it is not None and it.n]


def _breakdown(report: Report) -> list[str]:
    """At most one sentence: a kind of query that loses beyond chance, else the one where the gain is largest.

    A gain is told only where the whole has one beyond chance.
    """
    pair = report.pair
    whole = None if pair is None else report.comparison(*pair)
    if pair is None or whole is None:
        return []
    found = [
        (it, kind, name)
        for kind, bins in report.breakdown.items()
        if len(bins) > 1
        for name, part in bins.items()
        if (it := part.comparison(*pair)) is not None and it.significant
    ]
    hurt = min(found, key=lambda item: item[0].delta, default=None)
    if hurt is not None and hurt[0].delta < 0:
        it, kind, name = hurt
        return [f"It hurts on {queries(it.n)} of one kind ({kind}: {name}): {it.b} against {it.a} {change(it)}."]
    if not found or not whole.significant:
        return []
    it, kind, name = max(found, key=lambda item: item[0].delta)
    return [f"Most is gained on {queries(it.n)} of one kind ({kind}: {name}): {it.b} against {it.a} {change(it)}."]


def _power(it: Comparison) -> list[str]:
    """What this many queries could have shown at all."""
    if not it.testable:
        return []
    if math.isnan(it.mde):
        return ["Which true difference so many queries would show cannot be said: those that differ all differ alike."]
    text = f"The smallest true difference that {queries(it.n)} would show with 80% power is about {figure(it.mde)}"
    if it.significant or math.isnan(it.low):
        return [f"{text}."]
    return [f"{text}; true differences from {signed(it.low)} to {signed(it.high)} are not ruled out."]


def _slices(report: Report, headline: Comparison) -> list[str]:
    if not report.overlap_measured:
        return ["Give the training positives to have queries split into seen and unseen.", *_residual(report, headline)]
    unseen, seen = (_on(report, name, headline) for name in ("unseen", "seen"))
    if unseen is None:
        sentences = ["No test query is unseen: look at the residual collection."]
    elif seen is None:
        sentences = ["Every test query is unseen: none shares a relevant document with training."]
    else:
        sentences = [f"On {_held(it, name, headline)}." for it, name in ((unseen, "unseen"), (seen, "seen"))]
    return sentences + _residual(report, headline)


def _residual(report: Report, headline: Comparison) -> list[str]:
    residual = _on(report, "residual", headline)
    if residual is None:
        return ["The residual collection was not scored, or has no query left."]
    return [f"With the documents that training saw taken away, on {_held(residual, 'residual', headline)}."]


def _held(it: Comparison, name: str, headline: Comparison) -> str:
    """`104 unseen queries the gain holds: +0.051 (...)`; a part is believed only where the whole is."""
    if it.significant and not headline.significant:
        finding = "a difference shows that does not on the whole, so that it may be chance"
    elif it.significant:
        finding = "the gain holds" if it.delta > 0 else "tuning made search worse"
    elif it.ties == it.n:
        finding = "nothing changed"
    elif not it.testable:
        finding = f"no gain can be shown, since {cannot_show(it)}"
    elif math.isnan(it.mde):
        finding = "no gain was shown"
    else:
        finding = f"no gain was shown (smallest effect that would be: {figure(it.mde)})"
    return f"{queries(it.n, name)}, {finding}: {change(it)}"


def _further(report: Report, headline: Comparison) -> list[str]:
    """One sentence for every other comparison, and one where an untuned system is ahead."""
    others = [it for it in report.comparisons if it.metric == report.headline_metric and it != headline and it.n]
    sentences = [f"{it.b} against {it.a}: {change(it)}{_there(it, _on(report, 'unseen', it))}." for it in others]
    if len(report.tuned) > 1:
        sentences.insert(0, _among_tuned(report, headline))
    rivals = [name for name in report.systems if name not in report.candidates]
    best = max(rivals, key=lambda name: report.estimate(name).mean, default=None)
    if best is not None and (lead := report.estimate(best).mean - report.estimate(headline.b).mean) > 0:
        sentences.append(f"{best}, which is not tuned, is ahead of {headline.b} by {signed(lead)}.")
    return sentences


def _fusing(report: Report) -> list[str]:
    """A sentence for every fusion that is not ahead of the best of its parts."""
    sentences = []
    for name, against in report.fusions.items():
        it = min((one for one in against if one.n), key=lambda one: one.delta, default=None)
        if it is None or it.delta >= 0:
            continue
        if it.significant:
            sentences.append(
                f"Fusing hurts: {name} is worse than {it.a} alone: {change(it)}. Use {it.a}, or fit the weights on dev."
            )
        else:
            sentences.append(f"Fusing is not shown to help: {name} is behind {it.a} alone: {change(it)}, {belief(it)}.")
    return sentences


def _among_tuned(report: Report, headline: Comparison) -> str:
    """What the verdict speaks of where several systems were tuned, and which of them are better beyond chance."""
    tuned = [it for name in report.tuned if (it := report.comparison(report.reference, name)) is not None]
    better = [it.b for it in tuned if it.significant and it.delta > 0]
    best = max(tuned, key=lambda it: it.delta).b
    told = (
        f"better than {report.reference} beyond chance: {listed(better)}" if better else "none is better beyond chance"
    )
    return (
        f"The verdict speaks of {headline.b}, the first of {len(tuned)} tuned systems; {told}; "
        f"the highest mean is that of {best}. P-values are corrected for their number."
    )


def _there(it: Comparison, unseen: Comparison | None) -> str:
    """What the same comparison says on unseen queries, where those are not all."""
    return f"; on unseen queries {change(unseen)}" if unseen is not None and unseen.n < it.n else ""


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
