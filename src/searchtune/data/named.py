"""Labels and runs that carry their own ids, and putting several of them on one universe of ids.

A file knows documents and queries by id, the metrics by position. `NamedRun` and `NamedQrels` stand between: arrays of
positions with the ids that the positions mean. `align` brings labels and runs that were made apart together;
`align_to_collection` places them in a `Collection`. Ids always ascend in byte order, so a position compares like its
id, and a run needs no sorting when it moves: equal scores stay in the order that trec_eval gives them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from typing import Literal

import numpy as np

from searchtune.data.problems import Problem
from searchtune.errors import DataError
from searchtune.types import NO_DOC, Collection, FloatArray, FloatArray64, IntArray, Qrels, Run

_SHOWN = 3


@dataclass(frozen=True, eq=False)
class NamedQrels:
    """Labels with the ids that their positions mean. Both id lists ascend in byte order."""

    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    qrels: Qrels
    warnings: tuple[Problem, ...] = ()
    """What a reader put up with, such as a label given twice with the same grade."""

    @classmethod
    def from_dicts(cls, labels: Mapping[str, Mapping[str, int]]) -> NamedQrels:
        """From query id -> document id -> grade, the shape that pytrec_eval, ranx and beir take."""
        queries, docs = _flat_ids(labels)
        grades = np.fromiter(chain.from_iterable(row.values() for row in labels.values()), np.int64, len(docs))
        return named_qrels(queries, docs, grades)

    @classmethod
    def of(cls, collection: Collection, split: str) -> NamedQrels:
        """One split of a collection."""
        return cls(collection.query_ids, collection.doc_ids, collection.split(split))


@dataclass(frozen=True, eq=False)
class NamedRun:
    """A run with the ids that its positions mean. Both id lists ascend in byte order."""

    tag: str
    """The system that made the run; TREC files name it in their last column."""
    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    run: Run
    rank_conflicts: int = 0
    """Queries whose rank column puts some document above one of higher score. The scores decide, as in trec_eval."""
    warnings: tuple[Problem, ...] = ()

    @classmethod
    def from_dicts(cls, tag: str, scores: Mapping[str, Mapping[str, float]]) -> NamedRun:
        """From query id -> document id -> score, the shape that pytrec_eval, ranx and beir take.

        A query without documents drops out; a score that is no finite float32 is a `DataError`.
        """
        queries, docs = _flat_ids(scores)
        values = np.fromiter(chain.from_iterable(row.values() for row in scores.values()), np.float64, len(docs))
        if not (finite := np.isfinite(as_float32(values))).all():
            i = int(np.argmin(finite))
            message = f"run {tag!r}: document {docs[i]!r} of query {queries[i]!r} has score {values[i]:g}"
            raise DataError(f"{message}: give every document a finite score")
        return named_run(tag, queries, docs, values)


@dataclass(frozen=True, eq=False)
class Aligned:
    """Labels and runs whose positions mean the same ids, ready for `metrics.score`."""

    query_ids: Sequence[str]
    doc_ids: Sequence[str]
    qrels: Qrels
    runs: Mapping[str, Run]
    ignored_queries: Mapping[str, int]
    """By run: its queries that have no labels; they are left out of the run."""
    missing_queries: Mapping[str, int]
    """By run: judged queries that it lacks; each scores 0."""
    skipped: Mapping[str, int]
    """By run: (query, document) rows left out because the collection lacks the document or the query."""


def align(qrels: NamedQrels, runs: Mapping[str, NamedRun]) -> Aligned:
    """Labels and runs on the union of their ids.

    A document without a label is merely unjudged. A query without labels is left out of the run and counted.
    """
    query_ids = sorted({*qrels.query_ids, *(query for run in runs.values() for query in run.query_ids)})
    doc_ids = sorted({*qrels.doc_ids, *(doc for run in runs.values() for doc in run.doc_ids)})
    return _aligned(query_ids, doc_ids, qrels, runs, "fail")


def align_to_collection(
    collection: Collection,
    qrels: NamedQrels,
    runs: Mapping[str, NamedRun],
    *,
    on_unknown: Literal["fail", "skip"] = "fail",
) -> Aligned:
    """Labels and runs by the collection's own positions; `NamedQrels.of(collection, split)` gives its own labels.

    A label or a ranked document whose query or document the collection lacks is a `DataError` that names some of them;
    `on_unknown="skip"` leaves such rows out instead and counts those of the runs.
    """
    return _aligned(collection.query_ids, collection.doc_ids, qrels, runs, on_unknown)


def run_in_collection(
    collection: Collection, named: NamedRun, *, on_unknown: Literal["fail", "skip"] = "fail"
) -> tuple[Run, int]:
    """The whole run by the collection's positions, queries without labels too, and how many rows were skipped.

    A query or document that the collection lacks is a `DataError` that names some, or is skipped.
    """
    query_index, doc_index = collection.query_index, collection.doc_index
    return _move_run(named.tag, named, query_index, doc_index, on_unknown)


def _aligned(
    query_ids: Sequence[str],
    doc_ids: Sequence[str],
    qrels: NamedQrels,
    runs: Mapping[str, NamedRun],
    on_unknown: Literal["fail", "skip"],
) -> Aligned:
    query_index = {query: i for i, query in enumerate(query_ids)}
    doc_index = {doc: i for i, doc in enumerate(doc_ids)}
    labels = _move_labels(qrels, query_index, doc_index, on_unknown)
    moved: dict[str, Run] = {}
    ignored, missing, skipped = {}, {}, {}
    for name, named in runs.items():
        run, skipped[name] = _move_run(name, named, query_index, doc_index, on_unknown)
        judged = np.isin(run.queries, labels.queries)
        moved[name] = run.select(judged)
        ignored[name] = int((~judged).sum())
        missing[name] = len(labels) - int(judged.sum())
    return Aligned(query_ids, doc_ids, labels, moved, ignored, missing, skipped)


def _move_labels(
    named: NamedQrels,
    query_index: Mapping[str, int],
    doc_index: Mapping[str, int],
    on_unknown: Literal["fail", "skip"],
) -> Qrels:
    queries = _new_positions(named.query_ids, query_index)[named.qrels.label_queries]
    docs = _new_positions(named.doc_ids, doc_index)[named.qrels.docs]
    known = (queries >= 0) & (docs >= 0)
    if on_unknown == "fail" and not known.all():
        unknown_queries = named.qrels.label_queries[queries < 0]
        unknown_docs = named.qrels.docs[docs < 0]
        _fail("the labels", _named(named.query_ids, unknown_queries), _named(named.doc_ids, unknown_docs))
    return Qrels.from_triples(queries[known], docs[known], named.qrels.grades[known])


def _move_run(
    name: str,
    named: NamedRun,
    query_index: Mapping[str, int],
    doc_index: Mapping[str, int],
    on_unknown: Literal["fail", "skip"],
) -> tuple[Run, int]:
    """The run by new positions, and how many of its rows were left out. Its order stays, since both id lists ascend."""
    run = named.run
    queries = _new_positions(named.query_ids, query_index)[run.queries]
    filled = run.docs != NO_DOC
    places = np.append(_new_positions(named.doc_ids, doc_index), NO_DOC)  # position -1, NO_DOC, stays what it is
    docs = places[run.docs]  # (queries, depth)
    unknown = filled & ((docs == NO_DOC) | (queries < 0)[:, None])
    if not unknown.any():
        return Run(queries, docs, run.scores), 0
    if on_unknown == "fail":
        unknown_docs = run.docs[filled & (docs == NO_DOC)]
        _fail(f"run {name!r}", _named(named.query_ids, run.queries[queries < 0]), _named(named.doc_ids, unknown_docs))
    known = queries >= 0
    left = Run.ranked(queries[known], docs[known], run.scores[known])  # puts the gaps at the end
    return left.select((left.docs != NO_DOC).any(axis=1)), int(unknown.sum())


def _fail(what: str, queries: list[str], docs: list[str]) -> None:
    kinds = [("queries", queries), ("documents", docs)]
    parts = [
        f"{len(ids):,} {kind} that the collection lacks, such as {', '.join(map(repr, ids[:_SHOWN]))}"
        for kind, ids in kinds
        if ids
    ]
    remedy = "check that they belong to this collection, or leave them out of the file"
    raise DataError(f"{what}: {' and '.join(parts)}; {remedy}", tuple(queries + docs))


def _named(ids: Sequence[str], positions: IntArray) -> list[str]:
    return [ids[int(i)] for i in np.unique(positions)]


def _new_positions(ids: Sequence[str], index: Mapping[str, int]) -> IntArray:
    """Where each id stands in `index`, -1 where it does not. Shape: (ids,)."""
    return np.fromiter((index.get(i, -1) for i in ids), dtype=np.int64, count=len(ids))


def named_qrels(
    queries: Sequence[str], docs: Sequence[str], grades: IntArray, warnings: tuple[Problem, ...] = ()
) -> NamedQrels:
    """From parallel rows of query id, document id and grade; pairs must be unique."""
    query_ids, query_positions = positions_of(queries)
    doc_ids, doc_positions = positions_of(docs)
    return NamedQrels(query_ids, doc_ids, Qrels.from_triples(query_positions, doc_positions, grades), warnings)


def named_run(tag: str, queries: Sequence[str], docs: Sequence[str], scores: FloatArray64) -> NamedRun:
    """From parallel rows of query id, document id and score, in any order; pairs must be unique, scores finite."""
    query_ids, query_positions = positions_of(queries)
    doc_ids, doc_positions = positions_of(docs)
    return NamedRun(tag, query_ids, doc_ids, ranked_rows(query_positions, doc_positions, scores, len(query_ids)))


def ranked_rows(queries: IntArray, docs: IntArray, scores: FloatArray64, count: int) -> Run:
    """A `Run` over queries 0 to `count` - 1, each of which has a row, from parallel arrays. Shape: (rows,) each."""
    order = np.argsort(queries, kind="stable")  # quick where the rows of a query stand together, as they mostly do
    lengths = np.bincount(queries, minlength=count)
    shape = (count, int(lengths.max(initial=0)))
    row = queries[order]
    column = np.arange(len(order)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    table, table_scores = np.full(shape, NO_DOC, dtype=np.int64), np.zeros(shape, dtype=np.float32)
    table[row, column], table_scores[row, column] = docs[order], as_float32(scores)[order]
    return Run.ranked(np.arange(count), table, table_scores)


def as_float32(scores: FloatArray64) -> FloatArray:
    """Scores as a `Run` and pytrec_eval hold them; one beyond that range becomes infinite."""
    with np.errstate(over="ignore"):
        return scores.astype(np.float32)


def positions_of(ids: Sequence[str]) -> tuple[list[str], IntArray]:
    """The distinct ids in byte order, and the position of each given id among them. Shape: (ids,)."""
    ordered = sorted(set(ids))  # by code point, which for UTF-8 is by byte
    index = {text: i for i, text in enumerate(ordered)}
    return ordered, np.fromiter(map(index.__getitem__, ids), dtype=np.int64, count=len(ids))


def _flat_ids(table: Mapping[str, Mapping[str, float]]) -> tuple[list[str], list[str]]:
    """Query id and document id of every entry."""
    queries = [text for query, row in table.items() for text in repeat(query, len(row))]
    return queries, list(chain.from_iterable(table.values()))
