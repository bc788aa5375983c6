"""What a judge is good for, in words: ranking systems, grading single pairs, giving probabilities, and its dangers.

The limits are the field's customs, not laws of nature: kappa from .6 is called substantial (Landis & Koch 1977,
Biometrics 33:159), trained assessors reach about .4 to .6 among each other, and orders of systems whose tau is at least
.9 are taken for the same (Voorhees 2001, SIGIR). A use is granted only where the whole interval is above its limit.
"""

from __future__ import annotations

import math
from enum import StrEnum

from searchtune.evaluation.judge_report import Bias, JudgeFigures, JudgeReport
from searchtune.evaluation.wording import NO_FIGURE, bare_p, interval, listed, percent, queries, signed
from searchtune.metrics.power import untied_needed
from searchtune.metrics.significance import Estimate

SUBSTANTIAL = 0.6
MODERATE = 0.4
SAME_ORDER = 0.9
HONEST = 0.05
"""Calibration error up to which probabilities are called honest."""
SWAYED = 0.1
"""Share of canaries above which a judge counts as open to planted text."""
READABLE = 0.95
"""Share of pairs that a judge must grade."""

LABELS = {
    "kappa": "κ relevant",
    "precision": "precision",
    "recall": "recall",
    "accuracy": "same class",
    "kappa_graded": "κ grades",
    "kappa_linear": "κ linear",
    "kappa_quadratic": "κ quadratic",
    "alpha": "α",
    "exact": "same grade",
}
"""Figures of agreement as tables head them."""


class JudgeUse(StrEnum):
    """What a judge may be used for."""

    PAIRS = "grades single pairs as people do"
    RANKING = "good enough to rank systems, not to grade single pairs"
    SCREENING = "good enough to screen, with people to check"
    UNSETTLED = "good enough is not settled: label more queries"
    NOTHING = "not to be relied on"
    TOO_FEW = "too few labels to tell"


def judge_use(judge: JudgeFigures) -> JudgeUse:
    """The most that the intervals of the judge allow."""
    kappa, order = judge.figure("kappa"), judge.ranking
    if math.isnan(kappa.low) or kappa.n < untied_needed():  # fewer queries have no interval worth the name
        return JudgeUse.TOO_FEW
    if kappa.low >= SUBSTANTIAL:
        return JudgeUse.PAIRS
    if order is not None and order.tau.low >= SAME_ORDER and len(order.systems) > 2:
        return JudgeUse.RANKING
    if kappa.low >= MODERATE:
        return JudgeUse.SCREENING
    return JudgeUse.UNSETTLED if kappa.high >= MODERATE else JudgeUse.NOTHING


def judge_verdict(report: JudgeReport) -> list[str]:
    """The headline, then what supports and what limits it, one sentence each."""
    judge, name = report.lead, report.headline
    kappa = judge.figure("kappa")
    use = judge_use(judge)
    head = {
        JudgeUse.PAIRS: f"{name} {use}",
        JudgeUse.UNSETTLED: f"Whether {name} is {use}",
        JudgeUse.TOO_FEW: f"{queries(report.queries)}: {use} what {name} can be used for",
    }.get(use, f"{name} is {use}")
    said = [f"{head}."]
    if not math.isnan(kappa.mean):
        said.append(
            f"On {judge.judged:,} pairs of {queries(kappa.n)} it agrees with people beyond chance by κ {_with(kappa)}, "
            f"which is called {strength_of_kappa(kappa.mean)}; people among themselves usually reach 0.4 to 0.6."
        )
    elif "kappa" in judge.undefined:
        said.append(f"Agreement has no figure: {judge.undefined['kappa']}.")
    said += [*_against(report), *_habits(judge), *_order(judge), *_probabilities(judge)]
    return [*said, *(f"It is swayed by {it.feature}: {_sway(it)}." for it in judge.bias if it.found)]


def judge_warnings(report: JudgeReport) -> list[str]:
    """What must be known before the headline judge is used: unreadable replies and planted text, `topic: sentence`."""
    judge, said = report.lead, []
    if judge.pairs and judge.judged < READABLE * judge.pairs:
        lost = listed([f"{count:,} {reason}" for reason, count in judge.unreadable.items()])
        said.append(
            f"Unreadable replies: {judge.pairs - judge.judged:,} of {judge.pairs:,} pairs have no grade ({lost}); the "
            "figures say nothing of them."
        )
    swayed = {kind: it for kind, it in judge.canaries.items() if it.rises.mean > SWAYED and it.rise.mean > 0}
    if swayed:
        tried = sum(it.pairs for it in swayed.values())
        share = sum(it.rises.mean * it.pairs for it in swayed.values()) / tried
        rise = sum(it.rise.mean * it.pairs for it in swayed.values()) / tried
        said.append(
            f"Planted text: with {listed(list(swayed))} in the passage {percent(share)} of {tried:,} pairs get a "
            f"higher grade, by {signed(rise)} on average over all; do not let it judge what others write."
        )
    return said


def strength_of_kappa(kappa: float) -> str:
    """Landis and Koch's words: poor below 0, slight, fair, moderate, substantial, almost perfect."""
    words = ((0.0, "poor"), (0.2, "slight"), (0.4, "fair"), (0.6, "moderate"), (0.8, "substantial"))
    return next((word for limit, word in words if kappa < limit), "almost perfect")


def _with(estimate: Estimate) -> str:
    """`0.524 (95% interval 0.480–0.563)`."""
    if math.isnan(estimate.low):
        return f"{estimate.mean:.3f}"
    return f"{estimate.mean:.3f} (95% interval {interval(estimate)})"


def _against(report: JudgeReport) -> list[str]:
    found = report.comparison(report.reference, report.headline) if report.reference else None
    if found is None or math.isnan(found.estimate.mean):
        return []
    how = "more" if found.estimate.mean > 0 else "less"
    belief = "a difference to believe" if found.significant else "which is within chance"
    if report.queries < untied_needed():
        belief = f"which {queries(report.queries)} cannot show to be more than chance"
    belief += "" if math.isnan(found.p_holm) else f" (p {_p(found.p_holm)})"
    spread = (
        ""
        if math.isnan(found.estimate.low)
        else (f" (95% interval {signed(found.estimate.low)} to {signed(found.estimate.high)})")
    )
    return [f"It agrees {how} than {report.reference}: {signed(found.estimate.mean)} κ{spread}, {belief}."]


def _p(p_value: float) -> str:
    text = bare_p(p_value)
    return text if text.startswith("<") or text == NO_FIGURE else f"= {text}"


def _habits(judge: JudgeFigures) -> list[str]:
    """Whether the judge is more generous or stricter than people."""
    precision, recall = judge.figure("precision"), judge.figure("recall")
    if math.isnan(precision.low) or math.isnan(recall.low):
        return []
    shares = (
        f"of the pairs that it calls relevant {percent(precision.mean)} are, and it finds {percent(recall.mean)} of "
        "those that people call relevant"
    )
    if precision.high < recall.low:
        return [f"It is more generous than people: {shares}."]
    if recall.high < precision.low:
        return [f"It is stricter than people: {shares}."]
    return [f"O{shares[1:]}."]


def _order(judge: JudgeFigures) -> list[str]:
    order = judge.ranking
    if order is None or math.isnan(order.tau.mean):
        return []
    same = (
        "as good as the same order"
        if order.tau.low >= SAME_ORDER
        else "perhaps the same order, perhaps not"
        if order.tau.high >= SAME_ORDER
        else "another order"
    )
    return [
        f"It orders {len(order.systems)} systems by {order.metric} with a Kendall's tau of {_with(order.tau)} to "
        f"people's order: {same}."
    ]


def _probabilities(judge: JudgeFigures) -> list[str]:
    which = next((name for name in ("after", "before") if name in judge.calibration), None)
    if which is None or math.isnan(judge.calibration[which].error):
        return []
    error = judge.calibration[which].error
    belief = "can be taken at their word" if error <= HONEST else "cannot be taken at their word"
    when = "calibrated" if which == "after" else "raw"
    return [f"Its {when} probabilities {belief}: they are off by {error:.3f} on average."]


def _sway(bias: Bias) -> str:
    return (
        f"{signed(bias.slope.mean)} grades for each {bias.unit} (95% interval {signed(bias.slope.low)} to "
        f"{signed(bias.slope.high)}) among pairs that people grade alike"
    )
