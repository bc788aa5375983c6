"""The one parser of BEIR files: every row is checked as it is read, and what is wrong goes to a `Findings`.

Format: Thakur et al. 2021, BEIR (arXiv:2104.08663). `corpus.jsonl` holds `_id`, `title`, `text`; `queries.jsonl` holds
`_id`, `text`; `qrels/SPLIT.tsv` holds query id, corpus id and grade, with or without a header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.packed import opened
from searchtune.data.problems import Findings, Problem, Severity
from searchtune.types import IntArray, Qrels

MAX_GRADE = 1000
"""Grades run from -MAX_GRADE to MAX_GRADE; those below 1 mean not relevant."""

_BOM = b"\xef\xbb\xbf"
_DIGITS = 20
"""Of a grade; Python refuses to read numbers of some thousands."""
_INTEGRAL = re.compile(r"[+-]?[0-9]+(\.0*)?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
_DECIMAL = re.compile(r"[+-]?[0-9]*\.[0-9]{1,3}")
_ID_NAMES = {True: ("id", "doc_id", "docid", "docno", "document_id"), False: ("id", "query_id", "qid", "queryid")}
"""Names of the id in a corpus (True) and in queries that are read as `_id`."""
QRELS_HEADERS = {"query-id", "query_id", "qid", "queryid", "topic"}
"""What the first field of a qrels header may read, in small letters."""


@dataclass(frozen=True)
class Texts:
    """Rows of a corpus or of queries, ids ascending in byte order. Queries have empty titles."""

    ids: list[str]
    titles: list[str]
    texts: list[str]
    tags: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """By id, where a row has any: its `tags`, a list of strings."""


class _Reader:
    """One file being read: yields decoded lines and files complaints about the line it stands at."""

    def __init__(self, path: Path, name: str, findings: Findings) -> None:
        self.path, self.name, self.findings = path, name, findings
        self.number = 0
        self.raw = b""

    def lines(self) -> Iterator[str]:
        """Every line that is not blank, without its line end. Undecodable lines are reported and left out."""
        with opened(self.path) as file:
            for self.number, self.raw in enumerate(file, start=1):
                raw = self.raw
                if self.number == 1 and raw.startswith(_BOM):
                    raw = raw[len(_BOM) :]
                    self.warn("bom", "", "byte order mark (read as if it were not there)", "save as UTF-8 without BOM")
                if raw.endswith(b"\r\n"):
                    self.tally("crlf", "", "Windows line ends (read as plain line ends)", "convert with dos2unix")
                try:
                    line = raw.decode("utf-8").rstrip("\r\n")
                except UnicodeDecodeError as error:
                    bad = f"0x{raw[error.start]:02x}"
                    message = f"not UTF-8: byte {bad} at position {error.start} of the line"
                    self.error("bad-utf8", bad, message, "re-encode the file, e.g. iconv -f latin1 -t utf-8")
                    continue
                if line.startswith("#") and self.comment(line):
                    self.tally("comment", "", "comment that begins with # (not read)", "nothing to do", "note")
                elif line and not line.isspace():
                    yield line

    def comment(self, line: str) -> bool:
        """Whether a line that begins with # is no row: no JSON begins so, and no label has another number of fields."""
        fields = line.split("\t")
        return self.path.name.removesuffix(".gz").endswith(".jsonl") or (
            set(line.split()[0]) == {"#"} or (len(fields) not in (3, 4) and len(line.split()) != 4)
        )

    def error(self, kind: str, value: str, message: str, remedy: str) -> None:
        row = self.raw.decode("utf-8", errors="backslashreplace").rstrip("\r\n")
        self.findings.add(Problem(self.name, self.number, kind, value, message, remedy, row=row))

    def warn(self, kind: str, value: str, message: str, remedy: str) -> None:
        self.findings.add(Problem(self.name, self.number, kind, value, message, remedy, severity="warning"))

    def tally(self, kind: str, value: str, message: str, remedy: str, severity: Severity = "warning") -> None:
        self.findings.tally(Problem(self.name, self.number, kind, value, message, remedy, severity=severity))


def read_texts(path: Path, name: str, findings: Findings, *, titled: bool) -> Texts:
    """Read a corpus (`titled`) or queries. `name` is how messages call the file."""
    reader = _Reader(path, name, findings)
    first: dict[str, int] = {}
    titles, texts = [], []
    tags: dict[str, tuple[str, ...]] = {}
    for line in reader.lines():
        row = _object(reader, line)
        if row is None:
            continue
        _settle_id(reader, row, titled)
        if not _sound(reader, row, titled):
            continue
        row_id = row["_id"]
        if row_id in first:
            message = f"duplicate id {row_id!r}, first on line {first[row_id]}"
            reader.error("duplicate-id", row_id, message, "keep one of the rows or give the other its own id")
            continue
        first[row_id] = reader.number
        titles.append(row.get("title") or "" if titled else "")
        texts.append(row["text"])
        if row.get("tags"):
            tags[row_id] = tuple(row["tags"])
    ids = list(first)
    order = sorted(range(len(ids)), key=ids.__getitem__)  # by code point, which for UTF-8 is by byte
    return Texts([ids[i] for i in order], [titles[i] for i in order], [texts[i] for i in order], tags)


def read_labels(
    path: Path, name: str, findings: Findings, *, docs: Mapping[str, int], queries: Mapping[str, int]
) -> Qrels:
    """Read one qrels file. `docs` and `queries` map the ids that exist to their positions."""
    reader = _Reader(path, name, findings)
    seen: dict[tuple[int, int], tuple[int, int]] = {}  # (query, document) -> (grade, line)
    for line in reader.lines():
        fields = _without_iteration(reader, line, line.split("\t"))
        if reader.number == 1 and fields[0].strip().lower() in QRELS_HEADERS:
            continue
        label = _label(reader, line, fields, docs, queries)
        if label is None:
            continue
        query, doc, grade = label
        earlier = seen.setdefault((query, doc), (grade, reader.number))
        if earlier[1] != reader.number:
            _repeated(reader, fields, grade, *earlier)
    return _qrels(seen)


def _qrels(seen: Mapping[tuple[int, int], tuple[int, int]]) -> Qrels:
    pairs = np.array(list(seen), dtype=np.int64).reshape(-1, 2)
    grades: IntArray = np.fromiter((grade for grade, _ in seen.values()), dtype=np.int64, count=len(seen))
    return Qrels.from_triples(pairs[:, 0], pairs[:, 1], grades)


def _object(reader: _Reader, line: str) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        at = f" at column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        what = error.msg if isinstance(error, json.JSONDecodeError) else type(error).__name__
        reader.error("bad-json", line[:80], f"not JSON: {what}{at}", "write one JSON object a line")
        return None
    if not isinstance(row, dict):
        reader.error("bad-json", line[:80], f"a JSON {type(row).__name__}, not an object", 'write {"_id": ..., ...}')
        return None
    return row


def _settle_id(reader: _Reader, row: dict[str, Any], titled: bool) -> None:
    """Put a row's id under `_id` where it stands under a usual other name, and a whole number as its digits."""
    if "_id" not in row:
        other = next((key for key in _ID_NAMES[titled] if key in row), None)
        if other is None:
            return
        row["_id"] = row[other]
        reader.tally("other-id", other, f"id under {other!r} (read as '_id')", "nothing to do", "note")
    if isinstance(row["_id"], int) and not isinstance(row["_id"], bool) and abs(row["_id"]) < 10**30:
        reader.tally("whole-id", "_id", "id is a whole number (read as its digits)", "nothing to do", "note")
        row["_id"] = str(row["_id"])


def _sound(reader: _Reader, row: dict[str, Any], titled: bool) -> bool:
    """Whether a row can be used; says why where it cannot."""
    for key in ("_id", "text"):
        if key not in row:
            near = f" (there is {', '.join(map(repr, list(row)[:4]))})" if row else ""
            reader.error("missing-key", key, f"key {key!r} is missing{near}", f"add {key!r}")
            return False
    if titled and row.get("title") is None:
        reader.tally("missing-title", "", "no 'title' key (read as empty)", 'add "title": "" where there is none')
    for key in ("_id", "text", "title") if titled else ("_id", "text"):
        value = row.get(key)
        if not isinstance(value, str) and not (key == "title" and value is None):
            message = f"{key!r} is {json.dumps(value)[:60]}, which is not a string"
            reader.error("wrong-type", str(value)[:60], message, "put it in double quotes")
            return False
        if value and b"\\u" in reader.raw and not _encodable(value):
            message = f"{key!r} holds half a surrogate pair, which is no character"
            reader.error("bad-utf8", repr(value)[:60], message, "write the character itself in UTF-8")
            return False
    return _good_tags(reader, row.get("tags")) and _good_id(reader, row["_id"]) and _good_text(reader, row, titled)


def _good_tags(reader: _Reader, tags: Any) -> bool:
    if tags is None or (
        isinstance(tags, list) and all(isinstance(tag, str) and tag and _encodable(tag) for tag in tags)
    ):
        return True
    message = f"'tags' is {json.dumps(tags)[:60]}, which is not a list of words"
    reader.error("wrong-type", str(tags)[:60], message, 'write "tags": ["name", ...] or leave it out')
    return False


def _encodable(value: str) -> bool:
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _good_id(reader: _Reader, row_id: str) -> bool:
    if not row_id:
        reader.error("empty-id", "", "the id is empty", "give the row an id")
        return False
    if row_id.isprintable() and " " not in row_id:
        return True
    if _CONTROL.search(row_id):
        message = f"id {row_id!r} holds a control character"
        reader.error("bad-id", row_id, message, "take it out: runs and qrels hold one id between tabs or spaces")
        return False
    if any(char.isspace() for char in row_id):
        message = f"ids with white space, such as {row_id!r},"
        reader.tally("spaced-id", row_id, message, "replace it, or TREC run files of this set cannot be read back")
    return True


def _good_text(reader: _Reader, row: dict[str, Any], titled: bool) -> bool:
    if row["text"].strip() or (titled and (row.get("title") or "").strip()):
        return True
    if titled:
        message = "document with neither title nor text"
        reader.tally("empty-document", row["_id"], message, "fill it, or remove it together with its labels")
        return True
    reader.error("empty-query", row["_id"], f"query {row['_id']!r} has no text", "write its text or remove it")
    return False


def _without_iteration(reader: _Reader, line: str, fields: list[str]) -> list[str]:
    """The three fields of a label; of TREC's four (with tabs or spaces) the second is left out."""
    four = fields if len(fields) == 4 else line.split() if len(fields) == 1 else []
    if len(four) != 4:
        return fields
    if four[0].strip().lower() not in QRELS_HEADERS:
        message = "four columns, as in TREC qrels (the second is not looked at)"
        reader.tally("trec-qrels", "", message, "nothing to do", "note")
    return [four[0], four[2], four[3]]


def _label(
    reader: _Reader, line: str, fields: list[str], docs: Mapping[str, int], queries: Mapping[str, int]
) -> tuple[int, int, int] | None:
    """Positions and grade of one row, or None where it cannot be used."""
    if len(fields) != 3:
        message = f"{len(fields)} tab-separated fields where 3 belong: {line[:80]!r}"
        remedy = "write query-id, corpus-id, score with tabs between them, or TREC's four columns"
        reader.error("bad-row", line[:80], message, remedy)
        return None
    query, doc = queries.get(fields[0]), docs.get(fields[1])
    if query is None:
        message = f"query {fields[0]!r} has no text in the queries file"
        reader.error("dangling-query", fields[0], message, "add the query or remove its labels")
        return None
    if doc is None:
        message = f"document {fields[1]!r} is not in corpus.jsonl"
        reader.error("dangling-document", fields[1], message, "add the document or remove the label")
        return None
    grade = parse_grade(fields[2])
    if grade is None:
        message = f"grade {fields[2]!r} is not a whole number from -{MAX_GRADE} to {MAX_GRADE}"
        reader.error("bad-grade", fields[2], message, grade_remedy(fields[2]))
        return None
    if grade < 0:
        reader.tally("negative-grade", fields[2], "negative grade (not relevant, as in TREC)", "nothing to do", "note")
    return query, doc, grade


@lru_cache(maxsize=4096)
def parse_grade(field: str) -> int | None:
    """A grade as an integer; `1.0` is 1. None where it is no whole number or lies outside of ±MAX_GRADE."""
    text = field.strip()
    if not _INTEGRAL.fullmatch(text):
        return None
    whole = text.partition(".")[0]
    grade = int(whole) if len(whole) <= _DIGITS else MAX_GRADE + 1
    return grade if abs(grade) <= MAX_GRADE else None


def grade_remedy(field: str) -> str:
    """What to write in place of a grade that is none; of a decimal, how to make whole numbers of all."""
    if _DECIMAL.fullmatch(field.strip()):
        factor = 10 ** len(field.strip().partition(".")[2].rstrip("0"))
        return f"multiply all grades by {factor:,}, and min_grade with them: nDCG stays what it is"
    return "write 0 for not relevant, 1 and more for relevant"


def _repeated(reader: _Reader, fields: list[str], grade: int, old_grade: int, old_line: int) -> None:
    pair = f"{fields[0]} {fields[1]}"
    if grade == old_grade:
        reader.tally("repeated-label", pair, f"label {pair!r} repeated with the same grade", "remove the repetition")
        return
    message = f"label {pair!r} has grade {grade} here and {old_grade} on line {old_line}"
    reader.error("duplicate-label", pair, message, "keep one of the two")
