"""Curves as Vega-Lite specs: recall by rank, precision by recall, training by step."""

from __future__ import annotations

from typing import Any

import altair as alt

from searchtune.evaluation.report import Report
from searchtune.evaluation.vega import Rows, Spec, chart, spec
from searchtune.evaluation.wording import metric_label
from searchtune.metrics.curves import RECALL_LEVELS


def recall_rows(report: Report) -> Rows:
    """Recall of every system at each rank to 20, then at every fifth."""
    return [
        {"system": name, "k": k, "recall": value}
        for name, curve in report.recall_curve.items()
        for k, value in enumerate(curve, start=1)
        if k <= 20 or k % 5 == 0
    ]


def recall_chart(report: Report) -> Spec:
    """Mean recall by rank, the ranks on a logarithmic scale."""
    ranks = [1, 2, 5, 10, 20, 50, 100]
    scale, axis = alt.Scale(type="log", nice=False), alt.Axis(values=ranks, format="d")
    drawn = _lines(
        list(report.recall_curve),
        alt.X("k:Q", title="rank k", scale=scale, axis=axis),
        alt.Y("recall:Q", title="mean recall", scale=alt.Scale(zero=False), axis=alt.Axis(format=".2f")),
        [alt.Tooltip("system:N"), alt.Tooltip("k:Q"), alt.Tooltip("recall:Q", format=".3f")],
    )
    return spec(drawn, recall_rows(report), "Mean recall by rank, one line a system")


def precision_chart(report: Report) -> Spec:
    """Mean interpolated precision at eleven levels of recall."""
    rows = [
        {"system": name, "recall": level, "precision": value}
        for name, curve in report.precision_curve.items()
        for level, value in zip(RECALL_LEVELS, curve, strict=True)
    ]
    drawn = _lines(
        list(report.precision_curve),
        alt.X("recall:Q", title="recall", axis=alt.Axis(format=".1f", tickCount=6)),
        alt.Y("precision:Q", title="mean precision", axis=alt.Axis(format=".1f", tickCount=6)),
        [alt.Tooltip("system:N"), alt.Tooltip("recall:Q"), alt.Tooltip("precision:Q", format=".3f")],
    )
    return spec(drawn, rows, "Mean interpolated precision by recall, one line a system")


def _lines(names: list[str], x: alt.X, y: alt.Y, tooltip: list[alt.Tooltip]) -> Any:
    """One line a system, told apart by colour and by dashes."""
    legend = alt.Legend(symbolType="stroke", symbolSize=500, symbolStrokeWidth=2, columns=2)
    scale = alt.Scale(domain=names)
    color = alt.Color("system:N", sort=names, scale=scale, title=None, legend=legend)
    base = chart().encode(x=x, y=y, color=color, tooltip=tooltip)
    line = base.mark_line(strokeWidth=2).encode(
        strokeDash=alt.StrokeDash("system:N", sort=names, scale=scale, title=None, legend=legend)
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
        x=alt.X("step:Q", title="step", axis=alt.Axis(format="d", tickCount=6)),
        y=alt.Y("loss:Q", title="training loss", scale=alt.Scale(zero=False)),
    )
    hover = base.mark_point(filled=True, size=120, opacity=0).encode(tooltip=tooltip)
    drawn = alt.layer(base.mark_line(strokeWidth=2), hover).properties(width="container", height=220)
    return spec(drawn, rows, "Training loss by step")


def dev_chart(rows: Rows, metric: str) -> Spec:
    """A metric of the dev split by step."""
    base = chart().encode(
        x=alt.X("step:Q", title="step", axis=alt.Axis(format="d", tickCount=6)),
        y=alt.Y("dev:Q", title=f"dev {metric_label(metric)}", scale=alt.Scale(zero=False, padding=12)),
        tooltip=[alt.Tooltip("step:Q"), alt.Tooltip("dev:Q", format=".4f", title=metric_label(metric))],
    )
    line, points = base.mark_line(strokeWidth=2), base.mark_point(filled=True, size=90, opacity=1)
    return spec(alt.layer(line, points).properties(width="container", height=220), rows, "Dev metric by step")
