"""JSON lines in which each row is checked as it is read; what is wrong is said with file, line, value and remedy."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import nullcontext
from itertools import chain
from pathlib import Path
from typing import Any, NoReturn

from searchtune.data.packed import opened
from searchtune.data.problems import CheckResult, Findings, OnProblem, Problem
from searchtune.errors import DataError, did_you_mean
from searchtune.reading import STDIN, shown, strict_json

_BOM = b"\xef\xbb\xbf"
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_SHOWN = 5


class BadRow(Exception):
    """A row that cannot be used; the complaint is already among the findings."""


class RowReader:
    """One file being read, or standard input where its name is `-`: where it stands, and what was found on the way."""

    def __init__(self, path: Path, raw: Iterable[bytes] | None = None) -> None:
        """`raw` are lines that come from a pipe, which cannot be read twice."""
        if raw is None and str(path) == STDIN:
            raw = sys.stdin.buffer
        self.path = Path("<stdin>") if raw is not None else path
        self.number = 0
        """The line, counted from 1; in a JSON list the entry."""
        self._raw = raw
        self._findings = Findings()
        self._end = 0
        self._unreadable: set[int] = set()

    @property
    def listed(self) -> bool:
        """Whether the file is named as one JSON value and not as lines of JSON."""
        return self.path.name.removesuffix(".gz").endswith(".json")

    def objects(self) -> Iterator[dict[str, Any]]:
        """The JSON object of each line that is not blank; lines that hold none are found at fault and left out.

        Blank lines are counted in a warning. A file called `.json` may hold one list of objects instead.

        Raises:
            DataError: the file cannot be opened.
        """
        lines = self.told_lines()
        first = next(lines, "") if self.listed else ""
        if first.lstrip().startswith("["):
            yield from self._entries("\n".join([first, *lines]))
            return
        for line in chain([first] if first else [], lines):
            try:
                value = strict_json(line)
            except (ValueError, RecursionError) as error:
                self.error(
                    "bad-json", line[:80], f"not JSON ({_why(error)}): {line[:80]!r}", "write one JSON object a line"
                )
                continue
            if isinstance(value, dict):
                yield value
            else:
                message = f"a JSON {type(value).__name__} and no object: {line[:80]!r}"
                self.error("bad-json", line[:80], message, 'write {"query_id": ..., ...}')

    def told_lines(self) -> Iterator[str]:
        """As `lines`, with a warning that counts the blank ones."""
        last = 0
        for line in self.lines():
            self._blank(last, self.number)
            last = self.number
            yield line
        self._blank(last, self._end + 1)

    def _blank(self, before: int, after: int) -> None:
        here = self.number
        for self.number in range(before + 1, after):
            if self.number not in self._unreadable:
                self.warn("blank-line", "", "blank line (left out)", "remove it")
        self.number = here

    def _entries(self, text: str) -> Iterator[dict[str, Any]]:
        """The objects of one JSON list, numbered by entry."""
        self.number = 0
        try:
            values = strict_json(text)
        except (ValueError, RecursionError) as error:
            self.error(
                "bad-json", text[:40], f"not JSON ({_why(error)})", "write one list of objects, or an object a line"
            )
            return
        for self.number, value in enumerate(values, start=1):
            if isinstance(value, dict):
                yield value
            else:
                message = f"entry {self.number} is a JSON {type(value).__name__} and no object"
                self.error("bad-json", str(value)[:40], message, 'write [{"text": ...}, ...]')

    def lines(self) -> Iterator[str]:
        """Each line that is not blank, without its end. Lines that are not UTF-8 are left out."""
        try:
            with nullcontext(self._raw) if self._raw is not None else opened(self.path) as file:
                for self.number, raw in enumerate(file, start=1):
                    self._end = self.number
                    if (line := self._decoded(raw)).strip():
                        yield line
        except DataError as error:
            if not self.number:
                raise
            self.error("broken-file", "", str(error.__cause__), "the rows before are whole; fetch or write it again")

    def _decoded(self, raw: bytes) -> str:
        if self.number == 1 and raw.startswith(_BOM):
            raw = raw[len(_BOM) :]
            self.warn("bom", "", "byte order mark (read as if it were not there)", "save as UTF-8 without BOM")
        try:
            return raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            message = f"not UTF-8: byte 0x{raw[error.start]:02x} at position {error.start} of the line"
            self.error("bad-utf8", "", message, "re-encode the file, e.g. iconv -f latin1 -t utf-8")
            self._unreadable.add(self.number)
            return ""

    def error(self, kind: str, value: str, message: str, remedy: str) -> None:
        self._findings.add(Problem(str(self.path), self.number, kind, value, message, remedy))

    def reject(self, kind: str, value: Any, message: str, remedy: str) -> NoReturn:
        """Note what is wrong with the row and leave it, by a `BadRow`."""
        self.error(kind, str(value)[:80], message, remedy)
        raise BadRow

    def warn(self, kind: str, value: str, message: str, remedy: str) -> None:
        self._findings.tally(Problem(str(self.path), self.number, kind, value, message, remedy, severity="warning"))

    def finish(self, on_problem: OnProblem) -> CheckResult:
        """What was found. With `fail`, errors are raised as a `DataError` that shows the first ones and holds all."""
        result = self._findings.result({})
        if result.problems and on_problem == "fail":
            lines = tuple(map(str, result.problems))
            more = [f"... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
            raise DataError("\n".join([*lines[:_SHOWN], *more]), lines)
        return result

    def value(self, row: dict[str, Any], key: str) -> Any:
        """The entry `key`, which must be there."""
        if key not in row:
            near = did_you_mean(key, row) if row else "; the object is empty"
            self.reject("missing-key", key, f"key {key!r} is missing{near}", "add it, or name the right field")
        return row[key]

    def text(self, row: dict[str, Any], key: str) -> str:
        """The entry `key` as text that UTF-8 can hold."""
        value = self.value(row, key)
        if not isinstance(value, str):
            shown = json.dumps(value)[:60]
            self.reject("wrong-type", shown, f"{key!r} is {shown}, which is not a string", "put it in double quotes")
        if any("\ud800" <= char <= "\udfff" for char in value):
            message = f"{key!r} holds half a surrogate pair, which is no character"
            self.reject("bad-utf8", ascii(value)[:60], message, "write the character itself in UTF-8")
        return value

    def identifier(self, row: dict[str, Any], key: str) -> str:
        """The entry `key` as an id: not empty and without control characters. A whole number counts as its digits."""
        value = self.value(row, key)
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)
        text = self.text(row, key)
        if not text.strip() or _CONTROL.search(text):
            message = f"{key!r} is {text!r}, which is empty or holds a control character"
            self.reject("bad-id", text, message, "give the row an id that a TREC file can hold")
        return text

    def grade(self, row: dict[str, Any], key: str, top: int) -> int:
        """The entry `key` as a grade from 0 to `top`; -1 for null."""
        value = self.value(row, key)
        if value is None:
            return -1
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number or not 0 <= value <= top or value != int(value):
            shown = json.dumps(value)[:60]
            message = f"{key!r} is {shown}, which is no grade from 0 to {top}"
            self.reject("bad-grade", shown, message, "write a whole number, or null where nobody judged")
        return int(value)


def _why(error: Exception) -> str:
    """What is wrong with a JSON text, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    return error.msg if isinstance(error, json.JSONDecodeError) else shown(error)
