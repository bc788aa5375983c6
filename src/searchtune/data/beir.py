"""Collections as BEIR folders: reading and writing (Thakur et al. 2021, arXiv:2104.08663)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path

from searchtune.data.check import CORPUS_FILE, collection_of, scan
from searchtune.data.problems import OnProblem, current_policy, tell_left_out
from searchtune.errors import OutputExistsError
from searchtune.specs.task import check_template
from searchtune.storage.atomic import new_folder
from searchtune.types import Collection, Qrels


def read_beir(
    folder: Path,
    *,
    name: str | None = None,
    doc_template: str = "{title} {text}",
    min_grade: int = 1,
    drop_self: bool = False,
    queries_file: str = "queries.jsonl",
    qrels_folder: str = "qrels",
    on_problem: OnProblem | None = None,
) -> Collection:
    """Read `corpus.jsonl`, the queries and every split under the qrels folder.

    Broken rows raise a `DataError` that lists them all; `on_problem="skip"`, or `row_policy("skip")` around the call,
    leaves them out instead, as long as documents, queries and labels remain. The name defaults to the folder's.
    """
    check_template(doc_template)
    found = scan(folder, queries_file=queries_file, qrels_folder=qrels_folder)
    if (on_problem or current_policy()) == "fail" or not (found.docs.ids and found.queries.ids and found.qrels):
        found.result.raise_if_any(str(folder))
    if on_problem is None:
        tell_left_out(str(folder), found.result.problems)
    return replace(
        collection_of(found, name or folder.resolve().name),
        doc_template=doc_template,
        min_grade=min_grade,
        drop_self=drop_self,
    )


def write_beir(collection: Collection, folder: Path) -> None:
    """Write a collection as a BEIR folder that is there whole or not at all; reading it gives the same fingerprint.

    Replaces an earlier export; any other content at `folder` is an `OutputExistsError`.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not (folder / CORPUS_FILE).is_file())):
        raise OutputExistsError(f"{folder} is there and holds no collection: choose another folder")
    c = collection
    documents = (
        {"_id": i, "title": title, "text": text} for i, title, text in zip(c.doc_ids, c.titles, c.texts, strict=True)
    )
    queries = (
        {"_id": i, "text": text, **({"tags": list(c.query_tags[i])} if i in c.query_tags else {})}
        for i, text in zip(c.query_ids, c.query_texts, strict=True)
    )
    with new_folder(folder) as temp:
        _write_rows(temp / CORPUS_FILE, documents)
        _write_rows(temp / "queries.jsonl", queries)
        (temp / "qrels").mkdir()
        for split, labels in collection.qrels.items():
            _write_labels(temp / "qrels" / f"{split}.tsv", collection, labels)


def _write_rows(path: Path, rows: Iterable[Mapping[str, object]]) -> None:
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _write_labels(path: Path, collection: Collection, labels: Qrels) -> None:
    triples = zip(labels.label_queries.tolist(), labels.docs.tolist(), labels.grades.tolist(), strict=True)
    with path.open("w", encoding="utf-8", newline="\n") as file:
        file.write("query-id\tcorpus-id\tscore\n")
        file.writelines(f"{collection.query_ids[q]}\t{collection.doc_ids[d]}\t{grade}\n" for q, d, grade in triples)
