"""The page of an `AttributionReport`: which stage earned what, as one file that needs no network."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import altair as alt
from altair.utils.schemapi import debug_mode

from searchtune.evaluation import page
from searchtune.evaluation.attribution import (
    AttributionReport,
    MetricAttribution,
    Verdict,
    attribution_verdict,
    grid_rows,
)
from searchtune.evaluation.vega import FINDINGS, Rows, Spec, chart, figures_axis, spec
from searchtune.evaluation.wording import figure, signed
from searchtune.storage.atomic import write_text

BADGES = {
    Verdict.EARNS: ("good", "earns"),
    Verdict.IDLE: ("caution", "not shown to help"),
    Verdict.HARMS: ("bad", "switch it off"),
    Verdict.TOO_FEW: ("neutral", "too few queries"),
}
_NOTHING, _EVERYTHING = "all off", "all on"
_PER_BAR = 44
"""Height of one bar in pixels."""


def render_attribution_page(report: AttributionReport) -> str:
    """The whole page as HTML."""
    headline, *reasons = attribution_verdict(report)
    verdicts = [it.verdict for it in report.lead.stages.values()]
    worst = next(kind for kind in (Verdict.HARMS, Verdict.IDLE, Verdict.TOO_FEW, Verdict.EARNS) if kind in verdicts)
    tone, badge = BADGES[worst]
    badge = {Verdict.EARNS: "Every stage earns", Verdict.HARMS: "A stage costs quality"}.get(worst, badge.capitalize())
    with debug_mode(False):  # altair checks each part against its schema, which takes longer than to draw it
        charts = attribution_charts(report)
    return (
        page.environment()
        .get_template("attribution.html.j2")
        .render(
            report=report,
            lead=report.lead,
            tone=tone,
            badge="A stage is not shown to help" if worst is Verdict.IDLE else badge,
            headline=headline,
            reasons=reasons,
            badges=BADGES,
            charts=charts,
            chart_ids=list(_ids(report).items()),
            grids={name: grid_rows(it, report.stages) for name, it in report.metrics.items()},
            kinds=_kinds(report),
            vega=page.vega_script() if charts else "",
        )
    )


def write_attribution_page(report: AttributionReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_attribution_page(report))


def attribution_charts(report: AttributionReport) -> dict[str, Spec]:
    """A waterfall for each metric, by the id of the element that shows it."""
    return {name: _waterfall(report.metrics[metric]) for metric, name in _ids(report).items()}


def waterfall_rows(metric: MetricAttribution) -> Rows:
    """From everything off to everything on, a stage at a time; without an interval, the share stands for it."""
    at = metric.nothing.value.mean
    rows: Rows = [_total(_NOTHING, metric.nothing.value.mean)]
    for name, it in metric.stages.items():
        share = it.share
        low, high = (share.mean if math.isnan(edge) else edge for edge in (share.low, share.high))
        finding = {Verdict.EARNS: "gain", Verdict.HARMS: "loss"}.get(it.verdict, "within chance")
        after = at + share.mean
        rows.append(
            {
                "bar": name,
                "finding": finding,
                "from": at,
                "to": after,
                "low": at + low,
                "high": at + high,
                "text": signed(share.mean),
                "place": max(at + high, at, after),
                "share": share.mean,
                "total": False,
            }
        )
        at = after
    rows.append(_total(_EVERYTHING, metric.everything.value.mean))
    return rows


def _total(name: str, value: float) -> dict[str, Any]:
    return {
        "bar": name,
        "finding": "total",
        "from": value,
        "to": value,
        "low": value,
        "high": value,
        "text": figure(value),
        "place": value,
        "share": value,
        "total": True,
    }


def _waterfall(metric: MetricAttribution) -> Spec:
    """Bars from one total to the other, each with the interval of its share as a whisker."""
    rows = waterfall_rows(metric)
    order = [row["bar"] for row in rows]
    scale = alt.Scale(domain=_domain(rows), zero=False, nice=False)
    x = alt.X("from:Q", scale=scale, title=metric.label, axis=figures_axis(6))
    base = chart().encode(
        y=alt.Y("bar:N", sort=order, title=None, axis=alt.Axis(labelLimit=160)),
        tooltip=[
            alt.Tooltip("bar:N", title="stage"),
            alt.Tooltip("text:N", title=metric.label),
            alt.Tooltip("finding:N"),
        ],
    )
    colour = alt.Color("finding:N", scale=FINDINGS, legend=None)
    shares, totals = base.transform_filter("!datum.total"), base.transform_filter("datum.total")
    drawn = alt.layer(
        shares.mark_bar(height=22, cornerRadius=3, opacity=0.85).encode(x=x, x2="to:Q", color=colour),
        totals.mark_point(filled=True, size=130, opacity=1).encode(x=x, color=colour),
        shares.mark_rule(strokeWidth=2, strokeCap="round").encode(x=alt.X("low:Q"), x2="high:Q"),
        shares.mark_tick(height=11, thickness=2).encode(x=alt.X("low:Q")),
        shares.mark_tick(height=11, thickness=2).encode(x=alt.X("high:Q")),
        base.mark_text(align="left", dx=10, fontSize=13).encode(x=alt.X("place:Q"), text="text:N"),
    ).properties(width="container", height=_PER_BAR * len(order))
    told = f"How each stage moves {metric.label} from everything off to everything on, with 95% intervals of the shares"
    return spec(drawn, rows, told)


def _domain(rows: Rows) -> list[float]:
    """All that is drawn, with room for a number at the right, on a phone too."""
    low = min(min(row["low"], row["from"], row["to"]) for row in rows)
    high = max(max(row["high"], row["from"], row["to"]) for row in rows)
    span = max(high - low, 0.02)
    return [low - 0.06 * span, high + 0.26 * span]


def _ids(report: AttributionReport) -> dict[str, str]:
    """Metric -> id of its chart, the headline first."""
    order = [report.headline, *(name for name in report.metrics if name != report.headline)]
    return {metric: f"kind-{number}" for number, metric in enumerate(order)}


def _kinds(report: AttributionReport) -> list[dict[str, object]]:
    """Work by stage and setting, what was shared and what it took."""
    return [
        {
            "stage": it.kind,
            "asked": it.asked,
            "distinct": it.distinct,
            "spared": 1 - it.distinct / it.asked if it.asked else 0.0,
            "seconds": it.seconds,
        }
        for it in report.work
    ]
