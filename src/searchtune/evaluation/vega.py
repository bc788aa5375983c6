"""What all charts of the pages are made with: specs, axes whose labels differ, worded figures, one colour a system.

Colours are named as the theme's variables (`theme:accent`); the page's script puts in those of its theme.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import altair as alt
import numpy as np

from searchtune.evaluation.report import Report

Spec = dict[str, Any]
Rows = list[dict[str, Any]]
_OTHERS = ("theme:second", "theme:third", "theme:fourth", "theme:fifth", "theme:sixth", "theme:seventh")
"""Colours of the systems that are neither the reference nor the one it is set against, in turn."""
FINDINGS = alt.Scale(
    domain=["gain", "loss", "within chance", "total"], range=["theme:good", "theme:bad", "theme:other", "theme:accent"]
)


def chart() -> alt.Chart:
    """A chart whose rows `spec` puts in: altair would copy and check each of them."""
    return alt.Chart(alt.NamedData("rows"))


def spec(drawn: Any, rows: Rows, description: str) -> Spec:
    """The spec without altair's own theme, described for screen readers.

    It is not checked against the schema here, which takes half of a page's time: the tests do that.
    """
    described = cast(Spec, drawn.properties(description=description).to_dict(validate=False))
    return {key: value for key, value in described.items() if key != "config"} | {"data": {"values": rows}}


def thin(rows: Rows, most: int) -> Rows:
    """At most `most` rows, evenly spaced, first and last included."""
    if len(rows) <= most:
        return rows
    return [rows[i] for i in np.unique(np.linspace(0, len(rows) - 1, most).round().astype(int))]


def worded(row: dict[str, Any], **wordings: Callable[[float], str]) -> dict[str, Any]:
    """The row with `KEY_text` beside every named key: figures of tooltips, as tables and sentences write them."""
    return row | {f"{key}_text": word(row[key]) for key, word in wordings.items()}


def figures_axis(count: int = 5, **options: Any) -> alt.Axis:
    """Labels with as many decimals as the distance between ticks needs, so that no two are the same."""
    return alt.Axis(tickCount=count, **options)


def changes_axis(count: int = 4, **options: Any) -> alt.Axis:
    """The same with signs, and a plain 0 at no change."""
    zero = "abs(datum.value) > 1e-9 ? datum.label : '0'"
    return alt.Axis(tickCount=count, format="+f", labelExpr=zero, labelOverlap="greedy", **options)


def counts_axis(count: int = 6, **options: Any) -> alt.Axis:
    """Whole numbers, such as steps."""
    return alt.Axis(tickCount=count, labelExpr="datum.value % 1 ? '' : format(datum.value, ',d')", **options)


def system_colours(report: Report, drawn: Sequence[str]) -> alt.Scale:
    """The colours of systems, the same on every chart: the reference is grey, what it is set against stands out."""
    colours = {}
    if report.pair is not None:
        colours = dict(zip(report.pair, ("theme:other", "theme:accent"), strict=True))
    rest = [name for name in dict.fromkeys([*report.systems, *report.trade_offs, *drawn]) if name not in colours]
    colours |= {name: _OTHERS[place % len(_OTHERS)] for place, name in enumerate(rest)}
    return alt.Scale(domain=list(drawn), range=[colours[name] for name in drawn])
