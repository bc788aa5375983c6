"""What a judge said, as files: TREC qrels of its grades, and JSON lines that keep everything.

A line of JSON is one judgment:

    {"query_id": "q7", "doc_id": "d12", "grade": 2, "probabilities": [0.1, 0.2, 0.7], "expected": 1.6, "reason": null}

`expected` is there for other readers; it follows from the rest and is not read back.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from searchtune.clean_text import clean
from searchtune.data.judging import TOP_GRADE, JudgePairs
from searchtune.data.named import NamedQrels, named_qrels
from searchtune.data.packed import created
from searchtune.data.problems import OnProblem
from searchtune.data.rows import BadRow, RowReader
from searchtune.data.trec import write_qrels_file
from searchtune.errors import DataError
from searchtune.types import Judgment

_ROUNDING = 1e-3
"""By how much probabilities may miss 1, as rounded ones do."""


def judgment_qrels(judgments: Iterable[Judgment]) -> tuple[NamedQrels, int]:
    """The grades as labels, and how many judgments have none and are left out: no grade is not grade 0.

    Raises:
        DataError: a pair with two grades, or no grade at all.
    """
    graded: dict[tuple[str, str], int] = {}
    left_out = 0
    for one in judgments:
        if one.grade is None:
            left_out += 1
        elif graded.setdefault((one.query_id, one.doc_id), one.grade) != one.grade:
            pair = f"{one.query_id} {one.doc_id}"
            raise DataError(f"pair {pair!r} has two grades, {graded[one.query_id, one.doc_id]} and {one.grade}")
    if not graded:
        raise DataError(f"none of {left_out:,} judgments has a grade, so there are no labels to write")
    queries, docs = [query for query, _ in graded], [doc for _, doc in graded]
    return named_qrels(queries, docs, np.fromiter(graded.values(), np.int64, len(graded))), left_out


def write_judgment_qrels(path: Path, judgments: Iterable[Judgment], *, layout: Literal["trec", "beir"] = "trec") -> int:
    """Write the grades as a qrels file (see `write_qrels_file`); returns how many judgments have none."""
    labels, left_out = judgment_qrels(judgments)
    write_qrels_file(path, labels, layout=layout)
    return left_out


def write_judgments(path: Path, judgments: Iterable[Judgment]) -> None:
    """Write judgments as JSON lines, whole or not at all; packed for a name in `.gz`."""
    with created(path) as file:
        for one in judgments:
            row = {
                "query_id": one.query_id,
                "doc_id": one.doc_id,
                "grade": one.grade,
                "probabilities": None if one.probabilities is None else list(one.probabilities),
                "expected": one.expected,
                "reason": one.reason,
            }
            file.write((json.dumps(row, allow_nan=False) + "\n").encode("ascii"))


def read_judgments(path: Path, *, on_problem: OnProblem = "fail") -> list[Judgment]:
    """Read judgments from JSON lines. A judgment that is repeated as it is counts once.

    Raises:
        DataError: rows that cannot be used, or two judgments of one pair; `skip` leaves the later ones out.
    """
    reader = RowReader(path)
    found: dict[tuple[str, str], tuple[Judgment, int]] = {}
    for row in reader.objects():
        try:
            one = _judgment(reader, row)
        except BadRow:
            continue
        before, line = found.setdefault((one.query_id, one.doc_id), (one, reader.number))
        if before != one:
            pair = f"{one.query_id} {one.doc_id}"
            reader.error("two-judgments", pair, f"pair {pair!r} was judged on line {line}", "keep one of the two")
    reader.finish(on_problem)
    return [one for one, _ in found.values()]


def with_grades(pairs: JudgePairs, judgments: Sequence[Judgment]) -> JudgePairs:
    """The pairs with the grades of these judgments in place of their own; a pair without one keeps its grade.

    Raises:
        DataError: a judgment of a pair that is not there.
    """
    place = {pairs.ids(i): i for i in range(len(pairs))}
    unknown = [one for one in judgments if (one.query_id, one.doc_id) not in place]
    if unknown:
        raise DataError(
            f"{len(unknown):,} judgments are of other pairs, such as query {unknown[0].query_id!r} document "
            f"{unknown[0].doc_id!r}; give the pairs that were judged",
            tuple(f"{one.query_id} {one.doc_id}" for one in unknown),
        )
    grades = pairs.grades.copy()
    for one in judgments:
        if one.grade is not None:
            grades[place[one.query_id, one.doc_id]] = one.grade
    return replace(pairs, grades=grades)


def _judgment(reader: RowReader, row: dict[str, Any]) -> Judgment:
    query_id, doc_id = reader.identifier(row, "query_id"), reader.identifier(row, "doc_id")
    grade = reader.grade(row, "grade", TOP_GRADE)
    shares = row.get("probabilities")
    if shares is not None and not _is_distribution(shares):
        message = f"'probabilities' is {json.dumps(shares)[:60]}, which is no list of shares that sum to 1"
        reader.reject("bad-probabilities", shares, message, "write one share for each grade, or null")
    if shares is not None and grade >= len(shares):
        message = f"grade {grade} and a distribution over {len(shares)} grades"
        reader.reject("bad-grade", grade, message, "write one share for each grade, the lowest first")
    reason = row.get("reason")
    reason = clean(reason) if isinstance(reason, str) else None if reason is None else reader.text(row, "reason")
    return Judgment(
        query_id, doc_id, None if grade < 0 else grade, None if shares is None else tuple(map(float, shares)), reason
    )


def _is_distribution(value: Any) -> bool:
    return (
        isinstance(value, list)
        and len(value) > 1
        and all(isinstance(share, int | float) and not isinstance(share, bool) and 0 <= share <= 1 for share in value)
        and abs(sum(value) - 1) <= _ROUNDING
    )
