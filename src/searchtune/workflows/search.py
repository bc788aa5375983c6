"""Using a trained adapter: encode texts, search a collection."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np

from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import DataError
from searchtune.reading import user_path
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import DenseIndex
from searchtune.storage.atomic import atomic_write
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
    out, source = user_path(out), user_path(texts)
    encoder = open_adapter(folder, base=base, dimensions=dimensions)
    side = encoder.queries if queries else encoder.documents
    lines = read_texts(source, None if queries else encoder.doc_template or OLD_TEMPLATE)
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
    """Texts of a JSONL file (`text` and `title`, put together by the template; without one `text` alone) or of a plain
    file, one a line; `-` is stdin.

    Raises:
        DataError: the file cannot be read, is not UTF-8, or a JSON line has no `text`.
    """
    try:
        content = sys.stdin.read() if str(file) == "-" else file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    lines = [(number, line) for number, line in enumerate(content.split("\n"), start=1) if line.strip()]
    if not lines:
        raise DataError(f"{file}: no text in it")
    if file.suffix != ".jsonl":
        return [line for _, line in lines]
    return [_text_of(file, number, line, template) for number, line in lines]


def _reading(file: Path, template: str | None) -> str:
    """What to know of how documents in a file are read; empty where that is plain."""
    if file.suffix == ".jsonl":
        unknown = f"the adapter's card does not say how documents were written; read as {OLD_TEMPLATE!r}"
        return unknown if template is None else f"documents are read as {template!r}, as in training"
    if template == "{text}":
        return ""
    written = "" if template is None else f" The adapter was trained on {template!r}:"
    return (
        f"each line of {file} is read as a whole document.{written} give JSONL with `title` and `text` where documents "
        "have titles"
    )


def _text_of(file: Path, number: int, line: str, template: str | None) -> str:
    try:
        row = json.loads(line)
        title, text = row.get("title") or "", row["text"]
        if not isinstance(title, str) or not isinstance(text, str):
            raise TypeError("title and text are strings")
        return text if template is None else document_text(template, title, text)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file}:{number}: expected an object with a `text`, found {line[:60]!r}") from error
