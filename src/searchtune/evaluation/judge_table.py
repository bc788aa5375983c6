"""The table of a judge's report for a terminal."""

from __future__ import annotations

from searchtune.evaluation.judge_report import JudgeReport
from searchtune.evaluation.judge_wording import LABELS
from searchtune.evaluation.wording import figure, percent
from searchtune.metrics.significance import Estimate

_SHOWN = ("kappa", "kappa_graded", "precision", "recall")


def judge_table(report: JudgeReport) -> list[str]:
    """One line a judge: agreement with intervals, tau of the order of systems, share of canaries that raise a grade."""
    names = [name for name in _SHOWN if any(name in judge.figures for judge in report.judges.values())]
    ranked = any(judge.ranking for judge in report.judges.values())
    fooled = any(judge.canaries for judge in report.judges.values())
    rows = [["judge", *(LABELS[name] for name in names), *(["τ of systems"] * ranked), *(["fooled"] * fooled)]]
    for name, judge in report.judges.items():
        row = [name, *(_figure(judge.figures.get(figure)) for figure in names)]
        if ranked:
            row.append(_figure(judge.ranking.tau if judge.ranking else None))
        if fooled:
            tried = sum(canary.pairs for canary in judge.canaries.values())
            rises = sum(canary.rises.mean * canary.pairs for canary in judge.canaries.values())
            row.append(f"{percent(rises / tried)} of {tried:,}" if tried else "-")
        rows.append(row)
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _figure(estimate: Estimate | None) -> str:
    if estimate is None or estimate.mean != estimate.mean:
        return "-"
    return f"{figure(estimate.mean)} [{figure(estimate.low)}, {figure(estimate.high)}]"
