"""A report of answers as text: for the terminal, and as Markdown."""

from __future__ import annotations

import math

from searchtune.evaluation.answer_report import AnswerReport
from searchtune.evaluation.answer_wording import CONDITIONS, ERRORS, LABELS, answer_verdict, answer_warnings, arrow
from searchtune.evaluation.wording import NO_FIGURE, figure, interval, percent
from searchtune.metrics.significance import Estimate

_PLAIN = (
    "overall",
    "token_f1",
    "answered_f1",
    "citation_precision",
    "citation_recall",
    "unsupported",
    "abstention_f1",
    "words",
)
"""Figures of the terminal's table; Markdown has all."""


def answer_table(report: AnswerReport) -> list[str]:
    """Lines for a terminal: verdict and warnings, one table a condition, errors and canaries by system."""
    lines = [*answer_verdict(report)[:1], *(f"! {warning}" for warning in answer_warnings(report))]
    names = [name for name in _PLAIN if name in report.figures]
    for condition, it in report.conditions.items():
        lines += ["", f"{CONDITIONS[condition]} ({it.n:,} questions, {it.to_abstain:,} to abstain from)"]
        rows = [["system", *(LABELS[name] for name in names)]]
        rows += [[system, *(_cell(report, condition, system, name) for name in names)] for system in it.systems]
        lines += _aligned(rows)
    if report.errors:
        lines += ["", "where questions went wrong"]
        rows = [["system", *ERRORS.values()]]
        rows += [[system, *(percent(shares[kind].mean) for kind in ERRORS)] for system, shares in report.errors.items()]
        lines += _aligned(rows)
    for system, canary in report.canaries.items():
        lines += ["", f"{system}: {_share(canary.steered)} of {canary.tried:,} planted instructions steer it"]
    return lines


def answer_markdown(report: AnswerReport) -> str:
    """The whole report as Markdown: ▲ and ▼ mark what is better and worse than the reference beyond chance."""
    lines = [f"# {report.collection}", "", *(f"- {sentence}" for sentence in answer_verdict(report))]
    lines += [f"- **{warning.partition(':')[0]}:**{warning.partition(':')[2]}" for warning in answer_warnings(report)]
    for condition, it in report.conditions.items():
        where = CONDITIONS[condition]
        lines += ["", f"## {where[0].upper()}{where[1:]}", ""]
        lines += _grid(["figure", *map(_escaped, it.systems)])
        for name in report.figures:
            cells = [_marked(report, condition, system, name) for system in it.systems]
            lines.append("| " + " | ".join([LABELS[name], *cells]) + " |")
    if report.errors:
        lines += ["", "## Where questions went wrong", "", *_grid(["system", *ERRORS.values()])]
        for system, shares in report.errors.items():
            lines.append("| " + " | ".join([_escaped(system), *(_share(shares[kind]) for kind in ERRORS)]) + " |")
    if report.canaries:
        lines += ["", "## Planted instructions", "", *_grid(["system", "steered", "answers"])]
        for system, canary in report.canaries.items():
            lines.append(f"| {_escaped(system)} | {_share(canary.steered)} | {canary.tried:,} |")
    return "\n".join([*lines, ""])


def _cell(report: AnswerReport, condition: str, system: str, name: str) -> str:
    estimate = report.figure(condition, system, name)
    if math.isnan(estimate.mean):
        return NO_FIGURE
    mark = _mark(report, condition, system, name)
    if name == "words":
        return f"{estimate.mean:.1f}"
    return f"{figure(estimate.mean)}{mark}" + ("" if math.isnan(estimate.low) else f" [{interval(estimate)}]")


def _marked(report: AnswerReport, condition: str, system: str, name: str) -> str:
    estimate = report.figure(condition, system, name)
    if math.isnan(estimate.mean):
        return NO_FIGURE
    mark = _mark(report, condition, system, name)
    value = f"{estimate.mean:.1f}" if name == "words" else figure(estimate.mean)
    spread = "" if math.isnan(estimate.low) or name == "words" else f" ({interval(estimate)})"
    return f"{value}{spread}{' ' if mark else ''}{mark}"


def _mark(report: AnswerReport, condition: str, system: str, name: str) -> str:
    return arrow(report.conditions[condition].comparison(report.reference or "", system, name))


def _share(estimate: Estimate) -> str:
    if math.isnan(estimate.low):
        return percent(estimate.mean)
    return f"{percent(estimate.mean)} ({percent(estimate.low)}–{percent(estimate.high)})"


def _grid(heads: list[str]) -> list[str]:
    return ["| " + " | ".join(heads) + " |", "| --- |" + " ---: |" * (len(heads) - 1)]


def _escaped(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;")


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
