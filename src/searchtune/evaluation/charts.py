"""The page's charts as Vega-Lite specs."""

from __future__ import annotations

import math
from collections.abc import Mapping

import altair as alt

from searchtune.evaluation.curve_charts import (
    dev_chart,
    dev_metric,
    dev_rows,
    flat,
    loss_chart,
    precision_chart,
    recall_chart,
)
from searchtune.evaluation.examples import shorten
from searchtune.evaluation.parts import shown_parts
from searchtune.evaluation.report import Report, Slice
from searchtune.evaluation.reranking_charts import (
    reliability_chart,
    reliability_rows,
    trade_off_chart,
    trade_off_rows,
)
from searchtune.evaluation.vega import (
    FINDINGS,
    Rows,
    Spec,
    changes_axis,
    chart,
    figures_axis,
    spec,
    system_colours,
    thin,
    worded,
)
from searchtune.evaluation.wording import figure, metric_label, p_text, signed

MOST_BARS = 1500
"""Queries that the gain chart draws; of more, an even sample of the sorted gains, both ends included."""
MOST_STEPS = 600
"""Steps that the loss curve draws."""


def page_charts(report: Report) -> dict[str, Spec]:
    """Every chart the report has data for, by the id of the element that shows it."""
    charts = {f"slice-{name}": chart for name, chart in _slice_charts(report).items()}
    if report.pair is not None and any(row["gain"] for row in gain_rows(report)):
        charts["gains"] = _gains(report, *report.pair)
    for number, bins in enumerate(report.breakdown.values()):
        rows = bin_rows(report, bins) if len(bins) > 1 else []  # one bin says what the means say
        if rows:
            charts[f"kind-{number}"] = _bins(rows, pair_names(report)[0], report.headline_metric)
    if report.recall_curve:
        charts["recall"] = recall_chart(report)
    if report.precision_curve and not flat(report):
        charts["precision"] = precision_chart(report)
    if measured := trade_off_rows(report):
        charts["trade-off"] = trade_off_chart(report, measured)
    if predicted := reliability_rows(report.calibration):
        charts["reliability"] = reliability_chart(predicted)
    curve = [row for row in report.training.get("curve", []) if row.get("loss") is not None]
    if curve:
        charts["loss"] = loss_chart(thin(curve, MOST_STEPS))
    if dev := dev_rows(report):
        charts["dev"] = dev_chart(dev, dev_metric(report))
    return charts


def slice_rows(report: Report) -> Rows:
    """One row for every slice, system and metric that has a mean; without an interval, the mean stands for it."""
    return [
        worded(
            {
                "slice": name,
                "system": system,
                "metric": metric,
                "mean": estimate.mean,
                "low": estimate.low if estimate.n > 1 else estimate.mean,
                "high": estimate.high if estimate.n > 1 else estimate.mean,
                "n": estimate.n,
            },
            mean=figure,
            low=figure,
            high=figure,
        )
        for name, part in shown_parts(report).items()
        for system, item in part.systems.items()
        for metric, estimate in item.metrics.items()
        if estimate.n
    ]


def gain_rows(report: Report) -> Rows:
    """One row a query from the largest gain to the largest loss, thinned where there are very many."""
    if report.pair is None:
        return []
    a, b = report.pair
    rows: Rows = [
        {
            "query": shorten(query.text, 140),
            "id": query.id,
            "slice": query.slice,
            "before": query.scores[a],
            "after": query.scores[b],
            "gain": round(query.scores[b] - query.scores[a], 6),
        }
        for query in report.per_query
    ]
    rows.sort(key=lambda row: (-row["gain"], row["slice"], row["id"]))
    return [
        worded({"rank": rank, **row}, before=figure, after=figure, gain=signed)
        for rank, row in enumerate(thin(rows, MOST_BARS), start=1)
    ]


def pair_names(report: Report) -> list[str]:
    """Every compared pair as `base → tuned`, the one that charts set against each other first."""
    compared = [(it.a, it.b) for it in report.comparisons if it.metric == report.headline_metric]
    if report.pair is not None:
        a, b = report.pair
        compared = [(a, b), *(pair for pair in compared if pair not in ((a, b), (b, a)))]
    return [f"{a} → {b}" for a, b in compared]


def bin_rows(report: Report, bins: Mapping[str, Slice]) -> Rows:
    """One row for every bin and compared pair; without an interval, the change stands for it."""
    rows: Rows = []
    for name, part in bins.items():
        for it in part.comparisons:
            told = it.flipped() if (it.b, it.a) == report.pair else it
            if not told.n:
                continue
            finding = ("gain" if told.delta > 0 else "loss") if told.significant else "within chance"
            row = {
                "bin": f"{shorten(name, 40)} · {told.n:,}",
                "pair": f"{told.a} → {told.b}",
                "finding": finding,
                "change": told.delta,
                "low": told.delta if math.isnan(told.low) else told.low,
                "high": told.delta if math.isnan(told.high) else told.high,
                "p": p_text(told.p_holm),
                "before": part.estimate(told.a).mean,
                "after": part.estimate(told.b).mean,
                "n": told.n,
            }
            rows.append(worded(row, change=signed, low=signed, high=signed, before=figure, after=figure))
    return rows


def _bins(rows: Rows, first: str, metric: str) -> Spec:
    """The change of every bin with its interval, beside a line at no change."""
    order = list(dict.fromkeys(row["bin"] for row in rows))
    shown = chart().transform_filter("datum.pair === pair")
    marks = shown.encode(
        y=alt.Y("bin:N", sort=order, title=None, axis=alt.Axis(labelLimit=190)),
        color=alt.Color("finding:N", scale=FINDINGS, legend=None),
        tooltip=[
            alt.Tooltip("bin:N", title="queries"),
            alt.Tooltip("change_text:N", title="change"),
            alt.Tooltip("low_text:N", title="95% from"),
            alt.Tooltip("high_text:N", title="95% to"),
            alt.Tooltip("p:N", title="corrected"),
            alt.Tooltip("finding:N"),
            alt.Tooltip("before_text:N", title="before"),
            alt.Tooltip("after_text:N", title="after"),
        ],
    )
    scale = alt.Scale(zero=True, padding=8)
    axis = changes_axis()
    layers = [
        shown.mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False).encode(
            x=alt.XDatum(0, type="quantitative", scale=scale)
        ),
        marks.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.55).encode(
            x=alt.X("low:Q", scale=scale, title=None, axis=axis), x2="high:Q"
        ),
        marks.mark_point(filled=True, size=95, opacity=1).encode(x=alt.X("change:Q", scale=scale)),
    ]
    pair = alt.param(name="pair", value=first)
    drawn = alt.layer(*layers).add_params(pair).properties(width="container", height=30 * len(order))
    return spec(drawn, rows, f"Change in {metric_label(metric)} by kind of query, with 95% intervals")


def _slice_charts(report: Report) -> dict[str, Spec]:
    """One interval plot a slice, all on the same scale, which spans every interval of the chosen metric."""
    rows = slice_rows(report)
    order = list(report.systems)
    return {name: _interval_plot(rows, name, order, report) for name in shown_parts(report)}


def _interval_plot(rows: Rows, name: str, order: list[str], report: Report) -> Spec:
    metric = alt.param(name="metric", value=report.headline_metric)
    scale = alt.Scale(zero=False, nice=True)
    x = alt.X("low:Q", scale=scale, title=None, axis=figures_axis(labelOverlap="greedy"))
    y = alt.Y("system:N", sort=order, title=None, axis=alt.Axis(labelLimit=150))
    every = chart().transform_filter("datum.metric === metric")
    shown = every.transform_filter(alt.datum.slice == name)
    marks = shown.encode(
        y=y,
        color=alt.Color("system:N", scale=system_colours(report, order), legend=None),
        tooltip=[
            alt.Tooltip("system:N"),
            alt.Tooltip("mean_text:N", title="mean"),
            alt.Tooltip("low_text:N", title="95% from"),
            alt.Tooltip("high_text:N", title="95% to"),
            alt.Tooltip("n:Q", title="queries"),
        ],
    )
    layers = [
        every.mark_rule(opacity=0, tooltip=None, aria=False).encode(x=x, x2="high:Q", y=y),  # spans the common scale
        shown.transform_filter(alt.datum.system == report.reference)
        .mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False)
        .encode(x=alt.X("mean:Q", scale=scale)),
        marks.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.55).encode(x=x, x2="high:Q"),
        marks.mark_point(filled=True, size=95, opacity=1).encode(x=alt.X("mean:Q", scale=scale)),
    ]
    drawn = alt.layer(*layers).add_params(metric).properties(width="container", height=30 * len(order))
    return spec(drawn, rows, f"Mean and 95% interval of every system, {name} queries")


def _gains(report: Report, before: str, after: str) -> Spec:
    label = metric_label(report.headline_metric)
    rows = gain_rows(report)
    slices = [name for name in ("unseen", "seen", "unknown") if any(row["slice"] == name for row in rows)]
    colours = ["theme:accent", "theme:second"][
        : len(slices)
    ]  # of one pair of systems: these are not colours of systems
    legend = alt.Legend() if len(slices) > 1 else None
    pick = alt.selection_point(fields=["slice"], bind="legend")
    bars = (
        chart()
        .mark_bar()
        .encode(
            x=alt.X("rank:O", axis=None, scale=alt.Scale(paddingInner=0.08 if len(rows) < 400 else 0)),
            y=alt.Y("gain:Q", title=f"change in {label}", axis=changes_axis(6)),
            color=alt.Color("slice:N", scale=alt.Scale(domain=slices, range=colours), title=None, legend=legend),
            opacity=alt.when(pick).then(alt.value(1)).otherwise(alt.value(0.12)),
            tooltip=[
                alt.Tooltip("query:N"),
                alt.Tooltip("gain_text:N", title="change"),
                alt.Tooltip("before_text:N", title=before),
                alt.Tooltip("after_text:N", title=after),
                alt.Tooltip("slice:N"),
                alt.Tooltip("id:N"),
            ],
        )
        .add_params(pick)
        .properties(width="container", height=260)
    )
    return spec(bars, rows, f"Change in {label} of every query, from the largest gain to the largest loss")
