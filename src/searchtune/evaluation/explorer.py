"""What the page's table of queries holds: every judged query with its scores, and rankings as far as they fit."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from markupsafe import Markup

from searchtune.evaluation.examples import shorten
from searchtune.evaluation.rankings import within
from searchtune.evaluation.report import QueryScores, Report

MOST_ROWS = 10_000
"""Queries in the table; of more, those that differ most between systems."""
TEXT = 220
"""Characters of a query."""
PLACE = '<script type="application/json" id="rankings">null</script>'
"""Where the rankings go in a page that was rendered without them. Data cannot hold it: `<` is escaped there."""


def explorer_data(report: Report) -> dict[str, Any]:
    """The table without rankings: systems, the kinds of slices with their bins, and one row a query."""
    systems = list(report.systems)
    bins = [(kind, name) for kind, found in report.breakdown.items() for name in found]
    place = {pair: number for number, pair in enumerate(bins)}
    rows = _most_different(report.per_query)
    a, b = report.pair or (report.reference, report.reference)
    return {
        "systems": systems,
        "a": a,
        "b": b,
        "slices": [name for name in ("unseen", "seen") if any(row.slice == name for row in report.per_query)],
        "bins": [list(pair) for pair in bins],
        "left_out": len(report.per_query) - len(rows),
        "rows": [
            {
                "id": row.id,
                "text": shorten(row.text, TEXT),
                "slice": row.slice,
                "bins": [
                    place[kind, name] for kind, names in row.bins.items() for name in names if (kind, name) in place
                ],
                "scores": [row.scores.get(name) for name in systems],
            }
            for row in rows
        ],
    }


def rankings_script(report: Report, room: int) -> str:
    """The script element with the report's rankings, cut to `room` bytes of JSON; `null` where it holds none."""
    if report.rankings is None:
        return PLACE
    return PLACE.replace("null", script_json(within(report.rankings, room).model_dump(mode="json")))


def script_json(value: Any) -> Markup:
    """Compact JSON that may stand inside a script element: nothing in it can end the element or start another."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)
    for char in "<>&\u2028\u2029":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return Markup(text)


def _most_different(rows: list[QueryScores]) -> list[QueryScores]:
    """The rows in their order, at most `MOST_ROWS`: those with the widest spread between two systems."""
    if len(rows) <= MOST_ROWS:
        return rows
    spread = np.array([np.ptp(list(row.scores.values())) for row in rows])
    return [rows[i] for i in np.sort(np.argsort(-spread, kind="stable")[:MOST_ROWS])]
