"""Labels by people: pairs handed out as JSON lines, CSV or tasks of Label Studio, and what comes back.

Handed out are the columns `query_id`, `doc_id`, `grade` (empty), `query`, `passage` and, where a judge has already
spoken, `judge`: its label, to agree with or not. A person's label is written as in the rubric (`2`, `yes`); in JSON a
number is a grade. What has no label yet is counted and left out, so a file can come back half done, and again later.

Label Studio: import the tasks as JSON, set up the project with `label_studio_config`, and export as JSON or JSON-MIN.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.sax.saxutils import quoteattr

from searchtune.data.judging import JudgePairs
from searchtune.data.packed import created
from searchtune.data.problems import OnProblem, Problem
from searchtune.data.rows import BadRow, RowReader
from searchtune.errors import ConfigError, did_you_mean
from searchtune.reading import strict_json
from searchtune.types import Judgment

_COLUMNS = ("query_id", "doc_id", "grade", "query", "passage", "judge")
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
"""What a spreadsheet would run as a formula (or is escaped already): it gets an apostrophe in front."""
_NO_TEXT = {"", "-", "null", "none", "nan", "n/a"}
"""How files say that there is no label yet."""


@dataclass(frozen=True)
class HumanLabels:
    """What people said; every judgment has a grade."""

    judgments: tuple[Judgment, ...]
    unlabelled: int
    """Pairs in the file that nobody has labelled yet."""
    problems: tuple[Problem, ...] = ()
    """Warnings, and with `skip` what was left out."""


def write_for_labelling(
    path: Path, pairs: JudgePairs, labels: Sequence[str], *, judgments: Sequence[Judgment] = (), judge: str = "judge"
) -> None:
    """Hand pairs out: CSV for a name in `.csv`, Label Studio's tasks for `.json`, JSON lines for `.jsonl` (and `.gz`).

    `judgments` prefill what they have a grade for, under the name `judge`. People who see a judge's label agree with
    it more often than they would by themselves: leave it out where agreement is to be measured.

    Raises:
        ConfigError: a name that says none of these.
    """
    said = {(one.query_id, one.doc_id): one for one in judgments}
    rows = [_handed_out(pairs, i, labels, said) for i in range(len(pairs))]
    layout = _layout(path)
    with created(path) as file:
        if layout == "csv":
            file.write(_as_csv(rows).encode("utf-8-sig"))
        elif layout == "json":
            tasks = [_task(row, said.get((row["query_id"], row["doc_id"])), judge) for row in rows]
            file.write((json.dumps(tasks, indent=1, ensure_ascii=False) + "\n").encode("utf-8"))
        else:
            file.write("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8"))


def label_studio_config(labels: Sequence[str], meanings: Sequence[str]) -> str:
    """The labelling interface of a Label Studio project for these tasks: query, passage, one choice a grade."""
    choices = [
        f"    <Choice value={quoteattr(label)} hint={quoteattr(meaning)}/>"
        for label, meaning in zip(labels, meanings, strict=True)
    ]
    return "\n".join(
        [
            "<View>",
            '  <Header name="query" value="$query"/>',
            '  <Text name="passage" value="$passage"/>',
            '  <Choices name="grade" toName="passage" choice="single" showInline="true" required="true">',
            *choices,
            "  </Choices>",
            "</View>",
            "",
        ]
    )


def read_human_labels(
    path: Path, labels: Sequence[str], *, pairs: JudgePairs | None = None, on_problem: OnProblem = "fail"
) -> HumanLabels:
    """Read what people said, from any of the forms of `write_for_labelling` or from an export of Label Studio.

    With `pairs`, only these are known. A pair that was labelled twice with one grade counts once.

    Raises:
        DataError: a value that is no label, a pair that is not known, two grades for one pair, a torn file; the
            message names line (or task), value and remedy. `skip` keeps all other labels.
        ConfigError: a name that says no form.
    """
    reader = RowReader(path)
    layout = _layout(path)
    known = None if pairs is None else {pairs.ids(i) for i in range(len(pairs))}
    rows = {"csv": _csv_rows, "json": _task_rows, "jsonl": RowReader.objects}[layout](reader)
    found: dict[tuple[str, str], tuple[int, int]] = {}
    open_pairs: set[tuple[str, str]] = set()
    for row in rows:
        try:
            ids = (reader.identifier(row, "query_id"), reader.identifier(row, "doc_id"))
            grade = _grade(reader, reader.value(row, "grade"), labels)
            _check_pair(reader, ids, known)
        except BadRow:
            continue
        if grade is None:
            open_pairs.add(ids)
        elif (before := found.setdefault(ids, (grade, reader.number)))[0] != grade:
            pair, other = " ".join(ids), labels[before[0]]
            message = f"pair {pair!r} has label {labels[grade]!r} here and {other!r} at {before[1]}"
            reader.error("two-grades", pair, message, "settle it, and keep one of the two")
    result = reader.finish(on_problem)
    judgments = tuple(Judgment(query, doc, grade) for (query, doc), (grade, _) in found.items())
    warnings = [one for one in result.warnings if one.kind != "bom" or layout != "csv"]  # there it is meant
    return HumanLabels(judgments, len(open_pairs - found.keys()), (*result.problems, *warnings))


def _layout(path: Path) -> str:
    suffixes = [suffix for suffix in path.suffixes if suffix != ".gz"]
    layout = {".csv": "csv", ".tsv": "csv", ".json": "json", ".jsonl": "jsonl"}.get(suffixes[-1] if suffixes else "")
    if layout is None:
        raise ConfigError(f"{path}: the name says no form; end it in .jsonl, .csv or .json (Label Studio)")
    return layout


def _handed_out(
    pairs: JudgePairs, pair: int, labels: Sequence[str], said: Mapping[tuple[str, str], Judgment]
) -> dict[str, Any]:
    ids, texts = pairs.ids(pair), pairs.texts(pair)
    row = {"query_id": ids[0], "doc_id": ids[1], "grade": None, "query": texts[0], "passage": texts[1]}
    one = said.get(ids)
    if one is not None and one.grade is not None:
        if one.grade >= len(labels):
            raise ConfigError(f"pair {' '.join(ids)!r}: grade {one.grade}, and the labels are {list(labels)}")
        row["judge"] = labels[one.grade]
    return row


def _task(row: Mapping[str, Any], said: Judgment | None, judge: str) -> dict[str, Any]:
    """One task of Label Studio, with a prediction where the judge has spoken."""
    task: dict[str, Any] = {"data": {name: row[name] for name in ("query_id", "doc_id", "query", "passage")}}
    if said is not None and "judge" in row:
        choice = {"from_name": "grade", "to_name": "passage", "type": "choices", "value": {"choices": [row["judge"]]}}
        score = {} if said.probabilities is None else {"score": max(said.probabilities)}
        task["predictions"] = [{"model_version": judge, **score, "result": [choice]}]
    return task


def _as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """RFC 4180, with a byte order mark to come in front, by which spreadsheets know UTF-8."""
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(_COLUMNS)
    writer.writerows([_cell(row.get(name)) for name in _COLUMNS] for row in rows)
    return text.getvalue()


def _cell(value: str | None) -> str:
    text = value or ""
    return f"'{text}" if _FORMULA.match(text) else text


def _csv_rows(reader: RowReader) -> Iterator[dict[str, Any]]:
    """Rows of a CSV file with commas, semicolons or tabs, as spreadsheets of various countries save it."""
    lines = [f"{line}\n" for line in _all_lines(reader)]
    last = reader.number
    if not lines:
        return
    delimiter = max(",;\t", key=lines[0].count)
    before = csv.field_size_limit(1 << 30)
    table = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = [name.strip().lower() for name in next(table)]
        for name in _COLUMNS[:3]:
            if name not in header:
                reader.number = 1
                reader.error("missing-column", name, f"no column {name!r}{did_you_mean(name, header)}", "name it so")
                return
        start = table.line_num + 1
        for cells in table:
            reader.number, start = start, table.line_num + 1
            if not any(cells):
                continue
            if len(cells) != len(header):
                message = f"{len(cells)} cells where the header has {len(header)}"
                reader.error("bad-row", str(cells[:3]), message, "put texts that hold the separator in quotes")
                continue
            yield {name: _uncell(cell) for name, cell in zip(header, cells, strict=True)}
    except csv.Error as error:
        reader.number = min(table.line_num, last)
        reader.error("bad-csv", "", f"broken CSV ({error})", "the rows before are whole; save the file again")
    finally:
        csv.field_size_limit(before)


def _all_lines(reader: RowReader) -> Iterator[str]:
    """The lines as they stand, blank ones too, since a passage may hold them."""
    number = 0
    for line in reader.lines():
        while number + 1 < reader.number:
            number += 1
            yield ""
        number = reader.number
        yield line


def _uncell(cell: str) -> str:
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def _task_rows(reader: RowReader) -> Iterator[dict[str, Any]]:
    """Rows of Label Studio's JSON, with its annotations, or JSON-MIN, which is flat; numbered by task."""
    text = "\n".join(_all_lines(reader))
    reader.number = 0
    try:
        tasks = strict_json(text)
    except (ValueError, RecursionError) as error:
        reader.error("bad-json", text[:40], f"not JSON ({error})", "export from Label Studio as JSON or JSON-MIN")
        return
    if not isinstance(tasks, list):
        reader.error("bad-json", text[:40], f"a JSON {type(tasks).__name__}, not a list of tasks", "export as JSON")
        return
    for reader.number, task in enumerate(tasks, start=1):
        data = task.get("data", task) if isinstance(task, dict) else None
        if not isinstance(data, dict):
            reader.error(
                "bad-task", str(task)[:40], f"task {reader.number} is no task: {str(task)[:40]}", "export again"
            )
            continue
        if "annotations" not in task:
            yield {"grade": None, **data}
            continue
        given = [choice for annotation in _list(task["annotations"]) for choice in _choices(annotation)]
        for choice in given or [None]:
            yield {**data, "grade": choice}


def _choices(annotation: Any) -> list[Any]:
    """What one person chose; nothing where the task was skipped or the annotation is of another kind."""
    if not isinstance(annotation, dict) or annotation.get("was_cancelled"):
        return []
    results = [result for result in _list(annotation.get("result")) if isinstance(result, dict)]
    values = [result.get("value") for result in results if result.get("from_name") == "grade"]
    return [choice for value in values if isinstance(value, dict) for choice in _list(value.get("choices"))]


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _grade(reader: RowReader, value: Any, labels: Sequence[str]) -> int | None:
    """The grade that a label stands for, None where there is none yet."""
    if value is None or (isinstance(value, str) and value.strip().casefold() in _NO_TEXT):
        return None
    if isinstance(value, int) and not isinstance(value, bool):
        return reader.grade({"grade": value}, "grade", len(labels) - 1)
    known = {label.casefold(): grade for grade, label in enumerate(labels)}
    text = re.sub(r"(?<=\d)[.,]0+$", "", value.strip().casefold()) if isinstance(value, str) else ""
    if text not in known:
        message = f"label {json.dumps(value)[:60]} is not one of {', '.join(labels)}"
        reader.reject("bad-label", value, message, "correct it, or leave it empty where nobody has decided")
    return known[text]


def _check_pair(reader: RowReader, ids: tuple[str, str], known: set[tuple[str, str]] | None) -> None:
    if known is not None and ids not in known:
        message = f"query {ids[0]!r} with document {ids[1]!r} is not among the pairs that were handed out"
        remedy = "give the file its own pairs; a spreadsheet may have changed ids: import these columns as text"
        reader.reject("unknown-pair", " ".join(ids), message, remedy)
