"""What rerankers are judged by as Vega-Lite specs: quality against cost, and predictions against what is relevant."""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt

from searchtune.evaluation.report import Reliability, Report
from searchtune.evaluation.vega import Rows, Spec, chart, figures_axis, spec, system_colours, worded
from searchtune.evaluation.wording import figure, metric_label, p_text, signed

WIDE = 30
"""Costs that differ by more than this factor are drawn on a logarithmic scale."""


def trade_off_rows(report: Report) -> Rows:
    """One row for every depth whose time was measured; without an interval, the mean stands for it."""
    rows: Rows = [
        {
            "system": system,
            "point": point.name,
            "depth": point.depth,
            "pairs": point.pairs_per_query,
            "ms": point.ms_per_query,
            "mean": point.estimate.mean,
            "low": point.estimate.low if point.estimate.n > 1 else point.estimate.mean,
            "high": point.estimate.high if point.estimate.n > 1 else point.estimate.mean,
            "gain": point.gain.delta,
            "p": p_text(point.gain.p_value if math.isnan(point.gain.p_holm) else point.gain.p_holm),
        }
        for system, it in report.trade_offs.items()
        for point in it.points
        if not math.isnan(point.ms_per_query)
    ]
    return [
        worded(row, mean=figure, low=figure, high=figure, gain=signed) | {"first": not number}  # names the reference
        for number, row in enumerate(rows)
    ]


def trade_off_chart(report: Report, rows: Rows) -> Spec:
    """Quality against milliseconds per query, one line a reranker, beside a rule at retrieval alone."""
    names = list(dict.fromkeys(row["system"] for row in rows))
    times = [row["ms"] for row in rows]
    wide = min(times) > 0 and max(times) / min(times) > WIDE
    domain = alt.Scale(type="log", nice=False, padding=24) if wide else alt.Scale(zero=True, nice=True)
    x = alt.X("ms:Q", title="milliseconds per query", scale=domain, axis=alt.Axis(format="~r", tickCount=6))
    scale = alt.Scale(zero=False, padding=14)
    label = metric_label(report.headline_metric)
    y = alt.Y("mean:Q", title=label, scale=scale, axis=figures_axis())
    legend = alt.Legend(symbolType="circle", symbolOpacity=1, columns=2) if len(names) > 1 else None
    plain = chart()
    base = plain.encode(
        x=x, color=alt.Color("system:N", scale=system_colours(report, names), title=None, legend=legend)
    )
    tooltip = [
        alt.Tooltip("system:N"),
        alt.Tooltip("point:N"),
        alt.Tooltip("mean_text:N", title="mean"),
        alt.Tooltip("low_text:N", title="95% from"),
        alt.Tooltip("high_text:N", title="95% to"),
        alt.Tooltip("gain_text:N", title="against retrieval alone"),
        alt.Tooltip("p:N", title="corrected"),
        alt.Tooltip("ms:Q", format=",.3~r"),
        alt.Tooltip("pairs:Q", format=",.3~r", title="pairs per query"),
    ]
    (reference,) = {it.reference for it in report.trade_offs.values()}
    at = alt.YDatum(report.estimate(reference).mean, type="quantitative", scale=scale, title=label)
    layers = [
        plain.mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False).encode(y=at),
        plain.mark_text(align="left", baseline="top", dx=6, dy=5, fontSize=12, tooltip=None)
        .encode(x=alt.value(0), y=at, text=alt.value(f"{reference} alone"))
        .transform_filter("datum.first"),
        base.mark_line(strokeWidth=2, opacity=0.6).encode(y=y, order="depth:Q"),
        base.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.35).encode(
            y=alt.Y("low:Q", scale=scale, title=label), y2="high:Q"
        ),
        base.mark_point(filled=True, size=110, opacity=1).encode(y=y, tooltip=tooltip),
        base.mark_text(align="left", dx=8, dy=11, fontSize=12).encode(y=y, text="depth:Q"),
    ]
    drawn = alt.layer(*layers).properties(width="container", height=320)
    return spec(drawn, rows, "Quality against milliseconds per query by depth of reranking, with 95% intervals")


def reliability_rows(calibration: Mapping[str, Reliability]) -> Rows:
    """One row for every bin that holds a pair."""
    return [
        worded(
            {
                "name": name,
                "predicted": part.predicted,
                "share": part.relevant.mean,
                "low": part.relevant.low,
                "high": part.relevant.high,
                "n": part.relevant.n,
                "bin": f"{part.low:.1f} to {part.high:.1f}",
            },
            predicted=figure,
            share=figure,
            low=figure,
            high=figure,
        )
        for name, it in calibration.items()
        for part in it.bins
    ]


def reliability_chart(rows: Rows) -> Spec:
    """Predicted probability against the share that is relevant, beside the line where they agree."""
    names = list(dict.fromkeys(row["name"] for row in rows))
    unit, colours = (
        alt.Scale(domain=[0, 1]),
        alt.Scale(domain=names, range=["theme:second", "theme:accent"][-len(names) :]),
    )
    x = alt.X("predicted:Q", title="predicted probability", scale=unit, axis=figures_axis(6))
    y = alt.Y("share:Q", title="share relevant", scale=unit, axis=figures_axis(6))
    legend = alt.Legend(symbolType="circle", symbolOpacity=1, columns=2) if len(names) > 1 else None
    plain = chart()
    base = plain.encode(x=x, color=alt.Color("name:N", scale=colours, title=None, legend=legend))
    tooltip = [
        alt.Tooltip("name:N"),
        alt.Tooltip("bin:N"),
        alt.Tooltip("predicted_text:N", title="predicted"),
        alt.Tooltip("share_text:N", title="share relevant"),
        alt.Tooltip("low_text:N", title="95% from"),
        alt.Tooltip("high_text:N", title="95% to"),
        alt.Tooltip("n:Q", title="pairs", format=","),
    ]
    layers = [
        plain.mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False).encode(
            x=alt.XDatum(0, type="quantitative", scale=unit, title="predicted probability"),
            y=alt.YDatum(0, type="quantitative", scale=unit, title="share relevant"),
            x2=alt.X2Datum(1),
            y2=alt.Y2Datum(1),
        ),
        base.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.35).encode(
            y=alt.Y("low:Q", scale=unit, title="share relevant"), y2="high:Q"
        ),
        base.mark_line(strokeWidth=2, opacity=0.6).encode(y=y),
        base.mark_point(filled=True, opacity=1).encode(
            y=y, size=alt.Size("n:Q", scale=alt.Scale(range=[40, 260]), legend=None), tooltip=tooltip
        ),
    ]
    drawn = alt.layer(*layers).properties(width="container", height=320)
    return spec(drawn, rows, "Share of relevant pairs by predicted probability, with 95% intervals")
