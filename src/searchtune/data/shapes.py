"""What to say of a file or folder that is no BEIR folder: what it seems to be, and how to make one of it."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

from searchtune.errors import ConfigError
from searchtune.reading import opened, shown

EXPECTED = (
    'a folder with corpus.jsonl ({"_id", "title", "text"} a line), queries.jsonl ({"_id", "text"}) and qrels/SPLIT.tsv '
    "(query-id, corpus-id, score with tabs between, or TREC's four columns); each may be packed with gzip"
)
_TABLES = {".csv": "CSV", ".tsv": "TSV", ".jsonl": "JSONL", ".ndjson": "JSONL", ".json": "JSON"}
_FRAMES = {".parquet": "parquet", ".arrow": "Arrow", ".feather": "Arrow", ".xlsx": "Excel", ".xls": "Excel"}
_OTHERS = {".txt": "text", ".zip": "ZIP", ".tar": "tar", ".gz": "gzip", ".trec": "TREC", ".qrels": "TREC qrels"}
_QUERIES = ("query", "question", "anchor", "sentence1", "utterance", "q")
_ANSWERS = ("positive", "pos", "answer", "passage", "document", "doc", "text", "sentence2", "response", "context")
_FIRST = 1 << 16


def refuse_file(path: Path) -> None:
    """Raise `ConfigError` for a file that is a table of something and no task's YAML, with a way to a BEIR folder."""
    kind = next((kinds[end] for kinds in (_TABLES, _FRAMES, _OTHERS) for end in _ends(path) if end in kinds), None)
    if kind is None:
        return
    columns = _columns(path) if kind in _TABLES.values() else []
    fields = f" (fields {', '.join(map(shown, columns[:8]))})" if columns else ""
    raise ConfigError(
        f"{shown(path)}: a {kind} file{fields}, where a task is wanted: a task's YAML or {EXPECTED}.\n"
        f"To make one of queries and their answers, in Python:\n{_recipe(path, kind, columns)}"
    )


def refuse_folder(folder: Path, queries_file: str, qrels_folder: str) -> None:
    """Raise `ConfigError` for a folder without any of a collection's files; it names what is there instead."""
    wanted = [folder / "corpus.jsonl", folder / "corpus.jsonl.gz", folder / queries_file, folder / qrels_folder]
    if any(path.exists() for path in wanted):
        return
    there = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    names = ", ".join(map(shown, there[:6])) + (", ..." if len(there) > 6 else "")
    inner = next((path for path in sorted(folder.iterdir()) if (path / "corpus.jsonl").is_file()), None)
    if inner is not None:
        raise ConfigError(f"{shown(folder)}: no collection itself, but {shown(inner)} is one: name that")
    tables = [folder / name for name in there if {*_ends(folder / name)} & {*_TABLES, *_FRAMES}]
    way = f"\nTo make one of queries and their answers, in Python:\n{_recipe_of(tables[0])}" if tables else ""
    raise ConfigError(f"{shown(folder)}: no collection (it holds {names or 'nothing'}), which is {EXPECTED}.{way}")


def _recipe_of(path: Path) -> str:
    kind = next(kinds[end] for kinds in (_TABLES, _FRAMES) for end in _ends(path) if end in kinds)
    return _recipe(path, kind, _columns(path) if kind in _TABLES.values() else [])


def _recipe(path: Path, kind: str, columns: Sequence[str]) -> str:
    """A few lines of Python that write a BEIR folder beside the file, with the file's own columns where they fit."""
    query = next((name for name in columns if name.lower() in _QUERIES), "query")
    answer = next((name for wanted in _ANSWERS for name in columns if name.lower() == wanted), "positive")
    name = repr(str(path))
    rows = {
        "CSV": f"csv.DictReader(open({name}, encoding='utf-8', newline=''))",
        "TSV": f"csv.DictReader(open({name}, encoding='utf-8', newline=''), delimiter='\\t')",
        "JSONL": f"map(json.loads, open({name}, encoding='utf-8'))",
        "JSON": f"json.load(open({name}, encoding='utf-8'))",
        "parquet": f"pandas.read_parquet({name}).to_dict('records')",
        "Arrow": f"pandas.read_feather({name}).to_dict('records')",
        "Excel": f"pandas.read_excel({name}).to_dict('records')",
    }.get(kind, f"...  # a list of dictionaries made of {name}")
    module = "csv" if kind in ("CSV", "TSV") else "json" if kind in ("JSONL", "JSON") else "pandas"
    folder = path.with_name(path.name.partition(".")[0] + "-beir")
    return "\n".join(
        (
            f"  import {module}, pathlib",
            "  from searchtune.data.beir import write_beir",
            "  from searchtune.data.collection import build_collection",
            f"  rows = list({rows})",
            f"  docs = {{row[{answer!r}]: f'd{{i}}' for i, row in enumerate(rows)}}",
            f"  queries = {{row[{query!r}]: f'q{{i}}' for i, row in enumerate(rows)}}",
            f"  labels = {{(queries[row[{query!r}]], docs[row[{answer!r}]], 1) for row in rows}}",
            "  split = lambda label: 'test' if int(label[0][1:]) % 5 == 0 else 'train'",
            "  parts = {part: [one for one in labels if split(one) == part] for part in ('train', 'test')}",
            f"  write_beir(build_collection('mine', {{i: ('', text) for text, i in docs.items()}}, "
            f"{{i: text for text, i in queries.items()}}, parts), pathlib.Path({str(folder)!r}))",
            f"then: searchtune data check {folder}",
        )
    )


def _columns(path: Path) -> list[str]:
    """The fields of a table's first row; none where they cannot be told."""
    with opened(path, ConfigError) as file:
        start = file.read(_FIRST).decode("utf-8-sig", errors="replace")
    line = start.partition("\n")[0].partition("\r")[0]
    end = next(end for end in _ends(path) if end in _TABLES)
    if end in (".csv", ".tsv"):
        try:
            return next(csv.reader([line], delimiter="\t" if end == ".tsv" else ","), [])
        except csv.Error:
            return []
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return []
    row = row[0] if isinstance(row, list) and row else row
    return list(row) if isinstance(row, dict) else []


def _ends(path: Path) -> list[str]:
    """The endings of a file's name, the last one first, in small letters."""
    return [end.lower() for end in reversed(path.suffixes)]
