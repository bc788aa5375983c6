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
DECIMALS = 3
"""Of a figure, where they do not hide its sign."""
NOISE = 1e-9
"""Differences up to this are what floating point leaves of zero."""
_MOST_DIGITS = 9


def metric_label(metric: str) -> str:
    """`nDCG@10` for `ndcg@10`; any other figure in words."""
    if metric.partition("@")[0] not in _NAMES:
        return metric.replace("_", " ")
    parsed = parse_metric(metric)
    return str(parsed).replace(parsed.name, _NAMES.get(parsed.name, parsed.name), 1)


def figure(value: float) -> str:
    """Three decimals, more where they would hide that it is not zero: `0.646`, `0.0003`."""
    if math.isnan(value):
        return NO_FIGURE
    digits = DECIMALS
    while abs(value) > NOISE and not round(value, digits):
        digits += 1
    return f"{value:.{digits}f}".replace("-", "−") if abs(value) > NOISE else f"{0:.{digits}f}"


def signed(value: float) -> str:
    """The same with the sign, which no rounding hides: `+0.144`, `−0.020`, `−0.0003`, `0.000`."""
    return f"+{figure(value)}" if value > NOISE else figure(value)


def percent(share: float) -> str:
    """`93%` for 0.93, `99.7%` for 0.997: only none is 0% and only all is 100%; a dash for NaN."""
    if math.isnan(share):
        return NO_FIGURE
    digits = 0
    while digits < _MOST_DIGITS and (round(share, 2 + digits) in (0, 1)) and NOISE < share < 1 - NOISE:
        digits += 1
    return f"{100 * share:.{digits}f}%"


def milliseconds(value: float) -> str:
    """`0.42 ms`, `12.3 ms`, `1,250 ms`, or a dash."""
    if math.isnan(value):
        return NO_FIGURE
    return f"{value:,.0f} ms" if value >= 100 else f"{value:.3g} ms"


def p_text(p_value: float) -> str:
    """`p < 0.001`, `p = 0.032`, `p = 0.0496` on its side of 0.05, or that there is no test."""
    if math.isnan(p_value):
        return "no test"
    if p_value < 0.001:
        return "p < 0.001"
    digits = DECIMALS
    while digits < _MOST_DIGITS and (round(p_value, digits) < ALPHA) != (p_value < ALPHA):
        digits += 1
    return f"p = {p_value:.{digits}f}"


def interval(estimate: Estimate) -> str:
    """`0.601–0.690`, `−0.020 to 0.310` where a bound is negative, or a dash."""
    if math.isnan(estimate.low):
        return NO_FIGURE
    return f"{figure(estimate.low)}{' to ' if estimate.low < 0 else '–'}{figure(estimate.high)}"


def told_p(comparison: Comparison) -> str:
    """The p-value that decides, as words: `p = 0.024 corrected`, or `p = 0.012` where nothing had to be corrected."""
    if math.isnan(comparison.p_holm) or comparison.p_holm == comparison.p_value:
        return p_text(comparison.p_value)
    return f"{p_text(comparison.p_holm)} corrected"


def change(comparison: Comparison) -> str:
    """`+0.144 (95% interval +0.110 to +0.180, p = 0.012)`; told where both are corrected for other comparisons."""
    p_value = corrected_p_text(comparison)
    if math.isnan(comparison.low):
        return f"{signed(comparison.delta)} ({p_value})"
    widened = "; both corrected" if comparison.alpha < ALPHA else ""
    return f"{signed(comparison.delta)} (95% interval {spread(comparison)}, {p_value}{widened})"


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
