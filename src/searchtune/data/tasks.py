"""From the name of a task to its collection.

A task's `source` is `builtin:NAME`, `irds:ID` (see `searchtune.data.irds`) or a BEIR folder. A relative folder is
looked for beside the task file, in the working directory, in the folder that the environment variable
`SEARCHTUNE_DATA` names, and in `./datasets`. `searchtune data fetch` downloads to `$SEARCHTUNE_DATA`, or to
`./datasets` where that is not set.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from searchtune.data.beir import read_beir
from searchtune.data.collection import with_qrels
from searchtune.data.irds import IRDS, open_irds
from searchtune.data.pystdlib import load_pystdlib
from searchtune.data.shapes import refuse_file, refuse_folder
from searchtune.data.splits import cut_dev
from searchtune.errors import ConfigError, did_you_mean
from searchtune.reading import user_path
from searchtune.specs.base import parse_spec, read_yaml
from searchtune.specs.task import TaskSpec, check_template
from searchtune.storage.assets import find_asset
from searchtune.types import Collection

BUILTIN = "builtin:"
PUBLIC_BEIR = (
    *("arguana", "climate-fever", "dbpedia-entity", "fever", "fiqa", "hotpotqa", "msmarco", "nfcorpus", "nq"),
    *("quora", "scidocs", "scifact", "trec-covid", "webis-touche2020"),
)
"""The BEIR sets that can be downloaded freely as one folder each."""

_BUILTINS = {"pystdlib": load_pystdlib}


def load_task(name_or_path: str) -> TaskSpec:
    """The task that a name under `tasks/`, a task file, a BEIR folder, `builtin:NAME` or `irds:ID` stands for."""
    if name_or_path.startswith(IRDS):
        return TaskSpec(name=re.sub(r"[^\w.-]+", "-", name_or_path.removeprefix(IRDS)), source=name_or_path)
    path = find_asset("tasks", name_or_path.removeprefix(BUILTIN))
    if path.is_dir():
        folder = path.resolve()
        refuse_folder(folder, "queries.jsonl", "qrels")
        return TaskSpec(name=folder.name, source=str(folder))
    refuse_file(path)
    task = parse_spec(TaskSpec, read_yaml(path), str(path))
    beside = path.resolve().parent / task.source
    return task.model_copy(update={"source": str(beside)}) if beside.is_dir() else task


def open_collection(task: TaskSpec) -> Collection:
    """Read a task's collection; where it has train but no dev, dev is cut from train (see `splits.cut_dev`)."""
    check_template(task.doc_template)
    collection = _opened(task)
    if task.splits:
        collection = _with_splits(collection, task.splits)
    if "train" in collection.qrels and "dev" not in collection.qrels:
        return cut_dev(collection, task.dev_from_train)
    return collection


def places_of(source: str) -> list[Path]:
    """Where a source may lie, the first choice first: in the working directory, at `data_home`, in `./datasets`."""
    path = user_path(source)
    roots = dict.fromkeys([Path(), data_home(), Path("datasets")])
    return [path] if path.is_absolute() else [root / path for root in roots]


def find_source_file(name: str, what: str) -> Path:
    """The file that a source names, in the first of its places that has it; `what` it holds is for the message.

    Raises:
        ConfigError: there is none.
    """
    places = places_of(name)
    for place in places:
        if place.is_file():
            return place
    looked = ", ".join(map(str, places))
    raise ConfigError(f"no file of {what} {name!r} (looked at {looked}); set SEARCHTUNE_DATA to the folder that has it")


def _with_splits(collection: Collection, splits: Mapping[str, str]) -> Collection:
    """The same collection with its labels under the names that a task gives them."""
    for name, source in splits.items():
        if source not in collection.qrels:
            raise ConfigError(
                f"task {collection.name}: splits.{name} names {source!r}{did_you_mean(source, collection.qrels)}"
            )
    if len(set(splits.values())) < len(splits):
        raise ConfigError(f"task {collection.name}: splits {dict(splits)} give the same labels two names")
    return with_qrels(collection, {name: collection.qrels[source] for name, source in splits.items()})


def data_home() -> Path:
    """Where collections are downloaded to: `$SEARCHTUNE_DATA`, or `./datasets`."""
    return user_path(os.environ.get("SEARCHTUNE_DATA") or "datasets")


def _opened(task: TaskSpec) -> Collection:
    if task.source.startswith(BUILTIN):
        return _builtin(task)
    if task.source.startswith(IRDS):
        return open_irds(
            task.source,
            name=task.name,
            doc_template=task.doc_template,
            min_grade=task.min_grade,
            drop_self=task.drop_self,
        )
    return _folder(task)


def _builtin(task: TaskSpec) -> Collection:
    name = task.source.removeprefix(BUILTIN)
    if name not in _BUILTINS:
        raise ConfigError(f"task {task.name}: no built-in collection {name!r}{did_you_mean(name, _BUILTINS)}")
    return replace(
        _BUILTINS[name](),
        name=task.name,
        doc_template=task.doc_template,
        min_grade=task.min_grade,
        drop_self=task.drop_self,
    )


def _folder(task: TaskSpec) -> Collection:
    return read_beir(
        _locate(task),
        name=task.name,
        doc_template=task.doc_template,
        min_grade=task.min_grade,
        drop_self=task.drop_self,
        queries_file=task.queries_file,
        qrels_folder=task.qrels_folder,
    )


def _locate(task: TaskSpec) -> Path:
    places = places_of(task.source)
    for place in places:
        if place.is_dir():
            return place
    looked = ", ".join(map(str, places))
    raise ConfigError(f"task {task.name}: no folder {task.source!r} (looked at {looked}); {_how_to_get(task.source)}")


def _how_to_get(source: str) -> str:
    if source.removeprefix("beir/") in PUBLIC_BEIR:
        return f"run `searchtune data fetch {source}`, or set SEARCHTUNE_DATA to the folder that holds it"
    return (
        "make a BEIR folder of it (corpus.jsonl, queries.jsonl, qrels/SPLIT.tsv), put it under ./datasets/ "
        "or set SEARCHTUNE_DATA to the folder that holds it"
    )
