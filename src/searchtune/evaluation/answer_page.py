"""The page of an `AnswerReport`: figures, errors, canaries and every question with its answers side by side.

One file that needs no network and forbids itself all connections. Texts come into it as data and are shown as text. It
is made from the report alone, so that it can be made again from its JSON.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.evaluation.answer_report import AnswerReport, QuestionRow
from searchtune.evaluation.answer_wording import (
    CONDITIONS,
    ERRORS,
    LABELS,
    AnswerOutcome,
    always_abstaining,
    answer_outcome,
    answer_verdict,
    answer_warnings,
    arrow,
    direction,
    headline_comparison,
)
from searchtune.evaluation.examples import shorten
from searchtune.evaluation.page import LIMIT, environment
from searchtune.storage.atomic import write_text

MOST_ROWS = 5_000
"""Questions in the page; of more, those that differ most between systems."""
LENGTHS = (4000, 1600, 800, 400, 200)
"""Characters of a passage, the first that lets the page stay within its size."""
PICTURED = ("overall", "token_f1", "citation_precision", "citation_recall", "unsupported", "abstention_f1")
"""Figures that are drawn with their intervals."""
_MOST_REFERENCES = 5
_BADGES = {
    AnswerOutcome.BETTER: ("good", "Better answers"),
    AnswerOutcome.WORSE: ("bad", "Worse answers"),
    AnswerOutcome.MIXED: ("caution", "Better and worse"),
    AnswerOutcome.NO_DIFFERENCE: ("neutral", "No difference shown"),
    AnswerOutcome.TOO_FEW: ("neutral", "Too few questions"),
    AnswerOutcome.ALONE: ("neutral", "One system, nothing to compare"),
}


def render_answer_page(report: AnswerReport) -> str:
    """The whole page as HTML, its passages as long as its size allows."""
    tone, badge = _BADGES[answer_outcome(report)]
    headline, *reasons = answer_verdict(report)
    main = report.main_condition
    text = ""
    for length in LENGTHS:
        text = (
            environment()
            .get_template("answers.html.j2")
            .render(
                report=report,
                tone=tone,
                badge=badge,
                headline=headline.rstrip("."),
                reasons=reasons,
                warnings=answer_warnings(report),
                main=main,
                against=headline_comparison(report),
                names=report.figures,
                pictured=[name for name in PICTURED if name in report.figures],
                labels=LABELS,
                conditions=CONDITIONS,
                kinds=ERRORS,
                arrow=arrow,
                direction=direction,
                always={name: always_abstaining(it.n, it.to_abstain) for name, it in report.conditions.items()},
                data=answer_data(report, length),
            )
        )
        if len(text.encode("utf-8")) <= LIMIT:
            break
    return text


def write_answer_page(report: AnswerReport, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_answer_page(report))


def answer_data(report: AnswerReport, length: int = LENGTHS[0]) -> dict[str, Any]:
    """What the table of questions reads: passages cut to `length`, and one row a question."""
    rows = _most_different(report)
    used = sorted({number for row in rows for shown in row.shown.values() for number in shown.passages})
    place = {number: i for i, number in enumerate(used)}
    return {
        "systems": report.systems,
        "headline": report.headline,
        "reference": report.reference,
        "main": report.main_condition,
        "conditions": {name: CONDITIONS[name] for name in report.conditions},
        "errors": dict(ERRORS) if report.errors else {},
        "left_out": len(report.rows) - len(rows),
        "passages": [shorten(report.passages[number], length) for number in used],
        "rows": [_row(row, place, length) for row in rows],
    }


def _row(row: QuestionRow, place: dict[int, int], length: int) -> dict[str, Any]:
    return {
        "id": row.id,
        "question": row.question,
        "answerable": row.answerable,
        "references": [shorten(text, length) for text in row.references[:_MOST_REFERENCES]],
        "errors": row.errors,
        "shown": {
            condition: {
                "passages": [place[number] for number in shown.passages],
                "gold": shown.gold,
                "answers": {
                    system: {
                        "text": shorten_lines(answer.text, length),
                        "cites": answer.citations,
                        "abstained": answer.abstained,
                        "doubtful": answer.doubtful,
                        "scores": {
                            name: None if math.isnan(value) else round(value, 3)
                            for name, value in answer.scores.items()
                        },
                    }
                    for system, answer in shown.answers.items()
                },
            }
            for condition, shown in row.shown.items()
        },
    }


def shorten_lines(text: str, length: int) -> str:
    """`text` cut to `length` characters, its line breaks kept."""
    return text if len(text) <= length else text[: length - 1].rstrip() + "…"


def _most_different(report: AnswerReport) -> list[QuestionRow]:
    """The rows in their order, at most `MOST_ROWS`: those with the widest spread of `overall` between two systems."""
    if len(report.rows) <= MOST_ROWS:
        return report.rows
    main = report.main_condition
    scores = np.stack([np.nan_to_num(report.values(main, system, "overall")) for system in report.systems], axis=1)
    spread = np.ptp(scores, axis=1)
    return [report.rows[i] for i in np.sort(np.argsort(-spread, kind="stable")[:MOST_ROWS])]
