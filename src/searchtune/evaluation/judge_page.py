"""The page of a `JudgeReport`: how far a judge can be believed, as one file that needs no network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from altair.utils.schemapi import debug_mode

from searchtune.evaluation import page
from searchtune.evaluation.judge_charts import judge_charts
from searchtune.evaluation.judge_report import JudgeFigures, JudgeReport
from searchtune.evaluation.judge_wording import LABELS, JudgeUse, judge_use, judge_verdict, judge_warnings
from searchtune.storage.atomic import write_text

_BADGES = {
    JudgeUse.PAIRS: ("good", "Can grade single pairs"),
    JudgeUse.RANKING: ("good", "Can rank systems"),
    JudgeUse.SCREENING: ("caution", "Can screen, with checks"),
    JudgeUse.UNSETTLED: ("caution", "Not settled"),
    JudgeUse.NOTHING: ("bad", "Not to be relied on"),
    JudgeUse.TOO_FEW: ("neutral", "Too few labels"),
}


SHOWN = ("kappa", "precision", "recall", "accuracy", "kappa_quadratic", "alpha")
"""Figures of the table; the report holds more."""


def render_judge_page(report: JudgeReport) -> str:
    """The whole page as HTML."""
    tone, badge = _BADGES[judge_use(report.lead)]
    headline, *reasons = judge_verdict(report)
    with debug_mode(False):  # altair checks each part against its schema, which takes longer than to draw it
        charts = judge_charts(report)
    shown = [name for name in SHOWN if any(name in judge.figures for judge in report.judges.values())]
    return (
        page.environment()
        .get_template("judge.html.j2")
        .render(
            report=report,
            tone=tone,
            badge=badge,
            headline=headline.rstrip("."),
            reasons=reasons,
            warnings=judge_warnings(report),
            charts=charts,
            shown=shown,
            labels=LABELS,
            heats={name: heat(judge, len(report.grades)) for name, judge in report.judges.items()},
            vega=page.vega_script() if charts else "",
        )
    )


def write_judge_page(report: JudgeReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_judge_page(report))


def heat(judge: JudgeFigures, grades: int) -> list[list[dict[str, Any]]]:
    """The confusion matrix as cells: pairs, and their share of the pairs with that human grade.

    Grades that only the other side can give are left out; of a judge with a scale of its own, also those it never gave.
    """
    rows = judge.confusion[:grades]
    given = [number for number in range(len(judge.confusion)) if any(row[number] for row in rows)]
    width = grades if judge.graded and not any(number >= grades for number in given) else max(given, default=0) + 1
    return [
        [
            {"pairs": pairs, "share": pairs / max(sum(row), 1), "same": grade == number}
            for number, pairs in enumerate(row[:width])
        ]
        for grade, row in enumerate(rows)
    ]
