"""Rewriting many turns: each once, however often the job is killed or the same turn comes again."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from searchtune.clean_text import clean
from searchtune.data.rewrites import task_turns, turn_key
from searchtune.data.splits import hash_share
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError, did_you_mean
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.storage.atomic import write_text
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import Journal
from searchtune.storage.places import one_at_a_time
from searchtune.types import Turn
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.refused import RefusedRows, listed_reasons

if TYPE_CHECKING:
    from searchtune.pipeline.rewriting import Rewritten

_AT_A_TIME = 64
"""Turns between two looks at progress."""


class Rewriter(Protocol):
    """What a job needs of a rewriter."""

    @property
    def identity(self) -> dict[str, str]:
        """All that a turn's rewrite depends on, beside the turn."""

    def stream(self, turns: Sequence[Turn]) -> Iterator[Rewritten]:
        """Rewrites as soon as they are there."""


@dataclass(frozen=True)
class Rewrites:
    """The queries of a list of turns, and what writing them took, whenever that was."""

    queries: list[str]
    """The utterance where no reply came, or none that is a rewrite."""
    seconds: float
    """Of the distinct turns together, as are the tokens."""
    tokens: int
    distinct: int
    fresh: int
    """Distinct turns that were rewritten now, not before."""
    unanswered: int
    """Distinct turns for which no reply came; they are asked again the next time."""
    unusable: int = 0
    """Distinct turns whose reply is no rewrite (cut off, filtered, empty), or that were turned down."""

    @property
    def milliseconds_per_turn(self) -> float:
        return 1000 * self.seconds / max(1, self.distinct)

    @property
    def tokens_per_turn(self) -> float:
        """Read and written."""
        return self.tokens / max(1, self.distinct)


def rewrite_all(
    rewriter: Rewriter, turns: Sequence[Turn], place: Path | None = None, *, progress: Progress = SILENT
) -> Rewrites:
    """Rewrite every turn once. With a `place`, its journal keeps what is written, and gives what it holds.

    Raises:
        ConfigError: the journal belongs to another rewriter.
        ModelError: no turn was ever answered.
        StorageError: it cannot be written.
        SearchtuneError: whatever stopped a remote model, such as a budget; what it wrote before is kept.
    """
    wanted = {turn_key(turn): turn for turn in turns}
    with _kept(place, rewriter) as journal:
        known = {} if journal is None else {key: journal.get(key) for key in wanted if key in journal}
        found: dict[str, dict[str, Any]] = {key: value for key, value in known.items() if value is not None}
        waiting = [key for key in wanted if key not in found]
        rows = RefusedRows(journal, rewriter.identity.get("model", "the rewriter"))
        if waiting:
            progress.stage("rewriting" + (f" ({len(known):,} of {len(wanted):,} turns are there)" if known else ""))
        for start in range(0, len(waiting), _AT_A_TIME):
            window = waiting[start : start + _AT_A_TIME]
            for one in rewriter.stream([wanted[key] for key in window]):
                _keep(window[one.turn], one, found, rows, journal)
            progress.step(min(start + _AT_A_TIME, len(waiting)), len(waiting), f"{len(known):,} were there")
        rows.settle()
    unusable = [str(value["reason"]) for value in found.values() if value.get("reason")]
    if unusable:
        progress.note(
            f"{len(unusable):,} of {len(wanted):,} turns have no rewrite and stay as they are: "
            f"{listed_reasons(unusable)}"
        )
    if rows.unanswered:
        progress.note(
            f"{len(rows.unanswered):,} turns had no reply (the last: {rows.unanswered[-1]}) and stay as they are; run "
            "it again"
        )
    return Rewrites(
        queries=[_query(found.get(turn_key(turn)), turn) for turn in turns],
        seconds=sum(float(value["seconds"]) for value in found.values()),
        tokens=sum(int(value["tokens"]) for value in found.values()),
        distinct=len(wanted),
        fresh=len(found) - len(known) - len(rows.reasons),
        unanswered=len(wanted) - len(found),
        unusable=len(unusable),
    )


def _keep(
    key: str, one: Rewritten, found: dict[str, dict[str, Any]], rows: RefusedRows, journal: Journal | None
) -> None:
    """Keep what became of a turn, unless asking again may help."""
    if one.reason is not None and not (one.settled or one.refused):
        rows.unanswered.append(one.reason)
        return
    value: dict[str, Any] = {"query": one.query, "tokens": one.tokens, "seconds": round(one.seconds, 5)}
    found[key] = value if one.reason is None else {**value, "reason": one.reason}
    if one.refused:
        rows.add(key, found[key], str(one.reason))
        return
    rows.answered()
    if journal is not None:
        journal.append(key, found[key])


def kept_rewrites(cache: EmbeddingCache | None, rewriter: Rewriter) -> Path | None:
    """Where a rewriter's rewrites are kept beside an embedding cache; None without one."""
    return (
        None if cache is None else cache.folder.with_name("rewrites") / f"{sha256_json(rewriter.identity)[:32]}.jsonl"
    )


def turns_of_task(
    task: str, split: str | None, *, history: bool = True, max_queries: int | None = None
) -> tuple[list[str], list[Turn]]:
    """Ids and turns of a task's queries, all or those judged in a split; their history is that of their conversation.

    Raises:
        ConfigError: no such task or split.
        DataError: the collection is broken.
    """
    collection = open_collection(load_task(task))
    turns = task_turns(collection.query_ids, collection.query_texts, history=history)
    places = list(range(len(turns)))
    if split is not None:
        if split not in collection.qrels:
            hint = did_you_mean(split, collection.qrels)
            raise ConfigError(f"{collection.name} has no split {split!r}{hint}")
        places = collection.qrels[split].queries.tolist()
    if max_queries is not None:
        places = sorted(sorted(places, key=lambda i: hash_share(collection.query_ids[i]))[:max_queries])
    return [collection.query_ids[i] for i in places], [turns[i] for i in places]


def write_rewrites(path: Path, ids: Sequence[str], turns: Sequence[Turn], queries: Sequence[str]) -> None:
    """Write JSON lines of `query_id`, `utterance` and `rewrite`; a file called `queries*` gets BEIR's `_id`, `text`."""
    write_text(path, "".join(rewrite_lines(ids, turns, queries, beir=path.name.startswith("queries"))))


def rewrite_lines(
    ids: Sequence[str], turns: Sequence[Turn], queries: Sequence[str], *, beir: bool = False
) -> Iterator[str]:
    """One JSON object a line, line end included."""
    for name, turn, query in zip(ids, turns, queries, strict=True):
        row = {"_id": name, "text": query}
        if not beir:
            row = {"query_id": name, "utterance": turn.utterance, "rewrite": query}
        yield json.dumps(row, ensure_ascii=False) + "\n"


@contextmanager
def _kept(place: Path | None, rewriter: Rewriter) -> Iterator[Journal | None]:
    if place is None:
        yield None
        return
    with one_at_a_time(place), Journal(place, {"rewriter": rewriter.identity}) as journal:
        yield journal


def _query(value: dict[str, Any] | None, turn: Turn) -> str:
    return turn.utterance if value is None or value.get("reason") else clean(str(value["query"]))
