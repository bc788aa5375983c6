"""Reading a whole BEIR folder and saying everything that is wrong with it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import combinations
from pathlib import Path

import numpy as np

from searchtune.data.parse import Texts, read_labels, read_texts
from searchtune.data.problems import CheckResult, Findings, Problem
from searchtune.errors import ConfigError
from searchtune.storage.atomic import write_text
from searchtune.types import Qrels

CORPUS_FILE = "corpus.jsonl"


@dataclass(frozen=True)
class Scan:
    """What could be read, and what was found on the way."""

    docs: Texts
    queries: Texts
    qrels: Mapping[str, Qrels]
    result: CheckResult


def check_folder(folder: Path, *, queries_file: str = "queries.jsonl", qrels_folder: str = "qrels") -> CheckResult:
    """Every problem of a BEIR folder; raises `ConfigError` only where there is no such folder."""
    return scan(folder, queries_file=queries_file, qrels_folder=qrels_folder).result


def scan(folder: Path, *, queries_file: str = "queries.jsonl", qrels_folder: str = "qrels") -> Scan:
    """Read each file once. Rows with errors are left out of what is returned."""
    if not folder.is_dir():
        raise ConfigError(f"{folder}: no such folder; expected {CORPUS_FILE}, {queries_file} and {qrels_folder}/ in it")
    findings = Findings()
    docs = _texts(folder, CORPUS_FILE, findings, titled=True)
    queries = _texts(folder, queries_file, findings, titled=False)
    doc_index = {doc_id: i for i, doc_id in enumerate(docs.ids)}
    query_index = {query_id: i for i, query_id in enumerate(queries.ids)}
    qrels: dict[str, Qrels] = {}
    for path in _label_files(folder, qrels_folder, findings):
        name = path.relative_to(folder).as_posix()
        labels = read_labels(path, name, findings, docs=doc_index, queries=query_index)
        if len(labels):
            qrels[path.stem] = labels
        else:
            message = f"split {path.stem!r} has no usable label"
            findings.add(Problem(name, 0, "empty-split", path.stem, message, "add labels or delete the file"))
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
    if not path.is_file():
        findings.add(Problem(name, 0, "missing-file", name, "no such file", f"put {name} into {folder}"))
        return Texts([], [], [])
    texts = read_texts(path, name, findings, titled=titled)
    if not texts.ids:
        findings.add(Problem(name, 0, "empty-file", name, "not one usable row", "write one JSON object a line"))
    return texts


def _label_files(folder: Path, qrels_folder: str, findings: Findings) -> list[Path]:
    paths = sorted((folder / qrels_folder).glob("*.tsv"))
    if not paths:
        message = f"no {qrels_folder}/SPLIT.tsv"
        remedy = "add at least one file of labels, such as qrels/test.tsv"
        findings.add(Problem(qrels_folder, 0, "missing-file", qrels_folder, message, remedy))
    return paths


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
