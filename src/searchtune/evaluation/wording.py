"""How figures and names are written wherever a person reads them: verdict, terminal table and page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from searchtune.evaluation.report import Comparison
from searchtune.metrics.power import least_p, untied_needed
from searchtune.metrics.ranking import parse_metric
from searchtune.metrics.significance import ALPHA, Estimate

_NAMES = {
    "ndcg": "nDCG",
    "ndcg_exp": "nDCG (exponential)",
    "recall": "Recall",
    "precision": "Precision",
    "mrr": "MRR",
    "map": "MAP",
    "hit": "Hit",
    "rprec": "R-precision",
    "judged": "Judged",
    "rbp": "RBP",
}
NO_FIGURE = "–"
"""Stands where a figure cannot be had."""


def metric_label(metric: str) -> str:
    """`nDCG@10` for `ndcg@10`."""
    parsed = parse_metric(metric)
    return str(parsed).replace(parsed.name, _NAMES.get(parsed.name, parsed.name), 1)


def figure(value: float) -> str:
    """Three decimals: `0.646`."""
    return NO_FIGURE if math.isnan(value) else f"{value:.3f}"


def signed(value: float) -> str:
    """Three decimals with the sign: `+0.144`, `−0.020`, `0.000`."""
    if math.isnan(value):
        return NO_FIGURE
    rounded = round(value, 3)
    return f"{rounded:+.3f}".replace("-", "−") if rounded else "0.000"


def percent(share: float) -> str:
    """`93%` for 0.93; a dash for NaN."""
    return NO_FIGURE if math.isnan(share) else f"{100 * share:.0f}%"


def milliseconds(value: float) -> str:
    """`0.42 ms`, `12.3 ms`, `1,250 ms`, or a dash."""
    if math.isnan(value):
        return NO_FIGURE
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def p_text(p_value: float) -> str:
    """`p < 0.001`, `p = 0.032`, or that there is no test."""
    if math.isnan(p_value):
        return "no test"
    return "p < 0.001" if p_value < 0.001 else f"p = {p_value:.3f}"


def interval(estimate: Estimate) -> str:
    """`0.601–0.690`, or a dash."""
    return NO_FIGURE if math.isnan(estimate.low) else f"{estimate.low:.3f}–{estimate.high:.3f}"


def change(comparison: Comparison) -> str:
    """`+0.144 (95% interval +0.110 to +0.180, p = 0.012)`, both corrected for the comparisons made at once."""
    p_value = corrected_p_text(comparison)
    if math.isnan(comparison.low):
        return f"{signed(comparison.delta)} ({p_value})"
    return f"{signed(comparison.delta)} (95% interval {spread(comparison)}, {p_value})"


def spread(it: Estimate | Comparison) -> str:
    """The interval of a difference: `+0.110 to +0.180`, or that there is none."""
    return "no interval" if math.isnan(it.low) else f"{signed(it.low)} to {signed(it.high)}"


def corrected_p_text(comparison: Comparison) -> str:
    """`p_text` of the p-value corrected with Holm's method, of the raw one where nothing was corrected."""
    return p_text(comparison.p_value if math.isnan(comparison.p_holm) else comparison.p_holm)


def bare_p(p_value: float) -> str:
    """`< 0.001`, `0.032`, or a dash."""
    if math.isnan(p_value):
        return NO_FIGURE
    return p_text(p_value).removeprefix("p = ").removeprefix("p ")


def corrected_p(comparison: Comparison) -> str:
    """The p-value corrected with Holm's method as `bare_p` writes it; the raw one where nothing was corrected."""
    return bare_p(comparison.p_value if math.isnan(comparison.p_holm) else comparison.p_holm)


def belief(comparison: Comparison) -> str:
    """Whether the difference can be believed, and where one would take it for more or less than it is, why."""
    it = comparison
    if it.n < 2:
        return "too few queries to believe anything"
    if it.significant and it.p_t >= ALPHA:  # NaN where no t-test was made
        return f"beyond chance by one test only (t-test: {p_text(it.p_t)}), to be believed with care"
    return "a difference to believe" if it.significant else _doubt(it)


def _doubt(it: Comparison) -> str:
    """Why a difference is not to be believed."""
    if it.ties == it.n:
        return "no difference on any query"
    if not it.testable:
        return cannot_show(it)
    if it.leaves_out_zero:
        return "not to be believed: the interval leaves out 0, but the p-value for all comparisons is too large"
    if it.p_value < ALPHA:
        return f"within chance, being one of several: by itself it would have {p_text(it.p_value)}"
    if it.p_t < ALPHA:
        other = f"a t-test, which takes differences for normal and counts no other comparison, has {p_text(it.p_t)}"
        return f"within chance, not to be believed ({other})"
    return "within chance, not to be believed"


def too_few(comparison: Comparison) -> bool:
    """Whether nothing could be shown on so few queries, or on so few that differ; many that are all alike show that."""
    it = comparison
    return not it.testable and not (it.ties == it.n >= untied_needed(it.alpha))


def cannot_show(comparison: Comparison, noun: str = "query", nouns: str = "queries") -> str:
    """`3 untied queries can show nothing: the smallest p that they can give is 0.250, and 6 must differ`."""
    it = comparison
    have = f"{it.untied:,} {'untied ' if it.ties else ''}{noun if it.untied == 1 else nouns}"
    least, needed = least_p(it.untied), untied_needed(it.alpha)
    told = f"{have} can show nothing: the smallest p that they can give is {least:.3f}, and {needed} must differ"
    return told if it.alpha >= ALPHA else f"{told} among so many comparisons"


def strength(effect: float) -> str:
    """Cohen's words for a standardised difference: negligible below 0.2, small, medium, large from 0.8 on."""
    size = abs(effect)
    words = ((0.2, "negligible"), (0.5, "small"), (0.8, "medium"))
    return next((word for limit, word in words if size < limit), "large")


def listed(names: Sequence[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(names[:-1]), *names[-1:])))


def queries(n: int, which: str = "") -> str:
    """`1 query`, `300 queries`, `104 unseen queries`."""
    return " ".join(filter(None, (f"{n:,}", which, "query" if n == 1 else "queries")))
