"""From a `PairSource` to the pairs of a judge's job."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from searchtune.data.judging import UNJUDGED, JudgePairs, PairFields, holes, pairs_of_labels, pairs_of_runs, read_pairs
from searchtune.data.named import run_in_collection
from searchtune.data.problems import current_policy, tell_left_out
from searchtune.data.splits import hash_share
from searchtune.data.tasks import find_source_file, load_task, open_collection
from searchtune.data.trec import read_trec_run
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.reading import user_path
from searchtune.retrieval.bm25 import kept_bm25
from searchtune.specs.judge import PairSource
from searchtune.storage.fingerprint import Fingerprint
from searchtune.storage.places import cache_root
from searchtune.types import NO_DOC, Collection, IntArray, Qrels, Run


def open_pairs(source: PairSource, *, top: int, doc_template: str | None = None) -> JudgePairs:
    """The pairs of a source, with the grades that people gave them, from 0 to `top`.

    `doc_template` writes a task's documents as a judge was trained to read them; None writes them as the task says.

    Raises:
        ConfigError: no such file, task or split.
        DataError: broken rows, a grade above `top`, or no pair at all.
    """
    pairs = _from_file(source, top) if source.task is None else _from_task(source, doc_template)
    if source.as_grade:
        pairs = replace(pairs, grades=_translated(pairs.grades, source))
    if source.max_queries is not None:
        order = sorted(range(len(pairs.query_ids)), key=lambda i: hash_share(pairs.query_ids[i]))
        pairs = pairs.select(np.isin(pairs.queries, order[: source.max_queries]))
    if source.max_pairs is not None:
        pairs = sampled(pairs, source.max_pairs)
    if not len(pairs):
        raise DataError(f"{source.task or source.file}: no pair to judge" + " (no holes)" * source.holes)
    if int(pairs.grades.max()) > top:
        raise DataError(
            f"{source.task or source.file}: people's grades go up to {int(pairs.grades.max())}, the rubric's to {top}; "
            "choose a rubric of the same scale"
        )
    return pairs


def _translated(grades: IntArray, source: PairSource) -> IntArray:
    """Grades as the rubric has them; those that `as_grade` does not name stay."""
    missing = sorted(set(source.as_grade) - set(grades.tolist()))
    if missing:
        found = sorted(set(grades.tolist()) - {UNJUDGED})
        raise ConfigError(f"{source.task or source.file}: as_grade names grade {missing[0]}; the grades are {found}")
    table = {grade: source.as_grade.get(grade, grade) for grade in set(grades.tolist())}
    return np.array([table[grade] for grade in grades.tolist()], dtype=np.int64)


def sampled(pairs: JudgePairs, count: int) -> JudgePairs:
    """At most so many of the pairs, chosen by the hash of their ids: whatever else is there, the same ones."""
    order = sorted(range(len(pairs)), key=lambda i: hash_share(" ".join(pairs.ids(i))))
    return pairs.select(np.array(order[:count], dtype=np.int64))


def fingerprint_of(pairs: JudgePairs) -> str:
    """SHA-256 over ids, texts and grades."""
    total = Fingerprint()
    for column in (pairs.query_ids, pairs.query_texts, pairs.doc_ids, pairs.passages):
        total.add_texts(column)
    for array in (pairs.queries, pairs.docs, pairs.grades):
        total.add_array(array)
    return total.hexdigest()


def _from_file(source: PairSource, top: int) -> JudgePairs:
    fields = PairFields(grade=source.grade_field, others=source.judges_field)
    found = read_pairs(find_source_file(str(source.file), "pairs"), fields, top=top, on_problem=current_policy())
    tell_left_out(str(source.file), found.warnings)
    return found


def _from_task(source: PairSource, doc_template: str | None) -> JudgePairs:
    collection = open_collection(load_task(str(source.task))).read_as(doc_template)
    labels = collection.qrels.get(source.split)
    if labels is None and (not source.runs or source.holes):
        known = did_you_mean(source.split, collection.qrels)
        raise ConfigError(f"{collection.name} has no split {source.split!r}{known}")
    if not source.runs:
        assert labels is not None
        return pairs_of_labels(collection, _with_negatives(collection, labels, source.negatives))
    runs = [_run(collection, user_path(file)) for file in source.runs]
    return _of_runs(collection, runs, labels, source)


def _with_negatives(collection: Collection, labels: Qrels, count: int) -> Qrels:
    """The labels, and grade 0 for BM25's best documents that have none."""
    if not count:
        return labels
    most = int(np.diff(labels.offsets).max(initial=0))
    texts = [collection.query_texts[int(query)] for query in labels.queries]
    run = kept_bm25(collection.documents, cache_root() / "bm25").search(labels.queries, texts, count + most)
    queries, docs = [labels.label_queries], [labels.docs]
    for row, query in enumerate(labels.queries):
        found = run.docs[row][run.docs[row] != NO_DOC]
        fresh = found[~np.isin(found, labels.row(row)[0])][:count]
        queries.append(np.full(len(fresh), query))
        docs.append(fresh)
    zeros = np.zeros(sum(map(len, docs[1:])), dtype=np.int64)
    return Qrels.from_triples(np.concatenate(queries), np.concatenate(docs), np.concatenate([labels.grades, zeros]))


def _of_runs(collection: Collection, runs: list[Run], labels: Qrels | None, source: PairSource) -> JudgePairs:
    if source.holes:
        assert labels is not None
        return holes(collection, runs, labels, source.depth)
    return pairs_of_runs(collection, runs, source.depth, labels)


def _run(collection: Collection, file: Path) -> Run:
    return run_in_collection(collection, read_trec_run(file))[0]
