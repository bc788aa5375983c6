"""What can be wrong with a collection on disk, said with file, line, value and remedy. Reads no files."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Literal

from searchtune.errors import DataError, SearchtuneWarning

Severity = Literal["error", "warning", "note"]

OnProblem = Literal["fail", "skip"]
"""What becomes of a data set with rows that cannot be used: refused, or read without them."""

_POLICY: ContextVar[OnProblem] = ContextVar("row_policy", default="fail")
_SHOWN_LINES = 5
_SHOWN_PROBLEMS = 5
_SHOWN_ALIKE = 3


@dataclass(frozen=True)
class Problem:
    """One finding. A row with an `error` cannot be read; one with a `warning` or a `note` can."""

    file: str
    """Relative to the collection's folder, with `/`."""
    line: int
    """Counted from 1; 0 where the finding is about the whole file."""
    kind: str
    value: str
    message: str
    remedy: str
    severity: Severity = "error"
    row: str | None = None
    """The rejected line as it stands in the file, bad bytes as `\\xNN`; None where no single row is at fault."""

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.message}; {self.remedy}"


@dataclass(frozen=True)
class CheckResult:
    """All findings of a check, by severity, and what was counted on the way."""

    problems: tuple[Problem, ...]
    """The errors."""
    warnings: tuple[Problem, ...]
    notes: tuple[Problem, ...]
    counts: Mapping[str, int]
    """`documents`, `queries`, then `SPLIT judged` and `SPLIT labels` of every split; rejected rows are not counted."""

    def raise_if_any(self, where: str) -> None:
        """Raise `DataError` where there are errors: the message shows the first ones, `.problems` has them all."""
        if not self.problems:
            return
        lines, folded = tuple(str(problem) for problem in self.problems), fold(self.problems)
        more = len(folded) - _SHOWN_PROBLEMS
        tail = [f"... and {more:,} more: `searchtune data check {where}` lists them"] if more > 0 else []
        head = f"{where}: {len(lines):,} problem{'s' if len(lines) > 1 else ''}"
        tail.append("training and `eval run` leave such rows out with --on-problem skip")
        raise DataError("\n".join([head, *folded[:_SHOWN_PROBLEMS], *tail]), lines)


@contextmanager
def row_policy(policy: OnProblem) -> Iterator[None]:
    """Within it, data sets of tasks and recipes are opened in this way; `fail` holds elsewhere."""
    token = _POLICY.set(policy)
    try:
        yield
    finally:
        _POLICY.reset(token)


def current_policy() -> OnProblem:
    """What `row_policy` set."""
    return _POLICY.get()


def tell_left_out(where: str, problems: Sequence[Problem]) -> None:
    """Warn of rows that were left out because `row_policy` says so; nothing where there are none, or under `fail`."""
    errors = [problem for problem in problems if problem.severity == "error"]
    if errors and current_policy() == "skip":
        lines = fold(errors)
        more = [f"... and {len(lines) - _SHOWN_PROBLEMS:,} more"] if len(lines) > _SHOWN_PROBLEMS else []
        text = "; ".join([*lines[:_SHOWN_PROBLEMS], *more])
        warnings.warn(
            f"{where}: {len(errors):,} faulty rows or files left out: {text}", SearchtuneWarning, stacklevel=2
        )


def fold(problems: Sequence[Problem]) -> list[str]:
    """Findings as lines; a fault that many rows of one file have is one line with its count.

    Of rows with different values the first ones are shown; where the value is the same, a single one.
    """
    groups: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        groups.setdefault((problem.file, problem.kind), []).append(problem)
    lines: list[str] = []
    for group in groups.values():
        shown = 1 if len({problem.value for problem in group}) == 1 else _SHOWN_ALIKE
        if len(group) <= _SHOWN_ALIKE:
            shown = len(group)
        lines += map(str, group[:shown])
        if rest := group[shown:]:
            where = ", ".join(str(problem.line) for problem in rest[:_SHOWN_LINES] if problem.line)
            at = f" (lines {where}{', ...' if len(rest) > _SHOWN_LINES else ''})" if where else ""
            lines[-1] += f"; and {len(rest):,} more like it{at}"
    return lines


@dataclass
class _Tally:
    """A finding that would repeat on many lines: counted, reported once."""

    message: str
    remedy: str
    severity: Severity
    value: str
    lines: list[int] = field(default_factory=list)
    count: int = 0


class Findings:
    """Collects problems while files are read."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._tallies: dict[tuple[str, str], _Tally] = {}

    def add(self, problem: Problem) -> None:
        self._problems.append(problem)

    def tally(self, problem: Problem) -> None:
        """Count a finding that may repeat on many lines; it is reported once, with its number and its first lines."""
        tally = self._tallies.setdefault(
            (problem.file, problem.kind), _Tally(problem.message, problem.remedy, problem.severity, problem.value)
        )
        tally.count += 1
        if len(tally.lines) < _SHOWN_LINES:
            tally.lines.append(problem.line)

    def result(self, counts: Mapping[str, int]) -> CheckResult:
        """Everything found so far; errors in the order of reading."""
        found = [*self._problems, *(_summed(*key, tally) for key, tally in self._tallies.items())]
        by = {severity: tuple(p for p in found if p.severity == severity) for severity in ("error", "warning", "note")}
        return CheckResult(by["error"], by["warning"], by["note"], counts)


def _summed(file: str, kind: str, tally: _Tally) -> Problem:
    lines = ", ".join(map(str, tally.lines))
    dots = ", ..." if tally.count > len(tally.lines) else ""
    rows = f"in {tally.count:,} rows (lines {lines}{dots})" if tally.count > 1 else "in 1 row"
    return Problem(
        file, tally.lines[0], kind, tally.value, f"{tally.message} {rows}", tally.remedy, severity=tally.severity
    )
