"""How figures and names are written wherever a person reads them: verdict, terminal table and page."""

from __future__ import annotations

import math
from collections.abc import Sequence

from searchtune.evaluation.report import Comparison
from searchtune.metrics.ranking import parse_metric
from searchtune.metrics.significance import Estimate

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
    """`+0.144 (95% interval +0.110 to +0.180, p = 0.012, 0.024 corrected)`."""
    p_value = p_text(comparison.p_value)
    if corrected_p(comparison) != (raw := bare_p(comparison.p_value)) and raw != NO_FIGURE:
        p_value += f", {corrected_p(comparison)} corrected"
    if math.isnan(comparison.low):
        return f"{signed(comparison.delta)} ({p_value})"
    low, high = signed(comparison.low), signed(comparison.high)
    return f"{signed(comparison.delta)} (95% interval {low} to {high}, {p_value})"


def bare_p(p_value: float) -> str:
    """`< 0.001`, `0.032`, or a dash."""
    if math.isnan(p_value):
        return NO_FIGURE
    return p_text(p_value).removeprefix("p = ").removeprefix("p ")


def corrected_p(comparison: Comparison) -> str:
    """The p-value corrected with Holm's method as `bare_p` writes it; the raw one where nothing was corrected."""
    return bare_p(comparison.p_value if math.isnan(comparison.p_holm) else comparison.p_holm)


def belief(comparison: Comparison) -> str:
    """Whether the difference can be believed: `a difference to believe`, `within chance`, or in between."""
    if comparison.n < 2:
        return "too few queries to believe anything"
    if not comparison.significant:
        return "within chance, not to be believed"
    if comparison.p_t >= 0.05:  # NaN where no t-test was made
        return f"beyond chance by one test only (t-test: {p_text(comparison.p_t)}), to be believed with care"
    return "a difference to believe"


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
