"""TREC runs and qrels as files, plain or gzip-compressed: reading and writing.

A run has six columns with white space between them: query id, `Q0` (not looked at), document id, rank, score, tag.
Qrels have four: query id, iteration (not looked at), document id, grade; or, as in BEIR folders, three with tabs
between them: query id, document id, grade, with or without a header.

Rules. Scores decide the order and ranks do not, nor does the order of lines: equal scores (as float32, as pytrec_eval
holds them) put the greater document id first. A file without rows, a wrong number of columns, bytes that are not UTF-8,
a score that is not a finite number, a rank that is no whole number, a document that a query lists twice, two tags in
one file, a grade that is no whole number and a label given with two grades are errors. Windows line ends, a byte order
mark, blank lines, comments that begin with # and a label given twice with one grade are read as meant; `warnings` of
the result names them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import count, islice
from pathlib import Path
from typing import Literal, NoReturn

import numpy as np

from searchtune.data.named import NamedQrels, NamedRun, as_float32, ranked_rows
from searchtune.data.packed import created, opened
from searchtune.data.parse import MAX_GRADE, QRELS_HEADERS, grade_remedy, parse_grade
from searchtune.data.problems import Findings, Problem
from searchtune.errors import DataError
from searchtune.types import NO_DOC, FloatArray, FloatArray64, IntArray, Qrels

_LINES = 1 << 16
"""Lines that are parsed at once."""
_SHOWN = 5
_BOM = b"\xef\xbb\xbf"
_RUN_COLUMNS = "query-id Q0 document-id rank score tag"
_QRELS_COLUMNS = "query-id 0 document-id grade, or query-id, document-id and grade with tabs between them"

Fields = list[bytes]


class _Ids:
    """A column of ids as numbers; only distinct ids are kept as bytes."""

    def __init__(self) -> None:
        self.seen: defaultdict[bytes, int] = defaultdict(count().__next__)  # a new id gets the next number
        self.codes: list[IntArray] = []

    def add(self, fields: Sequence[bytes]) -> None:
        self.codes.append(np.fromiter(map(self.seen.__getitem__, fields), dtype=np.int64, count=len(fields)))

    def finish(self) -> tuple[list[str], IntArray]:
        """The distinct ids in byte order, and the position of each row's id among them. Shape: (rows,)."""
        ordered = sorted(self.seen)
        places = np.empty(len(ordered), dtype=np.int64)
        places[[self.seen[raw] for raw in ordered]] = np.arange(len(ordered))
        return [raw.decode("utf-8") for raw in ordered], places[np.concatenate(self.codes)]


class _Reader:
    """One file being read: hands on its rows some at a time, and collects what is wrong with them."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.findings = Findings()
        self.numbers: list[IntArray] = []
        """The line of every row handed on, in the same parts."""

    def parts(self) -> Iterator[list[bytes]]:
        """The lines that are not blank, some thousands at a time; raises what the last part's reader complained of."""
        start = 1
        with opened(self.path) as file:
            while lines := list(islice(file, _LINES)):
                numbers = np.arange(start, start + len(lines))
                start += len(lines)
                if numbers[0] == 1 and lines[0].startswith(_BOM):
                    lines[0] = lines[0][len(_BOM) :]
                    self.warn("bom", 1, "byte order mark (read as if it were not there)", "save as UTF-8 without BOM")
                self._check_bytes(lines, numbers)
                if any(map(bytes.isspace, lines)) or not all(lines) or any(line[:1] == b"#" for line in lines):
                    kept = [i for i, line in enumerate(lines) if line and not line.isspace() and not _comment(line)]
                    lines, numbers = [lines[i] for i in kept], numbers[kept]
                self.numbers.append(numbers)
                yield lines
                self.raise_if_any()
        if not any(len(part) for part in self.numbers):
            self.error("empty-file", 0, "", "no row in it", "check that whatever wrote it came to its end")
            self.fail()

    def error(self, kind: str, line: int, value: str, message: str, remedy: str) -> None:
        self.findings.add(Problem(str(self.path), int(line), kind, value, message, remedy))

    def warn(self, kind: str, line: int, message: str, remedy: str) -> None:
        self.findings.tally(Problem(str(self.path), int(line), kind, "", message, remedy, severity="warning"))

    def raise_if_any(self) -> None:
        """Raise a `DataError` where there are errors so far."""
        if self.findings.result({}).problems:
            self.fail()

    def fail(self) -> NoReturn:
        """Raise a `DataError` that shows the first errors; `.problems` has all found so far."""
        lines = tuple(map(str, self.findings.result({}).problems))
        more = [f"... and {len(lines) - _SHOWN:,} more"] if len(lines) > _SHOWN else []
        raise DataError("\n".join([*lines[:_SHOWN], *more]), lines)

    def line(self, row: int) -> int:
        """The line of a row, counted over all parts."""
        return int(np.concatenate(self.numbers)[row])

    def _check_bytes(self, lines: list[bytes], numbers: IntArray) -> None:
        whole = b"".join(lines)
        if b"\r" in whole:
            for number, line in zip(numbers, lines, strict=True):
                if line.endswith(b"\r\n"):
                    remedy = "convert with dos2unix"
                    self.warn("crlf", number, "Windows line ends (read as plain line ends)", remedy)
        try:
            whole.decode("utf-8")
        except UnicodeDecodeError:
            for i, line in enumerate(lines):
                _report_bytes(self, int(numbers[i]), line)
            self.raise_if_any()


def _comment(line: bytes) -> bool:
    """Whether a line begins with # and is no row of an id that does so."""
    return line.startswith(b"#") and (set(line.split()[0]) == {ord("#")} or len(line.split()) not in (3, 4, 6))


def read_trec_run(path: Path) -> NamedRun:
    """Read a run of six columns (see the module's rules); `DataError` shows the first lines that cannot be used."""
    reader = _Reader(path)
    queries, docs = _Ids(), _Ids()
    scores: list[FloatArray64] = []
    ranks: list[FloatArray64] = []
    tags: dict[bytes, int] = {}
    for lines in reader.parts():
        if not lines:
            continue
        query, _, doc, rank, value, tag = _run_columns(reader, lines)
        queries.add(query)
        docs.add(doc)
        ranks.append(_numbers(reader, rank, "rank"))
        scores.append(_numbers(reader, value, "score"))
        _one_tag(reader, tag, tags)
    (query_ids, query_rows), (doc_ids, doc_rows) = queries.finish(), docs.finish()
    for first, again in _repeats(query_rows * len(doc_ids) + doc_rows):
        query_id, doc_id = query_ids[query_rows[again]], doc_ids[doc_rows[again]]
        message = f"query {query_id!r} lists document {doc_id!r} again, after line {reader.line(first)}"
        reader.error("duplicate-document", reader.line(again), doc_id, message, "keep one of the lines")
    reader.raise_if_any()
    values = np.concatenate(scores)
    conflicts = _rank_conflicts(query_rows, np.concatenate(ranks), as_float32(values))
    if conflicts:
        message = f"the rank column contradicts the scores of {conflicts:,} queries (the scores decide)"
        remedy = "write ranks that follow the scores"
        reader.findings.add(Problem(str(path), 0, "rank-conflict", "", message, remedy, severity="warning"))
    run = ranked_rows(query_rows, doc_rows, values, len(query_ids))
    warnings = reader.findings.result({}).warnings
    return NamedRun(next(iter(tags)).decode("utf-8"), query_ids, doc_ids, run, conflicts, warnings)


def read_qrels_file(path: Path) -> NamedQrels:
    """Read labels of four columns, or of three with tabs (see the module's rules)."""
    reader = _Reader(path)
    queries, docs = _Ids(), _Ids()
    parts: list[IntArray] = []
    beir: bool | None = None
    for lines in reader.parts():
        if beir is None and lines:
            beir = len(lines[0].rstrip(b"\r\n").split(b"\t")) == 3
            if beir and lines[0].split(b"\t")[0].strip().decode("utf-8").lower() in QRELS_HEADERS:
                lines = lines[1:]
                reader.numbers[-1] = reader.numbers[-1][1:]
        split = [line.rstrip(b"\r\n").split(b"\t") for line in lines] if beir else [line.split() for line in lines]
        rows = _rows(reader, split, 3 if beir else 4, _QRELS_COLUMNS)
        if rows:
            columns = list(zip(*rows, strict=True))
            queries.add(columns[0])
            docs.add(columns[-2])
            parts.append(_grades(reader, columns[-1]))
    (query_ids, query_rows), (doc_ids, doc_rows) = queries.finish(), docs.finish()
    grades = np.concatenate(parts)
    keep = np.ones(len(grades), dtype=np.bool_)
    for first, again in _repeats(query_rows * len(doc_ids) + doc_rows):
        keep[again] = False
        pair = f"{query_ids[query_rows[again]]} {doc_ids[doc_rows[again]]}"
        line, earlier = reader.line(again), reader.line(first)
        if grades[first] == grades[again]:
            reader.warn("repeated-label", line, "label repeated with the same grade", "remove the repetition")
        else:
            message = f"label {pair!r} has grade {grades[again]} here and {grades[first]} on line {earlier}"
            reader.error("duplicate-label", line, pair, message, "keep one of the two")
    reader.raise_if_any()
    qrels = Qrels.from_triples(query_rows[keep], doc_rows[keep], grades[keep])
    return NamedQrels(query_ids, doc_ids, qrels, reader.findings.result({}).warnings)


def write_trec_run(path: Path, named: NamedRun) -> None:
    """Write a run, whole or not at all; compressed where the name ends in `.gz`. Reading it gives the same run.

    Ranks count from 1. Scores have the nine digits that tell any two float32 apart. Ids and tag that are empty or hold
    white space are a `DataError`: no TREC file can hold them.
    """
    run = named.run
    used = np.unique(run.docs[run.docs != NO_DOC]).tolist()
    check_ids("tag", [named.tag])
    check_ids("query id", [named.query_ids[i] for i in run.queries.tolist()])
    check_ids("document id", [named.doc_ids[i] for i in used])
    with created(path) as file:
        for query, docs, scores in zip(run.queries.tolist(), run.docs.tolist(), run.scores.tolist(), strict=True):
            name = named.query_ids[query]
            ranked = zip(docs, scores, strict=True)
            lines = [
                f"{name} Q0 {named.doc_ids[doc]} {rank} {score:.9g} {named.tag}\n"
                for rank, (doc, score) in enumerate(ranked, start=1)
                if doc != NO_DOC
            ]
            file.write("".join(lines).encode("utf-8"))


def write_qrels_file(path: Path, named: NamedQrels, *, layout: Literal["trec", "beir"] = "trec") -> None:
    """Write labels, whole or not at all, as four TREC columns or as BEIR's three; compressed for a name in `.gz`."""
    qrels = named.qrels
    queries = [named.query_ids[i] for i in qrels.label_queries.tolist()]
    docs = [named.doc_ids[i] for i in qrels.docs.tolist()]
    rows = zip(queries, docs, qrels.grades.tolist(), strict=True)
    if layout == "trec":
        check_ids("query id", queries)
        check_ids("document id", docs)
        lines = [f"{query} 0 {doc} {grade}\n" for query, doc, grade in rows]
    else:
        lines = ["query-id\tcorpus-id\tscore\n", *(f"{query}\t{doc}\t{grade}\n" for query, doc, grade in rows)]
    with created(path) as file:
        file.write("".join(lines).encode("utf-8"))


def check_ids(what: str, ids: Sequence[str]) -> None:
    """Raise a `DataError` where a TREC file cannot hold an id."""
    for text in ids:
        if not text or len(text.split()) != 1 or text != text.strip():
            raise DataError(f"{what} {text!r} is empty or holds white space: a TREC file cannot hold it, rename it")


def _report_bytes(reader: _Reader, number: int, line: bytes) -> None:
    try:
        line.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = f"0x{line[error.start]:02x}"
        message = f"not UTF-8: byte {bad} at position {error.start} of the line"
        reader.error("bad-utf8", number, bad, message, "re-encode the file, e.g. iconv -f latin1 -t utf-8")


def _rows(reader: _Reader, rows: list[Fields], width: int, columns: str) -> list[Fields]:
    """The rows, once all of them have `width` fields and none of the fields is empty."""
    if all(len(row) == width for row in rows) and all(map(all, rows)):
        return rows
    for row, number in zip(rows, reader.numbers[-1], strict=True):
        shown = b" ".join(row).decode("utf-8")[:80]
        if len(row) != width:
            message = f"{len(row)} columns where {width} belong: {shown!r}"
            reader.error("bad-row", number, shown, message, f"write {columns}")
        elif not all(row):
            reader.error("empty-field", number, shown, f"an empty column: {shown!r}", f"write {columns}")
    reader.raise_if_any()
    return rows


def _run_columns(reader: _Reader, lines: list[bytes]) -> list[Sequence[bytes]]:
    """The six columns of some lines, none of which is blank.

    All lines are split at once, with a mark after each: where every seventh field is a mark and no other is, each line
    has six. Otherwise they are split one by one.
    """
    fields = (b" \0 ".join(lines) + b" \0").split()
    n = len(lines)
    if len(fields) == 7 * n and fields[6::7].count(b"\0") == n == fields.count(b"\0"):
        return [fields[i::7] for i in range(6)]
    return list(zip(*_rows(reader, [line.split() for line in lines], 6, _RUN_COLUMNS), strict=True))


def _numbers(reader: _Reader, fields: Sequence[bytes], what: Literal["rank", "score"]) -> FloatArray64:
    """A column as finite numbers, ranks whole. Shape: (rows,)."""
    numbers = _parsed(fields, what)
    if numbers is None:
        _refuse(reader, fields, what)
    return numbers


def _refuse(reader: _Reader, fields: Sequence[bytes], what: Literal["rank", "score"]) -> NoReturn:
    for field, number in zip(fields, reader.numbers[-1], strict=True):
        if _parsed([field], what) is not None:
            continue
        text = field.decode("utf-8")
        if what == "score":
            message, remedy = f"score {text!r} is not a finite number", "write a decimal number in the fifth column"
        else:
            message = f"rank {text!r} is not a whole number"
            remedy = "write ranks in the fourth column and scores in the fifth"
        reader.error(f"bad-{what}", number, text, message, remedy)
    reader.fail()


def _parsed(fields: Sequence[bytes], what: Literal["rank", "score"]) -> FloatArray64 | None:
    """The fields as numbers, or None where one of them is none."""
    if b"_" in b"".join(fields):  # which Python would take for a digit separator
        return None
    try:
        numbers = np.array(list(map(int if what == "rank" else float, fields)), dtype=np.float64)
    except (ValueError, OverflowError):
        return None
    return numbers if np.isfinite(as_float32(numbers)).all() else None


def _grades(reader: _Reader, fields: Sequence[bytes]) -> IntArray:
    """The grade column as whole numbers. Shape: (rows,)."""
    known = {field: parse_grade(field.decode("utf-8")) for field in set(fields)}
    if None in known.values():
        for field, number in zip(fields, reader.numbers[-1], strict=True):
            if known[field] is None:
                text = field.decode("utf-8")
                message = f"grade {text!r} is not a whole number from -{MAX_GRADE} to {MAX_GRADE}"
                reader.error("bad-grade", number, text, message, grade_remedy(text))
        reader.raise_if_any()
    return np.fromiter((known[field] for field in fields), dtype=np.int64, count=len(fields))


def _one_tag(reader: _Reader, column: Sequence[bytes], tags: dict[bytes, int]) -> None:
    """Note the tag with its first line in `tags`; another one is an error."""
    for tag in set(column):
        if tag not in tags:
            tags[tag] = int(reader.numbers[-1][column.index(tag)])
    if len(tags) > 1:
        (first, line), (other, other_line) = sorted(tags.items(), key=lambda item: item[1])[:2]
        message = f"run tag {other.decode('utf-8')!r}, after {first.decode('utf-8')!r} on line {line}"
        reader.error("many-tags", other_line, other.decode("utf-8"), message, "write one file a run, or one tag")
        reader.raise_if_any()


def _repeats(keys: IntArray) -> list[tuple[int, int]]:
    """Pairs of rows with the same key: one row and the next one like it. Shape: keys (rows,)."""
    order = np.argsort(keys, kind="stable")
    again = np.flatnonzero(np.diff(keys[order]) == 0) + 1
    return list(zip(order[again - 1].tolist(), order[again].tolist(), strict=True))


def _rank_conflicts(queries: IntArray, ranks: FloatArray64, scores: FloatArray) -> int:
    """Queries with two documents that the rank column orders against their scores."""
    order = np.lexsort((-scores, ranks, queries))
    rising = (np.diff(queries[order]) == 0) & (np.diff(scores[order]) > 0) & (np.diff(ranks[order]) > 0)
    return len(np.unique(queries[order][1:][rising]))
