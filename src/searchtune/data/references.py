"""Answers by people, by query, from a file of JSON lines."""

from __future__ import annotations

from pathlib import Path

from searchtune.data.rows import BadRow, RowReader
from searchtune.errors import DataError
from searchtune.reading import shown, user_path


def read_references(file: Path | str) -> dict[str, list[str]]:
    """Query id -> answers by people, from JSON lines with `query_id` (or `id`) and `answers`.

    Raises:
        DataError: the file cannot be read, or a line is not what it should be.
    """
    reader, found = RowReader(user_path(file, DataError)), dict[str, list[str]]()
    for row in reader.objects():
        try:
            name = reader.identifier(row, "query_id" if "query_id" in row else "id")
            answers = reader.value(row, "answers")
            if not isinstance(answers, list) or not all(isinstance(text, str) for text in answers):
                message = f"answers is {shown(repr(answers))}, and no list of texts"
                reader.reject("wrong-type", answers, message, 'write {"query_id": "...", "answers": ["...", ...]}')
        except BadRow:
            continue
        found[name] = answers
    reader.finish("fail")
    if not found:
        raise DataError(f"{shown(file)}: no row in it; write a line a query with query_id and answers")
    return found
