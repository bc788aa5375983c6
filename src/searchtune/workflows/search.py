"""Using a trained adapter: encode texts, search a collection."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np

from searchtune.data.rows import BadRow, RowReader
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import DataError
from searchtune.reading import STDIN, user_path
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import DenseIndex
from searchtune.storage.atomic import atomic_write
from searchtune.storage.output import output_file
from searchtune.types import document_text
from searchtune.workflows.encode import encode_texts, open_adapter
from searchtune.workflows.progress import SILENT, Progress

OLD_TEMPLATE = "{title} {text}"
"""How documents are written where a card does not say: as tasks do by default."""


class Hit(NamedTuple):
    """One document found. `score` is the inner product of unit vectors."""

    id: str
    score: float
    title: str
    snippet: str


def encode_file(
    folder: Path | str,
    texts: Path | str,
    out: Path | str,
    *,
    queries: bool = False,
    base: str | None = None,
    dimensions: int | None = None,
    progress: Progress = SILENT,
) -> tuple[int, int]:
    """Encode the texts of a file into `out` (npy, float32), and return how many and of what size.

    Documents are written as at training, by the adapter's template; with a query-only adapter the base encodes them.
    `dimensions` keeps the first components, for an adapter that was trained for that size.

    Raises:
        ConfigError: a size that the adapter was not trained for.
        DataError: see `read_texts`.
    """
    out, source = output_file(out), Path(texts) if str(texts) == STDIN else user_path(texts, DataError)
    found = read_rows(source)
    encoder = open_adapter(folder, base=base, dimensions=dimensions)
    side = encoder.queries if queries else encoder.documents
    plain = queries or not _holds_json(source)
    lines = _written(found.rows, None if plain else encoder.doc_template or OLD_TEMPLATE)
    for warning in found.warnings:
        progress.note(warning)
    if not queries and (note := _reading(source, encoder.doc_template)):
        progress.note(note)
    vectors = side.encode(lines)
    side.tell_cuts("texts", progress)
    with atomic_write(out) as file:
        np.save(file, vectors)
    return vectors.shape[0], vectors.shape[1]


def search_collection(
    folder: Path | str,
    query: str,
    task: str,
    top: int = 10,
    *,
    base: str | None = None,
    dimensions: int | None = None,
    cache: EmbeddingCache | None = None,
    progress: Progress = SILENT,
) -> list[Hit]:
    """The `top` documents of a task's collection for one query, by exact search.

    Documents are written as at training. With a `cache`, they are encoded at the first search only. `dimensions` is as
    in `encode_file`.
    """
    if not query.strip():
        raise DataError("the query is empty; say what to look for")
    collection = open_collection(load_task(task))
    encoder = open_adapter(folder, base=base, dimensions=dimensions)
    documents = encoder.reads(collection, progress).documents
    index = DenseIndex(encode_texts(encoder.documents, documents, cache)[0])
    vector = encoder.queries.encode([query])
    encoder.documents.tell_cuts("documents encoded now", progress)
    encoder.queries.tell_cuts("queries", progress)
    run = index.search(np.zeros(1, dtype=np.int64), vector, top)
    return [
        Hit(
            collection.doc_ids[doc], float(score), collection.titles[doc], " ".join(collection.texts[doc].split())[:100]
        )
        for doc, score in zip(run.docs[0].tolist(), run.scores[0], strict=True)
    ]


def read_texts(file: Path, template: str | None = OLD_TEMPLATE) -> list[str]:
    """Texts of a file as `read_rows` finds them, title and text put together by the template; without one text alone.

    Raises:
        DataError: as `read_rows`.
    """
    return _written(read_rows(file).rows, template if _holds_json(file) else None)


class Rows(NamedTuple):
    """What a file of texts holds."""

    rows: list[tuple[str, str]]
    """Title, empty in plain text, and text."""
    warnings: tuple[str, ...]


def read_rows(file: Path) -> Rows:
    """Texts of a file: objects with `text` and perhaps `title` in JSON lines, or in the list of a `.json` file; of any
    other file each line. `-` is plain text on standard input; a packed file is unpacked.

    Raises:
        DataError: the file cannot be read, holds no text, or has a line that is not what it should be; the message
            names file, line and remedy.
    """
    reader = RowReader(file)
    rows = [] if _holds_json(file) else [("", line) for line in reader.told_lines()]
    for row in reader.objects() if _holds_json(file) else ():
        try:
            rows.append((reader.text(row, "title") if row.get("title") is not None else "", reader.text(row, "text")))
        except BadRow:
            continue
    found = reader.finish("fail")
    if not rows:
        raise DataError(f"{reader.path}: no text in it; write one a line, or JSON lines with `text`")
    return Rows(rows, tuple(map(str, found.warnings)))


def _holds_json(file: Path) -> bool:
    return file.name.removesuffix(".gz").endswith((".jsonl", ".json", ".ndjson"))


def _written(rows: list[tuple[str, str]], template: str | None) -> list[str]:
    return [text if template is None else document_text(template, title, text) for title, text in rows]


def _reading(file: Path, template: str | None) -> str:
    """What to know of how documents in a file are read; empty where that is plain."""
    if _holds_json(file):
        unknown = f"the adapter's card does not say how documents were written; read as {OLD_TEMPLATE!r}"
        return unknown if template is None else f"documents are read as {template!r}, as in training"
    if template == "{text}":
        return ""
    written = "" if template is None else f" The adapter was trained on {template!r}:"
    return (
        f"each line of {file} is read as a whole document.{written} give JSONL with `title` and `text` where documents "
        "have titles"
    )
