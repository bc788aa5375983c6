"""Collections of the `ir_datasets` catalogue (MacAvaney et al. 2021, SIGIR), which downloads what it does not have yet.

A source reads `irds:` and an id of the catalogue, such as `irds:beir/scifact/test`; several with `+` between them make
the splits of one collection: `irds:beir/scifact/train+beir/scifact/test`.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from dataclasses import replace
from importlib import import_module
from types import ModuleType
from typing import Any

from searchtune.data.collection import Label, build_collection
from searchtune.errors import ConfigError, DataError, MissingExtraError
from searchtune.specs.task import check_template
from searchtune.types import Collection

IRDS = "irds:"
_SPLITS = {"train": "train", "dev": "dev", "validation": "dev", "valid": "dev", "val": "dev", "test": "test"}
"""The split that the last part of an id stands for; any other part stands for test."""
_TEXT_FIELDS = ("text", "body", "abstract", "contents")
_QUERY_FIELDS = ("text", "title", "query")


def open_irds(
    source: str,
    *,
    name: str | None = None,
    doc_template: str = "{title} {text}",
    min_grade: int = 1,
    drop_self: bool = False,
) -> Collection:
    """The collection behind `irds:ID` or `irds:ID+ID`; its name defaults to the first id.

    Documents come from the first id, so all of them must share one corpus; queries and labels come from each. A split
    is called train, dev or test by the last part of its id, otherwise test. A document's title is its field `title`;
    its text is the first of `text`, `body`, `abstract` and `contents`, or what the catalogue calls its default text. A
    query is its `text`, `title` or `query`, in this order, or its default text.

    An unknown id, one without documents, queries or labels, two ids of one split, an id given to two texts, and a label
    that names an unknown document or query are errors.
    """
    check_template(doc_template)
    ids = [part.strip() for part in source.removeprefix(IRDS).split("+")]
    catalogue = _catalogue()
    datasets = {_split_of(dataset_id): _load(catalogue, dataset_id) for dataset_id in ids}
    if len(datasets) < len(ids):
        raise ConfigError(f"{source}: two ids stand for one split; give each of train, dev and test once at most")
    documents = _documents(ids[0], next(iter(datasets.values())).docs_iter())
    queries: dict[str, str] = {}
    labels: dict[str, list[Label]] = {}
    for dataset_id, (split, dataset) in zip(ids, datasets.items(), strict=True):
        _add_queries(dataset_id, dataset.queries_iter(), queries)
        labels[split] = [(row.query_id, row.doc_id, int(row.relevance)) for row in dataset.qrels_iter()]
        _check_labels(dataset_id, labels[split], documents.keys(), queries.keys())
    built = build_collection(name or ids[0], documents, queries, labels)
    return replace(built, doc_template=doc_template, min_grade=min_grade, drop_self=drop_self)


def _catalogue() -> ModuleType:
    try:
        return import_module("ir_datasets")
    except ImportError as error:
        message = "sources that begin with irds: need the package ir_datasets: pip install 'searchtune[irds]'"
        raise MissingExtraError(message) from error


def _split_of(dataset_id: str) -> str:
    return _SPLITS.get(dataset_id.rpartition("/")[2].lower(), "test")


def _load(catalogue: ModuleType, dataset_id: str) -> Any:
    """The data set, once it is known to have documents, queries and labels."""
    try:
        dataset = catalogue.load(dataset_id)
    except KeyError as error:
        message = f"irds:{dataset_id}: no such id; https://ir-datasets.com lists them, for instance beir/scifact/test"
        raise ConfigError(message) from error
    lacking = [what for what in ("docs", "queries", "qrels") if not getattr(dataset, f"has_{what}")()]
    if lacking:
        remedy = "choose an id that has all three, often a longer one such as ID/test"
        raise ConfigError(f"irds:{dataset_id} has no {', no '.join(lacking)}; {remedy}")
    return dataset


def _documents(dataset_id: str, rows: Iterable[Any]) -> dict[str, tuple[str, str]]:
    documents: dict[str, tuple[str, str]] = {}
    for row in rows:
        if row.doc_id in documents:
            raise DataError(f"irds:{dataset_id}: two documents have the id {row.doc_id!r}; report it to ir_datasets")
        documents[row.doc_id] = (getattr(row, "title", None) or "", _text(dataset_id, row, _TEXT_FIELDS))
    return documents


def _add_queries(dataset_id: str, rows: Iterable[Any], queries: dict[str, str]) -> None:
    for row in rows:
        text = _text(dataset_id, row, _QUERY_FIELDS)
        if queries.setdefault(row.query_id, text) != text:
            message = f"irds:{dataset_id}: query {row.query_id!r} has two texts, {queries[row.query_id]!r} and {text!r}"
            raise DataError(f"{message}; open the two ids as two collections")


def _text(dataset_id: str, row: Any, fields: Sequence[str]) -> str:
    """The first of `fields` that the row has, otherwise its default text."""
    for field in fields:
        if isinstance(value := getattr(row, field, None), str):
            return value
    if hasattr(row, "default_text"):
        return str(row.default_text())
    have = ", ".join(getattr(row, "_fields", ())) or "nothing"
    message = f"irds:{dataset_id}: a {type(row).__name__} has none of the fields {', '.join(fields)} (it has {have})"
    raise DataError(f"{message}; export it as a BEIR folder")


def _check_labels(dataset_id: str, labels: Iterable[Label], documents: Container[str], queries: Container[str]) -> None:
    """Every label must name a query and a document that are there; the first one that does not is shown."""
    stray = [row for row in labels if row[0] not in queries or row[1] not in documents]
    if stray:
        query, doc, _ = stray[0]
        what = f"query {query!r}" if query not in queries else f"document {doc!r}"
        message = f"irds:{dataset_id}: {len(stray):,} labels name what is not there, the first one {what}"
        raise DataError(f"{message}; export it as a BEIR folder without these labels")
