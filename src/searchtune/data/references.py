"""Answers by people, by query, from a file of JSON lines."""

from __future__ import annotations

import json
from pathlib import Path

from searchtune.errors import DataError
from searchtune.reading import user_path


def read_references(file: Path | str) -> dict[str, list[str]]:
    """Query id -> answers by people, from JSON lines with `query_id` (or `id`) and `answers`.

    Raises:
        DataError: the file cannot be read, or a line is not what it should be.
    """
    file = user_path(file)
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file}: not UTF-8 at byte {error.start}; save the file as UTF-8") from error
    except OSError as error:
        raise DataError(f"{file}: cannot be read: {error.strerror}") from error
    rows = [_row(f"{file}:{number}", line) for number, line in enumerate(lines, start=1) if line.strip()]
    return dict(rows)


def _row(place: str, line: str) -> tuple[str, list[str]]:
    try:
        row = json.loads(line)
        name, answers = row["query_id"] if "query_id" in row else row["id"], row["answers"]
        if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
            raise TypeError
    except (ValueError, KeyError, TypeError) as error:
        wanted = 'expected {"query_id": "...", "answers": ["...", ...]}'
        raise DataError(f"{place}: {wanted}, found {line[:60]!r}") from error
    return str(name), answers
