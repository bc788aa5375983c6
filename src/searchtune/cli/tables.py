"""Scores of files, comparisons and reports as a person reads them in a terminal, a pipe or a file."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from functools import partial

from rich import box
from rich.table import Table
from rich.text import Text

from searchtune.evaluation.compare import ComparisonTable
from searchtune.evaluation.report import Report
from searchtune.evaluation.table import natural_width, plain_console, render_report, side_by_side
from searchtune.evaluation.wording import bare_p, figure, interval, metric_label, queries, signed, spread
from searchtune.workflows.score import FileScores

LEAST = 100
"""Columns at which sentences break where nothing says how wide the output is."""


def terminal_width() -> int | None:
    """Columns of the terminal that shows stdout; None for a pipe or a file, which have room for any line."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def report_text(report: Report) -> str:
    """A report as wide as the terminal has room for, or as its table needs where there is none."""
    return render_report(report, width=terminal_width())


def render_scores(scores: FileScores, width: int | None = None) -> str:
    """Every run's means with their intervals, then every run against the first, Holm-corrected.

    In at most `width` columns, the metrics in several tables where one has no room; without a width nothing is cut.
    """
    room = sys.maxsize if width is None else width
    parts: list[Table | Text] = [
        Text(f"{queries(len(scores.query_ids))}, relevant from grade {scores.min_grade}"),
        *side_by_side(scores.metrics, partial(_means, scores), room),
    ]
    if scores.comparisons:
        paired = _table("against " + scores.comparisons[0].a, "metric", "difference", "p (Holm)", "better/same/worse")
        for it in scores.comparisons:
            difference = f"{signed(it.delta)}  {spread(it)}"
            tally = f"{it.wins}/{it.ties}/{it.losses}"
            paired.add_row(it.b, metric_label(it.metric), difference, bare_p(it.p_holm), tally)
        parts.append(paired)
    parts.extend(
        Text(f"{it.name} lacks {queries(it.missing)} that are judged; each counts 0")
        for it in scores.systems
        if it.missing
    )
    return _rendered(parts, width)


def _means(scores: FileScores, metrics: Sequence[str]) -> Table:
    means = _table("run", *map(metric_label, metrics))
    for system in scores.systems:
        cells = [f"{figure(it.mean)}  {interval(it)}" for it in (system.estimates[m] for m in metrics)]
        means.add_row(system.name, *cells)
    return means


def render_comparison(table: ComparisonTable, width: int | None = None) -> str:
    """What several reports say on the same queries, in words and figures."""
    label = metric_label(table.metric)
    means = _table("report", "system", label, "95% interval")
    for name, system in table.systems.items():
        estimate = table.figures.estimate(name, table.metric)
        means.add_row(name, system, figure(estimate.mean), interval(estimate))
    paired = _table("pair", "difference", "95% interval", "p (Holm)", "better/same/worse")
    for it in table.figures.comparisons:
        tally = f"{it.wins}/{it.ties}/{it.losses}"
        paired.add_row(f"{it.a} → {it.b}", signed(it.delta), spread(it), bare_p(it.p_holm), tally)
    parts: list[Table | Text] = [
        Text(f"{table.collection}, {queries(table.figures.n)}"),
        means,
        paired,
        *map(Text, table.words),
    ]
    return _rendered(parts, width)


def _table(first: str, *others: str) -> Table:
    """Cells that have no room are folded, never cut."""
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first, overflow="fold")
    for name in others:
        table.add_column(name, justify="right", overflow="fold")
    return table


def _rendered(parts: Sequence[Table | Text], width: int | None) -> str:
    needed = max((natural_width(part) for part in parts if isinstance(part, Table)), default=0)
    console = plain_console(width or max(LEAST, needed))
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()
