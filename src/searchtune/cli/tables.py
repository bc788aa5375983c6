"""Scores of files and comparisons of reports as a person reads them in a terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from searchtune.evaluation.compare import ComparisonTable
from searchtune.evaluation.wording import bare_p, figure, interval, metric_label, queries, signed, spread
from searchtune.workflows.score import FileScores

WIDTH = 100


def render_scores(scores: FileScores) -> str:
    """Every run's means with their intervals, then every run against the first, Holm-corrected."""
    means = _table("run", *(metric_label(metric) for metric in scores.metrics))
    for system in scores.systems:
        cells = [f"{figure(it.mean)}  {interval(it)}" for it in (system.estimates[m] for m in scores.metrics)]
        means.add_row(system.name, *cells)
    parts: list[Table | Text] = [
        Text(f"{queries(len(scores.query_ids))}, relevant from grade {scores.min_grade}"),
        means,
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
    return _rendered(parts)


def render_comparison(table: ComparisonTable) -> str:
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
    return _rendered([Text(f"{table.collection}, {queries(table.figures.n)}"), means, paired, *map(Text, table.words)])


def _table(first: str, *others: str) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False)
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _rendered(parts: list[Table | Text]) -> str:
    console = Console(width=WIDTH, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    return captured.get()
