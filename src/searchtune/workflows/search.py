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
from searchtune.workflows.encode import encode_texts, open_adapter


class Hit(NamedTuple):
    """One document found. `score` is the inner product of unit vectors."""

    id: str
    score: float
    title: str
    snippet: str


def encode_file(
    folder: Path | str, texts: Path | str, out: Path | str, *, queries: bool = False, base: str | None = None
) -> tuple[int, int]:
    """Encode the texts of a file into `out` (npy, float32), and return how many and of what size.

    With a query-only adapter, documents are encoded by the base, as at training.
    """
    out = user_path(out)
    lines = read_texts(user_path(texts))
    encoder = open_adapter(folder, base=base)
    vectors = (encoder.queries if queries else encoder.documents).encode(lines)
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
    cache: EmbeddingCache | None = None,
) -> list[Hit]:
    """The `top` documents of a task's collection for one query, by exact search.

    With a `cache`, documents are encoded at the first search only.
    """
    if not query.strip():
        raise DataError("the query is empty; say what to look for")
    collection = open_collection(load_task(task))
    encoder = open_adapter(folder, base=base)
    index = DenseIndex(encode_texts(encoder.documents, collection.documents, cache)[0])
    vector = encoder.queries.encode([query])
    run = index.search(np.zeros(1, dtype=np.int64), vector, top)
    return [
        Hit(
            collection.doc_ids[doc], float(score), collection.titles[doc], " ".join(collection.texts[doc].split())[:100]
        )
        for doc, score in zip(run.docs[0].tolist(), run.scores[0], strict=True)
    ]


def read_texts(file: Path) -> list[str]:
    """Texts of a JSONL file (`text`, with `title` before it if there) or of a plain file, one a line; `-` is stdin.

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
    return [_text_of(file, number, line) for number, line in lines]


def _text_of(file: Path, number: int, line: str) -> str:
    try:
        row = json.loads(line)
        return " ".join(part for part in (row.get("title", ""), row["text"]) if part)
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise DataError(f"{file}:{number}: expected an object with a `text`, found {line[:60]!r}") from error
