"""Running a pipeline over turns from a file, from standard input or given one by one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple, get_args

from searchtune.data.rows import RowReader
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.reading import STDIN, parse_json, shown, user_path
from searchtune.types import Turn
from searchtune.workflows.open_pipeline import OpenPipeline
from searchtune.workflows.progress import SILENT, Progress

_ROLES = ("user", "assistant", "title")
_BATCH = 16


class Asked(NamedTuple):
    """A turn that somebody named."""

    id: str
    turn: Turn


def read_turns(source: Path | str) -> list[Asked]:
    """Turns from a file, `-` for standard input: a query a line, or JSON lines.

    A line that begins with `{` is JSON: `query`, and if wanted `id` and `history`, a list of
    `{"role": "user" | "assistant" | "title", "text": ...}`, the oldest first. Other turns are called by their line.

    Raises:
        DataError: the file cannot be read or has no query, or a line is not what it should be.
    """
    source = Path(source)
    reader = RowReader(source if str(source) == STDIN else user_path(source, DataError))
    found = [_line(f"{reader.path}:{reader.number}", str(reader.number), line.strip()) for line in reader.lines()]
    reader.finish("fail")
    if not found:
        raise DataError(f"{reader.path}: no query in it; write one a line, or JSON lines with `query`")
    return found


def _line(place: str, name: str, line: str) -> Asked:
    if not line.startswith("{"):
        return Asked(name, Turn(line))
    row = parse_json(line, place)
    try:
        return Asked(str(row.get("id", name)), read_turn(row, extra=("id",)))
    except DataError as error:
        raise DataError(f"{place}: {error}") from error


def read_turn(row: Mapping[str, Any], *, extra: Sequence[str] = ()) -> Turn:
    """The turn of a JSON object with `query` and, if wanted, `history`.

    Raises:
        DataError: a key beside these and `extra`, no query, or a history that is none.
    """
    allowed = ("query", "history", *extra)
    for key in row:
        if key not in allowed:
            raise DataError(f"unknown key {shown(key)!r}{did_you_mean(key, allowed)}")
    query = row.get("query")
    if not isinstance(query, str) or not query.strip():
        raise DataError(f"query is {shown(repr(query))}; give a text that is not empty")
    history = row.get("history") or []
    if not isinstance(history, list):
        raise DataError(f"history is {shown(repr(history))}; give a list of objects with `role` and `text`")
    return Turn(query, tuple(_said(one) for one in history))


def _said(one: Any) -> Any:
    role, text = (one.get("role"), one.get("text")) if isinstance(one, dict) else (None, None)
    if role not in _ROLES or not isinstance(text, str):
        raise DataError(f"history has {shown(repr(one))}; give `role` ({', '.join(_ROLES)}) and `text`")
    return role, text


def run_pipeline(
    opened: OpenPipeline,
    asked: Sequence[Asked],
    *,
    stages: Mapping[str, bool] | None = None,
    top: int | None = None,
    progress: Progress = SILENT,
) -> Iterator[dict[str, Any]]:
    """What the pipeline makes of each turn as plain values, in order and as soon as its batch is done.

    Raises:
        ConfigError: a stage that is not there.
    """
    opened.chain.settings(stages)
    progress.stage("queries")
    waiting, done = iter(asked), 0
    while some := list(islice(waiting, _BATCH)):
        outcomes = opened.chain.ask([one.turn for one in some], stages=stages, top=top or opened.spec.top)
        done += len(some)
        progress.step(done, len(asked), "")
        for one, outcome in zip(some, outcomes, strict=True):
            yield {"id": one.id, **outcome.to_json()}


def switched(off: Sequence[str], on: Sequence[str]) -> dict[str, bool]:
    """Stages as a request sets them.

    Raises:
        ConfigError: a stage that is no stage, or one that is to be both.
    """
    from searchtune.specs.pipeline import StageName

    for name in (*off, *on):
        if name not in get_args(StageName):
            raise ConfigError(f"no stage {name!r}{did_you_mean(name, get_args(StageName))}")
    both = sorted(set(off) & set(on))
    if both:
        raise ConfigError(f"{both[0]} is to be on and off: say one of them")
    return {**dict.fromkeys(off, False), **dict.fromkeys(on, True)}


def spent(opened: OpenPipeline) -> dict[str, dict[str, float]]:
    """What each stage has taken so far: queries, seconds, milliseconds a query, tokens."""
    return {
        name: {
            "queries": cost.queries,
            "seconds": round(cost.seconds, 3),
            "ms_per_query": round(cost.milliseconds_per_query, 2),
            "tokens": cost.tokens,
        }
        for name, cost in opened.chain.costs.items()
    }
