"""The pairs of query and passage that a judge is asked about: read, gathered from runs, sampled and split.

`JudgePairs` is array-native like `Run` and `Qrels`. Pairs stand in the order of (query id, document id), whatever the
order they came in, so that the pairs of a query are together and a job is the same job every time.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.data.named import positions_of
from searchtune.data.near import near_groups
from searchtune.data.packed import created
from searchtune.data.problems import OnProblem, Problem
from searchtune.data.rows import BadRow, RowReader
from searchtune.data.splits import hash_share
from searchtune.errors import ConfigError, DataError
from searchtune.types import NO_DOC, Collection, IntArray, Qrels, Run

UNJUDGED = -1
"""Stands in `JudgePairs.grades` where no person has graded a pair."""
TOP_GRADE = 9
"""The highest grade that a judge can give, since a grade is one character."""
_ROUNDING = 1e-6
"""By how much shares may miss 1."""


@dataclass(frozen=True, eq=False)
class JudgePairs:
    """Pairs to judge, or judged by people, ascending by (query, document).

    Shape: queries, docs and grades (pairs,): positions among `query_ids` and `doc_ids`, and the people's grades.
    """

    query_ids: Sequence[str]
    query_texts: Sequence[str]
    doc_ids: Sequence[str]
    passages: Sequence[str]
    queries: IntArray
    docs: IntArray
    grades: IntArray
    others: Mapping[str, IntArray] = field(default_factory=dict)
    """By name, what other judges said: grades (pairs,), `UNJUDGED` where they said nothing."""
    warnings: tuple[Problem, ...] = ()
    """What a reader put up with, such as a pair given twice with the same grade."""

    def __len__(self) -> int:
        return len(self.queries)

    def ids(self, pair: int) -> tuple[str, str]:
        """Query id and document id of a pair."""
        return self.query_ids[int(self.queries[pair])], self.doc_ids[int(self.docs[pair])]

    def texts(self, pair: int) -> tuple[str, str]:
        """Query and passage of a pair."""
        return self.query_texts[int(self.queries[pair])], self.passages[int(self.docs[pair])]

    def select(self, keep: npt.NDArray[np.bool_] | IntArray) -> JudgePairs:
        """Some of the pairs, by mask or by position, with the queries and passages that they need; order stays."""
        places = np.unique(np.arange(len(self))[keep])
        used_queries, queries = np.unique(self.queries[places], return_inverse=True)
        used_docs, docs = np.unique(self.docs[places], return_inverse=True)
        return JudgePairs(
            query_ids=[self.query_ids[i] for i in used_queries.tolist()],
            query_texts=[self.query_texts[i] for i in used_queries.tolist()],
            doc_ids=[self.doc_ids[i] for i in used_docs.tolist()],
            passages=[self.passages[i] for i in used_docs.tolist()],
            queries=queries.astype(np.int64),
            docs=docs.astype(np.int64),
            grades=self.grades[places],
            others={name: grades[places] for name, grades in self.others.items()},
            warnings=self.warnings,
        )


@dataclass(frozen=True)
class PairFields:
    """How the fields of a file of labelled pairs are called."""

    query_id: str = "query_id"
    query: str = "query"
    doc_id: str = "doc_id"
    passage: str = "passage"
    grade: str | None = "human"
    """The people's grade; None where the file has none."""
    others: str | None = None
    """An object of judge -> grade."""


def read_pairs(
    path: Path, fields: PairFields | None = None, *, top: int = 3, on_problem: OnProblem = "fail"
) -> JudgePairs:
    """Read labelled pairs from JSON lines, plain or gzip-compressed.

    A grade is a whole number from 0 to `top`, or null. A pair that comes twice with one grade is kept once, with a
    warning; an empty passage is kept, with a warning.

    Raises:
        DataError: rows that cannot be used, one id with two texts, or one pair with two grades; the message names
            file, line, value and remedy. `skip` leaves such rows out, unless none remain.
    """
    names = fields or PairFields()
    reader = RowReader(path)
    gathered = _Gathered()
    for row in reader.objects():
        try:
            gathered.add(reader, *_pair(reader, row, names, top))
        except BadRow:
            continue
    result = reader.finish(on_problem)
    if not gathered.grades:
        reader.number = 0
        reader.error("empty-file", "", "no usable pair in it", "check that whatever wrote it came to its end")
        reader.finish("fail")
    return gathered.pairs((*result.problems, *result.warnings))


def write_pairs(path: Path, pairs: JudgePairs) -> None:
    """Write pairs as JSON lines that `read_pairs` reads, the others' grades as `judges`; whole or not at all."""
    with created(path) as file:
        for i in range(len(pairs)):
            (query_id, doc_id), (query, passage) = pairs.ids(i), pairs.texts(i)
            grade = int(pairs.grades[i])
            row: dict[str, Any] = {"query_id": query_id, "query": query, "doc_id": doc_id, "passage": passage}
            row["human"] = None if grade == UNJUDGED else grade
            row["judges"] = {name: int(said[i]) for name, said in pairs.others.items() if said[i] != UNJUDGED}
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))


def joined_pairs(parts: Sequence[JudgePairs]) -> JudgePairs:
    """Pairs of several sets that share none, as one.

    Raises:
        DataError: a pair that is in two of them.
    """
    rows = [(*part.ids(i), *part.texts(i), part, i) for part in parts for i in range(len(part))]
    rows.sort(key=lambda row: (row[0].encode(), row[1].encode()))
    for before, after in pairwise(rows):
        if before[:2] == after[:2]:
            raise DataError(f"query {after[0]!r} document {after[1]!r} is in two of the sets that are joined")
    query_ids, queries = positions_of([row[0] for row in rows])
    doc_ids, docs = positions_of([row[1] for row in rows])
    query_texts, passages = {row[0]: row[2] for row in rows}, {row[1]: row[3] for row in rows}
    names = sorted({name for part in parts for name in part.others})
    others = {
        name: np.array([part.others[name][i] if name in part.others else UNJUDGED for *_, part, i in rows], np.int64)
        for name in names
    }
    return JudgePairs(
        query_ids=query_ids,
        query_texts=[query_texts[one] for one in query_ids],
        doc_ids=doc_ids,
        passages=[passages[one] for one in doc_ids],
        queries=queries,
        docs=docs,
        grades=np.array([part.grades[i] for *_, part, i in rows], dtype=np.int64),
        others=others,
    )


def pairs_of_labels(collection: Collection, labels: Qrels) -> JudgePairs:
    """The labelled pairs of a collection's split. Labels below 0 say that nobody judged (trec_eval)."""
    grades = np.where(labels.grades < 0, UNJUDGED, labels.grades)
    _check_top(grades)
    return _of_collection(collection, labels.label_queries, labels.docs, grades)


def pairs_of_run(collection: Collection, run: Run, depth: int, labels: Qrels | None = None) -> JudgePairs:
    """The first `depth` documents that a run has for each of its queries, with the grades that `labels` has for them.

    Raises:
        ConfigError: a depth below 1.
    """
    return pairs_of_runs(collection, [run], depth, labels)


def pairs_of_runs(collection: Collection, runs: Iterable[Run], depth: int, labels: Qrels | None = None) -> JudgePairs:
    """The pool of several runs: each pair that one of them has among its first `depth`, once."""
    if depth < 1:
        raise ConfigError(f"depth {depth}: judge at least the first document of each query")
    keys: IntArray = np.zeros(0, dtype=np.int64)
    for run in runs:
        docs = run.docs[:, :depth]
        rows = np.repeat(run.queries, docs.shape[1]).reshape(docs.shape)
        keys = np.union1d(keys, (rows * len(collection.doc_ids) + docs)[docs != NO_DOC])
    queries, docs = np.divmod(keys, max(1, len(collection.doc_ids)))
    return _of_collection(collection, queries, docs, _grades_of(collection, queries, docs, labels))


def holes(collection: Collection, runs: Iterable[Run], labels: Qrels, depth: int) -> JudgePairs:
    """What nobody judged among the first `depth` documents of the runs, for the queries that have labels at all."""
    pool = pairs_of_runs(collection, runs, depth, labels)
    judged = [collection.query_ids[int(query)] for query in labels.queries]
    known = np.isin(np.array(pool.query_ids, dtype=object)[pool.queries], judged)
    return pool.select(known & (pool.grades == UNJUDGED))


def with_prefix(pairs: JudgePairs, prefix: str) -> JudgePairs:
    """The same pairs under ids that begin with `prefix`, so that sets from several places can be joined."""
    return replace(
        pairs,
        query_ids=[prefix + one for one in pairs.query_ids],
        doc_ids=[prefix + one for one in pairs.doc_ids],
    )


def split_by_query(pairs: JudgePairs, shares: Mapping[str, float], *, seed: int = 0) -> dict[str, JudgePairs]:
    """Parts that share no query, nor two that are nearly the same; `shares` of the queries, by name of the part.

    Queries go in the order of the md5 of seed and id, so that neither the order of rows nor other parts' sizes matter
    to which queries stand first.

    Raises:
        ConfigError: shares that are not above 0 or do not sum to 1.
        DataError: a part would get no query.
    """
    if not (shares and min(shares.values()) > 0 and abs(sum(shares.values()) - 1) <= _ROUNDING):
        raise ConfigError(f"shares {dict(shares)}: each must be above 0, and together they make 1")
    groups = np.array(near_groups([pairs.query_texts]), dtype=np.int64) if len(pairs.query_ids) else np.zeros(0, int)
    order = sorted(np.unique(groups).tolist(), key=lambda group: hash_share(f"{seed} {pairs.query_ids[group]}"))
    sizes = np.bincount(groups, minlength=1)[order]
    middles = (np.cumsum(sizes) - sizes / 2) / max(1, sizes.sum())
    part_of = np.searchsorted(np.cumsum(list(shares.values()))[:-1], middles, side="right")
    parts = {}
    for number, name in enumerate(shares):
        mine = np.isin(groups, np.array(order)[part_of == number])
        if not mine.any():
            raise DataError(
                f"part {name!r} gets none of {len(groups)} queries: give it a greater share, or name fewer parts"
            )
        parts[name] = pairs.select(mine[pairs.queries])
    return parts


class _Gathered:
    """Rows as they come in: texts by id, grades by pair."""

    def __init__(self) -> None:
        self.queries: dict[str, tuple[str, int]] = {}  # id -> text, line
        self.passages: dict[str, tuple[str, int]] = {}
        self.grades: dict[tuple[str, str], tuple[int, dict[str, int], int]] = {}

    def add(
        self, reader: RowReader, ids: tuple[str, str], texts: tuple[str, str], grade: int, others: dict[str, int]
    ) -> None:
        """Take in one row, unless it contradicts an earlier one."""
        for what, known, name, text in (
            ("query", self.queries, ids[0], texts[0]),
            ("document", self.passages, ids[1], texts[1]),
        ):
            earlier, line = known.get(name, (text, 0))
            if earlier != text:
                message = f"{what} {name!r} has another text than on line {line}"
                reader.reject("two-texts", name, message, "give one of them another id")
        if ids in self.grades:
            self._repeated(reader, ids, grade)
            return
        if not texts[1].strip():
            reader.warn("empty-passage", ids[1], "empty passages", "fill them, or leave these pairs out")
        self.queries.setdefault(ids[0], (texts[0], reader.number))
        self.passages.setdefault(ids[1], (texts[1], reader.number))
        self.grades[ids] = (grade, others, reader.number)

    def _repeated(self, reader: RowReader, ids: tuple[str, str], grade: int) -> None:
        before, _, line = self.grades[ids]
        if before != grade:
            message = f"pair {' '.join(ids)!r} has grade {_say(grade)} here and {_say(before)} on line {line}"
            reader.reject("two-grades", " ".join(ids), message, "keep one of the two")
        reader.warn("repeated-pair", " ".join(ids), "pairs repeated with the same grade", "remove the repetition")

    def pairs(self, warnings: tuple[Problem, ...]) -> JudgePairs:
        """All that was taken in."""
        ordered = sorted(self.grades)  # by code point, which for UTF-8 is by byte
        query_ids, queries = positions_of([query for query, _ in ordered])
        doc_ids, docs = positions_of([doc for _, doc in ordered])
        rows = [self.grades[ids] for ids in ordered]
        names = list(dict.fromkeys(name for _, others, _ in rows for name in others))
        return JudgePairs(
            query_ids=query_ids,
            query_texts=[self.queries[name][0] for name in query_ids],
            doc_ids=doc_ids,
            passages=[self.passages[name][0] for name in doc_ids],
            queries=queries,
            docs=docs,
            grades=np.array([grade for grade, _, _ in rows], dtype=np.int64),
            others={name: np.array([row[1].get(name, UNJUDGED) for row in rows], dtype=np.int64) for name in names},
            warnings=warnings,
        )


def _pair(
    reader: RowReader, row: dict[str, Any], names: PairFields, top: int
) -> tuple[tuple[str, str], tuple[str, str], int, dict[str, int]]:
    """Ids, texts, grade and the other judges' grades of one row."""
    ids = (reader.identifier(row, names.query_id), reader.identifier(row, names.doc_id))
    texts = (reader.text(row, names.query), reader.text(row, names.passage))
    if not texts[0].strip():
        reader.reject("empty-query", ids[0], f"query {ids[0]!r} has no text", "write its text or remove the pair")
    grade = UNJUDGED if names.grade is None else reader.grade(row, names.grade, top)
    if names.others is None:
        return ids, texts, grade, {}
    said = reader.value(row, names.others)
    if not isinstance(said, dict):
        message = f"{names.others!r} is {str(said)[:60]!r}, which is no object"
        reader.reject("wrong-type", said, message, 'write {"judge": grade, ...}')
    return ids, texts, grade, {name: reader.grade(said, name, TOP_GRADE) for name in said}


def _say(grade: int) -> str:
    return "none" if grade == UNJUDGED else str(grade)


def _of_collection(collection: Collection, queries: IntArray, docs: IntArray, grades: IntArray) -> JudgePairs:
    """Pairs by the collection's positions, in any order, as pairs with texts of their own."""
    order = np.lexsort((docs, queries))
    every = JudgePairs(
        collection.query_ids,
        collection.query_texts,
        collection.doc_ids,
        collection.documents,
        np.asarray(queries, np.int64)[order],
        np.asarray(docs, np.int64)[order],
        np.asarray(grades, np.int64)[order],
    )
    return every.select(np.arange(len(order)))


def _grades_of(collection: Collection, queries: IntArray, docs: IntArray, labels: Qrels | None) -> IntArray:
    """The labels of pairs, `UNJUDGED` where there is none. Shape: (pairs,) each."""
    grades = np.full(len(queries), UNJUDGED, dtype=np.int64)
    if labels is None or not len(labels.docs):
        return grades
    width = len(collection.doc_ids)
    keys = labels.label_queries * width + labels.docs  # ascending, as Qrels are
    at = np.searchsorted(keys, queries * width + docs).clip(max=len(keys) - 1)
    found = keys[at] == queries * width + docs
    grades[found] = np.maximum(labels.grades[at[found]], UNJUDGED)
    _check_top(grades)
    return grades


def _check_top(grades: IntArray) -> None:
    if len(grades) and grades.max() > TOP_GRADE:
        raise DataError(
            f"a label has grade {int(grades.max())}: a judge's grades go from 0 to {TOP_GRADE}; rescale them"
        )
