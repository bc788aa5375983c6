"""A report as a table: for the terminal, as Markdown and as LaTeX.

In Markdown ▲ and ▼, in LaTeX † and ‡ mark a mean above or below the reference's beyond chance, by the
corrected p-value.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from functools import partial

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from searchtune.errors import ConfigError, did_you_mean
from searchtune.evaluation.parts import cutoff_notes, leaders, shown_parts
from searchtune.evaluation.report import ALL, Report, Slice
from searchtune.evaluation.verdict import verdict
from searchtune.evaluation.wording import figure, interval, metric_label, queries

_LATEX = {
    **{char: f"\\{char}" for char in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "–": "--",
    "−": "$-$",
    "†": r"$^{\dagger}$",
    "‡": r"$^{\ddagger}$",
}


def show_report(report: Report, console: Console) -> None:
    """Print the verdict in one line, every system by metric with its interval, the means by slice, and the reasons.

    Where not all metrics fit side by side, they stand in several tables.
    """
    headline, *rest = verdict(report)
    console.print(Text(headline, style="bold"))
    for table in side_by_side(report.metrics, partial(_table, report), console.width):
        console.print(table)
    console.print(Text("★ best of its block   small figures: 95% bootstrap interval", style="dim"))
    for sentence in (*cutoff_notes(report), *rest, *(f"warning: {note}" for note in report.notes)):
        console.print(Text(sentence))


def render_report(report: Report, *, width: int | None = None) -> str:
    """`show_report` as plain text of at most `width` columns; without one, as wide as its table, at least 84."""
    console = plain_console(width or max(84, natural_width(_table(report, report.metrics))))
    with console.capture() as captured:
        show_report(report, console)
    return captured.get()


def plain_console(width: int) -> Console:
    """A console for text without colours; it cuts nothing off that fits into `width` columns."""
    return Console(width=width, color_system=None, force_jupyter=False)


def natural_width(table: Table) -> int:
    """Columns that the table needs to show every cell on one line."""
    console = plain_console(10_000)
    return Measurement.get(console, console.options, table).maximum


def side_by_side(metrics: Sequence[str], make: Callable[[Sequence[str]], Table], width: int) -> list[Table]:
    """One table of all metrics where that fits into `width` columns, otherwise the fewest of about equal size."""
    tables: list[Table] = []
    for count in range(1, len(metrics) + 1):
        size = math.ceil(len(metrics) / count)
        tables = [make(metrics[start : start + size]) for start in range(0, len(metrics), size)]
        if all(natural_width(table) <= width for table in tables):
            break
    return tables


def _table(report: Report, metrics: Sequence[str]) -> Table:
    table = Table(
        title=f"{report.collection} · {report.split}",
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE,
        padding=0,
        pad_edge=False,
    )
    table.add_column("system", overflow="fold")
    for metric in metrics:
        table.add_column(metric_label(metric), justify="right", overflow="fold")
    for name, part in shown_parts(report).items():
        table.add_section()
        table.add_row(Text(f"{name} ({part.n:,})", style="dim", no_wrap=True))
        _add_systems(table, report, part, metrics)
    return table


def _add_systems(table: Table, report: Report, part: Slice, metrics: Sequence[str]) -> None:
    stars = {metric: leaders(part, metric, report) for metric in metrics}
    for name, item in part.systems.items():
        cells = [Text(f"  {name}", style="cyan" if name in report.candidates else "")]
        for metric in metrics:
            estimate, best = item.metrics[metric], name in stars[metric]
            cell = Text(_short(figure(estimate.mean)) + ("★" if best else " "), style="bold" if best else "")
            if part is report:
                cell.append(_short(f" {interval(estimate)}"), style="dim not bold")
            cells.append(cell)
        table.add_row(*cells)


def _short(text: str) -> str:
    """Figures in four characters, which a terminal of 84 columns has room for: `.646`, `1.00`."""
    return text.replace("0.", ".").replace("1.000", "1.00")


def mark(report: Report, part: Slice, system: str, metric: str) -> str:
    """`▲` or `▼` where the system differs from the reference beyond chance on these queries, otherwise nothing."""
    found = part.comparison(report.reference, system, metric) if system != report.reference else None
    if found is None or not found.significant:
        return ""
    return "▲" if found.delta > 0 else "▼"


def markdown_table(report: Report, part: str = ALL) -> str:
    """Every system's means with their 95% intervals as a Markdown table, best in bold. `part` names a slice."""
    found = _part(report, part)
    head = ["system", *(metric_label(metric) for metric in report.metrics)]
    rows = [
        [
            _markdown(name),
            *(_markdown_cell(report, found, name, metric) for metric in report.metrics),
        ]
        for name in found.systems
    ]
    lines = [head, ["---", *["---:"] * len(report.metrics)], *rows]
    note = _note(report, found, part, marks="▲▼")
    return "\n".join(["| " + " | ".join(line) + " |" for line in lines] + ["", _markdown(note), ""])


def latex_table(report: Report, part: str = ALL) -> str:
    """The same as a LaTeX table that needs the package booktabs."""
    found = _part(report, part)
    head = " & ".join(["System", *(_latex(metric_label(metric)) for metric in report.metrics)])
    rows = [
        " & ".join([_latex(name), *(_latex_cell(report, found, name, metric) for metric in report.metrics)])
        for name in found.systems
    ]
    return "\n".join(
        [
            "\\begin{table}",
            "\\centering",
            f"\\caption{{{_latex(_note(report, found, part, marks='†‡'))}}}",
            f"\\begin{{tabular}}{{l{'r' * len(report.metrics)}}}",
            "\\toprule",
            f"{head} \\\\",
            "\\midrule",
            *(f"{row} \\\\" for row in rows),
            "\\bottomrule",
            "\\end{tabular}",
            "\\end{table}",
            "",
        ]
    )


def _part(report: Report, name: str) -> Slice:
    parts: dict[str, Slice] = {ALL: report, **report.slices}
    if name not in parts:
        raise ConfigError(f"the report has no slice {name!r}{did_you_mean(name, parts)}")
    return parts[name]


def _note(report: Report, part: Slice, name: str, *, marks: str) -> str:
    which = "" if name == ALL else name
    better, worse = marks[0], marks[1]
    corrected = "not corrected" if all(math.isnan(it.p_holm) for it in part.comparisons) else "Holm-corrected"
    return (
        f"{report.collection}, {report.split}, {queries(part.n, which)}. In parentheses: 95% bootstrap interval. "
        f"{better} better and {worse} worse than {report.reference}: paired randomisation test, 5%, {corrected}; "
        f"unmarked: within chance, or not compared. {' '.join(cutoff_notes(report))}".rstrip()
    )


def _markdown_cell(report: Report, part: Slice, system: str, metric: str) -> str:
    estimate = part.estimate(system, metric)
    mean = figure(estimate.mean)
    shown = f"**{mean}**" if system in leaders(part, metric, report) else mean
    return f"{shown}{mark(report, part, system, metric)} ({interval(estimate)})"


def _latex_cell(report: Report, part: Slice, system: str, metric: str) -> str:
    estimate = part.estimate(system, metric)
    mean = _latex(figure(estimate.mean))
    shown = f"\\textbf{{{mean}}}" if system in leaders(part, metric, report) else mean
    sign = {"▲": "$^{\\dagger}$", "▼": "$^{\\ddagger}$", "": ""}[mark(report, part, system, metric)]
    return f"{shown}{sign} {{\\small ({_latex(interval(estimate))})}}"


def _markdown(text: str) -> str:
    """Text that Markdown, tables included, shows as it is."""
    return re.sub(r"([\\`*_\[\]<>|#&~])", r"\\\1", " ".join(text.split()))


def _latex(text: str) -> str:
    """Text that LaTeX shows as it is."""
    return "".join(_LATEX.get(char, char) for char in " ".join(text.split()))
