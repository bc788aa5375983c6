"""Curves as Vega-Lite specs: recall by rank, precision by recall, training by step."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import altair as alt

from searchtune.evaluation.report import Report
from searchtune.evaluation.vega import Rows, Spec, chart, counts_axis, figures_axis, spec, system_colours, worded
from searchtune.evaluation.wording import NOISE, figure, metric_label
from searchtune.metrics.curves import RECALL_LEVELS


def recall_rows(report: Report) -> Rows:
    """Recall of every system at each rank to 20, then at every fifth."""
    return [
        worded({"system": name, "k": k, "recall": value}, recall=figure)
        for name, curve in report.recall_curve.items()
        for k, value in enumerate(curve, start=1)
        if k <= 20 or k % 5 == 0
    ]


def recall_chart(report: Report) -> Spec:
    """Mean recall by rank, the ranks on a logarithmic scale."""
    ranks = [1, 2, 5, 10, 20, 50, 100]
    scale, axis = alt.Scale(type="log", nice=False), alt.Axis(values=ranks, format="d")
    drawn = _lines(
        system_colours(report, list(report.recall_curve)),
        alt.X("k:Q", title="rank k", scale=scale, axis=axis),
        alt.Y("recall:Q", title="mean recall", scale=alt.Scale(zero=False), axis=figures_axis()),
        [alt.Tooltip("system:N"), alt.Tooltip("k:Q"), alt.Tooltip("recall_text:N", title="recall")],
    )
    return spec(drawn, recall_rows(report), "Mean recall by rank, one line a system")


def precision_chart(report: Report) -> Spec:
    """Mean interpolated precision at eleven levels of recall."""
    rows = [
        worded({"system": name, "recall": level, "precision": value}, precision=figure)
        for name, curve in report.precision_curve.items()
        for level, value in zip(RECALL_LEVELS, curve, strict=True)
    ]
    drawn = _lines(
        system_colours(report, list(report.precision_curve)),
        alt.X("recall:Q", title="recall", axis=figures_axis(6)),
        alt.Y("precision:Q", title="mean precision", axis=figures_axis(6)),
        [alt.Tooltip("system:N"), alt.Tooltip("recall:Q"), alt.Tooltip("precision_text:N", title="precision")],
    )
    return spec(drawn, rows, "Mean interpolated precision by recall, one line a system")


def flat(report: Report) -> bool:
    """Whether precision is the same at every recall, as where every query has one relevant document."""
    return all(max(curve) - min(curve) < NOISE for curve in report.precision_curve.values() if curve)


def _lines(colours: alt.Scale, x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip]) -> Any:
    """One line a system, told apart by colour and by dashes."""
    names = colours.domain
    legend = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeWidth=2, columns=2)
    color = alt.Color("system:N", sort=names, scale=colours, title=None, legend=legend)
    base = chart().encode(x=x, y=y, color=color, tooltip=tooltip)
    line = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("system:N", sort=names, scale=alt.Scale(domain=names), title=None, legend=legend)
    )
    points = base.mark_point(filled=True, size=110, opacity=0, aria=False)
    return alt.layer(line, points).properties(width="container", height=300)


def loss_chart(rows: Rows) -> Spec:
    """Training loss by step."""
    tooltip = [
        alt.Tooltip("step:Q"),
        alt.Tooltip("loss:Q", format=".4f"),
        alt.Tooltip("lr:Q", format=".2e", title="rate"),
    ]
    base = chart().encode(
        x=alt.X("step:Q", title="step", axis=counts_axis()),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False), axis=figures_axis()),
    )
    hover = base.mark_point(filled=True, size=120, opacity=0).encode(tooltip=tooltip)
    drawn = alt.layer(base.mark_line(strokeWidth=2), hover).properties(width="container", height=220)
    return spec(drawn, rows, "Training loss by step")


def dev_metric(report: Report) -> str:
    """The metric of the dev split that training chose by."""
    return str(report.training.get("dev_metric", report.headline_metric))


def dev_rows(report: Report) -> Rows:
    """One row for every look at the dev split; a look is a figure, or figures by their names."""
    name, kept = dev_metric(report), report.training.get("best_step")
    rows: Rows = []
    for step in report.training.get("curve", []):
        look = step.get("dev")
        value = look.get(name) if isinstance(look, Mapping) else look
        if isinstance(value, int | float) and math.isfinite(value):
            words = "yes" if step["step"] == kept else "no"
            rows.append(worded({"step": step["step"], "dev": value, "kept": words}, dev=figure))
    return rows


def dev_chart(rows: Rows, metric: str) -> Spec:
    """A metric of the dev split by step; the step that was kept has a larger point."""
    label = metric_label(metric)
    base = chart().encode(
        x=alt.X("step:Q", title="step", axis=counts_axis(), scale=alt.Scale(zero=False, padding=12)),
        y=alt.Y("dev:Q", title=f"dev {label}", scale=alt.Scale(zero=False, padding=12), axis=figures_axis()),
        tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("dev_text:N", title=label), alt.Tooltip("kept:N")],
    )
    size = alt.Size("kept:O", scale=alt.Scale(domain=["no", "yes"], range=[70, 240]), legend=None)
    drawn = alt.layer(base.mark_line(strokeWidth=2), base.mark_point(filled=True, opacity=1).encode(size=size))
    return spec(drawn.properties(width="container", height=220), rows, "Dev metric by step")
