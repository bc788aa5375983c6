"""What judges are looked at by as Vega-Lite specs: agreement, calibration, bias, and systems by both sides' labels."""

from __future__ import annotations

import math

import altair as alt

from searchtune.evaluation.examples import shorten
from searchtune.evaluation.judge_report import Bias, JudgeReport, Ranking
from searchtune.evaluation.reranking_charts import reliability_chart, reliability_rows
from searchtune.evaluation.vega import Rows, Spec, changes_axis, chart, figures_axis, spec, worded
from searchtune.evaluation.wording import figure, signed
from searchtune.metrics.significance import Estimate

PER_ROW = 34
"""Height of one judge in pixels."""
MOST_NAMED = 12
"""Systems up to which each point of the scatter bears its name."""


def judge_charts(report: JudgeReport) -> dict[str, Spec]:
    """Every chart the report has data for, by the id of the element that shows it."""
    charts = {}
    if rows := kappa_rows(report):
        charts["kappa"] = _kappa(report, rows)
    if rows := reliability_rows(report.lead.calibration):
        charts["reliability"] = reliability_chart(rows)
    for number, bias in enumerate(report.lead.bias):
        if rows := bias_rows(bias):
            charts[f"bias-{number}"] = _bias(bias, rows)
    order = report.lead.ranking
    if order is not None and (rows := system_rows(order)):
        charts["systems"] = _systems(order, rows)
    return charts


def kappa_rows(report: JudgeReport) -> Rows:
    """One row for every judge that has a kappa, the most agreeing first."""
    found: Rows = [
        worded(
            {"judge": name, "kind": judge.kind, "lead": name == report.headline, **_spread(judge.figure("kappa"))},
            **dict.fromkeys(("mean", "low", "high"), figure),
        )
        for name, judge in report.judges.items()
        if not math.isnan(judge.figure("kappa").mean)
    ]
    return sorted(found, key=lambda row: -row["mean"])


def bias_rows(bias: Bias) -> Rows:
    """One row for every bin of a feature, from the lowest."""
    return [
        worded(
            {"bin": _span(it.low, it.high), "pairs": it.pairs, "error": it.error, **_spread(it.adjusted)},
            **dict.fromkeys(("error", "mean", "low", "high"), signed),
        )
        for it in bias.bins
    ]


def system_rows(order: Ranking) -> Rows:
    """One row for every system that both sides measured."""
    return [
        worded(
            {
                "system": shorten(name, 40),
                "human": it.human.mean,
                "human_low": _or(it.human.low, it.human.mean),
                "human_high": _or(it.human.high, it.human.mean),
                "judge": it.judge.mean,
                "judge_low": _or(it.judge.low, it.judge.mean),
                "judge_high": _or(it.judge.high, it.judge.mean),
            },
            **dict.fromkeys([f"{side}{end}" for side in ("human", "judge") for end in ("", "_low", "_high")], figure),
        )
        for name, it in order.systems.items()
        if not math.isnan(it.human.mean) and not math.isnan(it.judge.mean)
    ]


def _kappa(report: JudgeReport, rows: Rows) -> Spec:
    """Kappa of every judge with its interval."""
    order = [row["judge"] for row in rows]
    base = chart().encode(
        y=alt.Y("judge:N", sort=order, title=None, axis=alt.Axis(labelLimit=220)),
        color=alt.Color(
            "lead:N", scale=alt.Scale(domain=[True, False], range=["theme:accent", "theme:other"]), legend=None
        ),
        tooltip=[
            alt.Tooltip("judge:N"),
            alt.Tooltip("kind:N"),
            alt.Tooltip("mean_text:N", title="kappa"),
            alt.Tooltip("low_text:N", title="95% from"),
            alt.Tooltip("high_text:N", title="95% to"),
        ],
    )
    low = min(0.0, *(row["low"] for row in rows))
    x = alt.X("low:Q", scale=alt.Scale(domain=[low, 1]), title="κ, relevant or not", axis=figures_axis(6))
    drawn = alt.layer(
        base.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.55).encode(x=x, x2="high:Q"),
        base.mark_point(filled=True, size=95, opacity=1).encode(x=alt.X("mean:Q", title="κ, relevant or not")),
    ).properties(width="container", height=PER_ROW * len(order))
    return spec(drawn, rows, f"Kappa of every judge with people on {report.collection}, with 95% intervals")


def _bias(bias: Bias, rows: Rows) -> Spec:
    """Judge minus human by bin, less what pairs of the same human grade have on average."""
    order = [row["bin"] for row in rows]
    plain = chart()
    title = "grades too high (+) or low (−)"
    y = alt.Y("low:Q", title=title, axis=changes_axis(5))
    base = plain.encode(
        x=alt.X("bin:N", sort=order, title=bias.feature, axis=alt.Axis(labelAngle=0, labelOverlap=True)),
        tooltip=[
            alt.Tooltip("bin:N", title=bias.feature),
            alt.Tooltip("mean_text:N", title="adjusted"),
            alt.Tooltip("low_text:N", title="95% from"),
            alt.Tooltip("high_text:N", title="95% to"),
            alt.Tooltip("error_text:N", title="judge − human"),
            alt.Tooltip("pairs:Q", format=","),
        ],
    )
    drawn = alt.layer(
        plain.mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False).encode(
            y=alt.YDatum(0, type="quantitative", title=title)
        ),
        base.mark_rule(strokeWidth=3, strokeCap="round", opacity=0.45).encode(y=y, y2="high:Q"),
        base.mark_point(filled=True, size=95, opacity=1).encode(y=alt.Y("mean:Q", title=title)),
    ).properties(width="container", height=220)
    return spec(
        drawn, rows, f"Error of the judge by {bias.feature}, among pairs of one human grade, with 95% intervals"
    )


def _systems(order: Ranking, rows: Rows) -> Spec:
    """Every system by people's labels and by the judge's, with a line where both agree."""
    values = [row[side + end] for row in rows for side in ("human", "judge") for end in ("_low", "_high")]
    pad = 0.04 * (max(values) - min(values)) or 0.05
    domain = [min(values) - pad, max(values) + pad]
    scale = alt.Scale(domain=domain, nice=False, zero=False)
    names = {"human": f"{order.metric} by people", "judge": f"{order.metric} by the judge"}
    axis = figures_axis(6)
    x = alt.X("human:Q", scale=scale, title=names["human"], axis=axis)
    y = alt.Y("judge:Q", scale=scale, title=names["judge"], axis=axis)
    plain = chart()
    tooltip = [alt.Tooltip("system:N")] + [
        alt.Tooltip(f"{side}{end}_text:N", title=f"{side}{title}")
        for side in ("human", "judge")
        for end, title in (("", ""), ("_low", ", 95% from"), ("_high", ", 95% to"))
    ]
    bars = plain.mark_rule(strokeWidth=2, strokeCap="round", opacity=0.3)
    layers = [
        plain.mark_rule(strokeDash=[2, 4], opacity=0.8, tooltip=None, aria=False).encode(
            x=alt.XDatum(domain[0], type="quantitative", scale=scale, title=names["human"]),
            y=alt.YDatum(domain[0], type="quantitative", scale=scale, title=names["judge"]),
            x2=alt.X2Datum(domain[1]),
            y2=alt.Y2Datum(domain[1]),
        ),
        bars.encode(x=alt.X("human_low:Q", scale=scale, title=names["human"], axis=axis), x2="human_high:Q", y=y),
        bars.encode(x=x, y=alt.Y("judge_low:Q", scale=scale, title=names["judge"], axis=axis), y2="judge_high:Q"),
        plain.mark_point(filled=True, size=95, opacity=1).encode(x=x, y=y, tooltip=tooltip),
    ]
    if len(rows) <= MOST_NAMED:
        named = plain.mark_text(align="left", dx=8, dy=10, fontSize=12, aria=False, limit=160)
        layers.append(named.encode(x=x, y=y, text="system:N"))
    drawn = alt.layer(*layers).properties(width="container", height=380)
    return spec(drawn, rows, f"Systems by {order.metric} with people's labels and with the judge's, with 95% intervals")


def _spread(estimate: Estimate) -> dict[str, float]:
    """Mean and interval; without one, the mean stands for it."""
    mean = estimate.mean
    return {"mean": mean, "low": _or(estimate.low, mean), "high": _or(estimate.high, mean)}


def _or(value: float, otherwise: float) -> float:
    return otherwise if math.isnan(value) else value


def _span(low: float, high: float) -> str:
    """`12–40` for large numbers, `0.25–0.50` for shares."""
    text = [f"{value:,.0f}" if max(abs(low), abs(high)) >= 2 else f"{value:.2f}" for value in (low, high)]
    return "–".join(dict.fromkeys(text))
