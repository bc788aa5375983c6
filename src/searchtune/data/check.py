"""Reading a whole BEIR folder and saying everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from pathlib import Path

import numpy as np

from searchtune.data.advice import advise
from searchtune.data.collection import fingerprint_of
from searchtune.data.parse import Texts, read_labels, read_texts
from searchtune.data.problems import CheckResult, Findings, Problem
from searchtune.data.shapes import refuse_file, refuse_folder
from searchtune.errors import ConfigError
from searchtune.reading import user_path
from searchtune.storage.atomic import write_text
from searchtune.types import Collection, Qrels

CORPUS_FILE = "corpus.jsonl"
_LABEL_ENDS = (".tsv", ".txt", ".qrels", ".qrel")
_PROSE = ("readme", "license", "licence", "notice")
"""Files that begin so are no labels, whatever they end in."""
_BESIDE = ("qrels.tsv", "qrels.txt", "qrels.test.tsv", "qrels.test.txt")
"""Labels of one split, test, that stand beside the corpus where there is no folder of them."""


@dataclass(frozen=True)
class Scan:
    """What could be read, and what was found on the way."""

    docs: Texts
    queries: Texts
    qrels: Mapping[str, Qrels]
    result: CheckResult


def check_folder(folder: Path, *, queries_file: str = "queries.jsonl", qrels_folder: str = "qrels") -> CheckResult:
    """Every problem of a BEIR folder, and what makes it misleading (see `searchtune.data.advice`).

    Raises `ConfigError` only where there is no such folder, or one of something else.
    """
    found = scan(folder, queries_file=queries_file, qrels_folder=qrels_folder)
    if not (found.docs.ids and found.queries.ids and found.qrels):
        return found.result
    return advised(found.result, collection_of(found, folder.resolve().name))


def advised(result: CheckResult, collection: Collection) -> CheckResult:
    """The findings, and behind them those about what the collection holds."""
    more = advise(collection)
    warnings = tuple(one for one in more if one.severity == "warning")
    notes = tuple(one for one in more if one.severity == "note")
    return replace(result, warnings=result.warnings + warnings, notes=result.notes + notes)


def collection_of(found: Scan, name: str) -> Collection:
    """What could be read, as a collection."""
    docs, queries = found.docs, found.queries
    return Collection(
        name=name,
        doc_ids=docs.ids,
        titles=docs.titles,
        texts=docs.texts,
        query_ids=queries.ids,
        query_texts=queries.texts,
        qrels=found.qrels,
        fingerprint=fingerprint_of(docs.ids, docs.titles, docs.texts, queries.ids, queries.texts, found.qrels),
        query_tags=queries.tags,
    )


def scan(folder: Path, *, queries_file: str = "queries.jsonl", qrels_folder: str = "qrels") -> Scan:
    """Read each file once. Rows with errors are left out of what is returned."""
    folder = user_path(folder)
    if folder.is_file():
        refuse_file(folder)
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected {CORPUS_FILE}, {queries_file} and {qrels_folder}/ in it")
    refuse_folder(folder, queries_file, qrels_folder)
    findings = Findings()
    docs = _texts(folder, CORPUS_FILE, findings, titled=True)
    queries = _texts(folder, queries_file, findings, titled=False)
    doc_index = {doc_id: i for i, doc_id in enumerate(docs.ids)}
    query_index = {query_id: i for i, query_id in enumerate(queries.ids)}
    qrels: dict[str, Qrels] = {}
    for path in _label_files(folder, qrels_folder, findings):
        name = path.relative_to(folder).as_posix()
        labels = read_labels(path, name, findings, docs=doc_index, queries=query_index)
        split = _split_of(path)
        if split in qrels:
            message = f"a second file of split {split!r}"
            findings.add(Problem(name, 0, "split-twice", split, message, "keep one of the files"))
        elif len(labels):
            qrels[split] = labels
        else:
            message = f"split {split!r} has no usable label"
            findings.add(Problem(name, 0, "empty-split", split, message, "add labels or delete the file"))
        _note_hopeless(name, labels, findings)
    _warn_overlap(qrels, queries.ids, qrels_folder, findings)
    return Scan(docs, queries, qrels, findings.result(_counts(docs, queries, qrels)))


def write_rejected(result: CheckResult, path: Path) -> int:
    """Write every row that a reader would leave out as JSON lines, each with its place and reason; returns how many."""
    rows = [problem for problem in result.problems if problem.row is not None]
    lines = [json.dumps(_without_severity(problem), ensure_ascii=False) for problem in rows]
    write_text(path, "".join(f"{line}\n" for line in lines))
    return len(rows)


def _without_severity(problem: Problem) -> dict[str, object]:
    return {key: value for key, value in asdict(problem).items() if key != "severity"}


def _texts(folder: Path, name: str, findings: Findings, *, titled: bool) -> Texts:
    path = folder / name
    if not path.is_file() and (packed := folder / f"{name}.gz").is_file():
        path = packed
    if not path.is_file():
        findings.add(Problem(name, 0, "missing-file", name, "no such file", f"put {name} into {folder}"))
        return Texts([], [], [])
    texts = read_texts(path, name, findings, titled=titled)
    if not texts.ids:
        findings.add(Problem(name, 0, "empty-file", name, "not one usable row", "write one JSON object a line"))
    return texts


def _label_files(folder: Path, qrels_folder: str, findings: Findings) -> list[Path]:
    inside, beside = folder / qrels_folder, [folder / name for name in _BESIDE]
    named = (path for path in sorted(inside.glob("*")) if not path.name.lower().startswith(_PROSE))
    paths = [path for path in named if path.name.removesuffix(".gz").endswith(_LABEL_ENDS)]
    paths = paths or [path for path in beside if path.is_file()][:1]
    if not paths:
        message = f"no {qrels_folder}/SPLIT.tsv"
        remedy = "add at least one file of labels, such as qrels/test.tsv"
        findings.add(Problem(qrels_folder, 0, "missing-file", qrels_folder, message, remedy))
    return paths


def _split_of(path: Path) -> str:
    """The split of a file of labels: its name without the endings, `test` for those that stand beside the corpus."""
    name = path.name.removesuffix(".gz")
    return "test" if name in _BESIDE else name.rpartition(".")[0]


def _note_hopeless(name: str, labels: Qrels, findings: Findings) -> None:
    """Judged queries without any document of grade 1 or more are worth knowing of before a mean is read."""
    hopeless = len(labels) - len(labels.relevant())
    if hopeless:
        message = f"{hopeless:,} of {len(labels):,} judged queries have no document of grade 1 or more"
        remedy = "they score 0 under every system"
        findings.add(Problem(name, 0, "no-relevant", str(hopeless), message, remedy, severity="note"))


def _warn_overlap(qrels: Mapping[str, Qrels], query_ids: list[str], folder: str, findings: Findings) -> None:
    for first, second in combinations(sorted(qrels), 2):
        both = np.intersect1d(qrels[first].queries, qrels[second].queries)
        if len(both):
            example = query_ids[int(both[0])]
            message = f"{len(both):,} queries are judged in {first} and in {second}, such as {example!r}"
            remedy = "keep each query in one split"
            findings.add(Problem(folder, 0, "split-overlap", example, message, remedy, severity="warning"))


def _counts(docs: Texts, queries: Texts, qrels: Mapping[str, Qrels]) -> dict[str, int]:
    counts = {"documents": len(docs.ids), "queries": len(queries.ids)}
    for split, labels in qrels.items():
        counts[f"{split} judged"] = len(labels)
        counts[f"{split} labels"] = len(labels.docs)
    return counts
