"""A report as a table for the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from searchtune.evaluation.report import Report, Slice
from searchtune.evaluation.verdict import verdict
from searchtune.evaluation.wording import figure, interval, metric_label


def show_report(report: Report, console: Console) -> None:
    """Print the verdict in one line, every system by metric with its interval, the means by slice, and the reasons."""
    headline, *rest = verdict(report)
    console.print(Text(headline, style="bold"))
    console.print(_table(report))
    console.print(Text("★ best of its block   small figures: 95% bootstrap interval", style="dim"))
    for sentence in rest:
        console.print(Text(sentence))


def render_report(report: Report, *, width: int = 84) -> str:
    """`show_report` as plain text of at most `width` columns."""
    console = Console(width=width, color_system=None, force_jupyter=False)
    with console.capture() as captured:
        show_report(report, console)
    return captured.get()


def _table(report: Report) -> Table:
    table = Table(
        title=f"{report.collection} · {report.split}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=0,
        pad_edge=False,
    )
    table.add_column("system", no_wrap=True)
    for metric in report.metrics:
        table.add_column(metric_label(metric), justify="right", no_wrap=True)
    parts: Mapping[str, Slice] = {"all": report, **report.slices}
    for name, part in parts.items():
        table.add_section()
        table.add_row(Text(f"{name} ({part.n:,})", style="dim"))
        if part.n:
            _add_systems(table, report, part)
    return table


def _add_systems(table: Table, report: Report, part: Slice) -> None:
    for name, item in part.systems.items():
        cells = [Text(f"  {name}", style="cyan" if name in report.candidates else "")]
        for metric, estimate in item.metrics.items():
            best = figure(estimate.mean) == figure(part.best(metric))
            cell = Text(_short(figure(estimate.mean)) + ("★" if best else " "), style="bold" if best else "")
            if part is report:
                cell.append(_short(f" {interval(estimate)}"), style="dim not bold")
            cells.append(cell)
        table.add_row(*cells)


def _short(text: str) -> str:
    """Figures in four characters, which a terminal of 84 columns has room for: `.646`, `1.00`."""
    return text.replace("0.", ".").replace("1.000", "1.00")
