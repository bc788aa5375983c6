"""Utterances, what was said before them, and people's rewrites: read from files, and from the queries of a task.

Turns of a task: where every query id is CONVERSATION_TURN with a whole number behind the last underscore, such as
`cast21_106_3`, a query's history is the queries of the same conversation with smaller numbers, the smallest first.
Ids of any other kind, in even one query, mean single questions without history.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from searchtune.data.near import NEAR_THRESHOLD, near_pairs, normalise
from searchtune.data.problems import OnProblem, Problem
from searchtune.data.rows import BadRow, RowReader
from searchtune.data.splits import hash_share
from searchtune.errors import DataError
from searchtune.reading import STDIN
from searchtune.storage.fingerprint import Fingerprint, sha256_json
from searchtune.types import Turn

Said = tuple[Literal["user", "assistant", "title"], str]
_ROLES: Mapping[str, Literal["user", "assistant", "title"]] = {
    "user": "user",
    "assistant": "assistant",
    "system": "assistant",
    "title": "title",
}
_ID = re.compile(r"(.+)_(\d{1,6})")
_LONGEST = 200
"""Turns of a conversation; a group of more queries under one name is no conversation but a naming habit."""


@dataclass(frozen=True)
class RewriteExample:
    """One utterance and what a person made of it."""

    id: str
    """Of the turn: file, conversation and line."""
    conversation: str
    turn: Turn
    rewrite: str

    @property
    def changed(self) -> bool:
        """Whether the rewrite says other words than the utterance."""
        return normalise(self.turn.utterance) != normalise(self.rewrite)


@dataclass(frozen=True)
class RewriteSet:
    """Examples in the order of their file."""

    examples: tuple[RewriteExample, ...]
    warnings: tuple[Problem, ...] = ()

    def __len__(self) -> int:
        return len(self.examples)

    @property
    def fingerprint(self) -> str:
        """SHA-256 over ids, turns and rewrites."""
        total = Fingerprint()
        for one in self.examples:
            total.add(one.id, one.conversation, turn_key(one.turn), one.rewrite)
        return total.hexdigest()


def turn_key(turn: Turn) -> str:
    """SHA-256 of all that was said: the key of a turn in journals and caches."""
    return sha256_json([turn.utterance, [list(said) for said in turn.history]])


def read_rewrites(path: Path, *, on_problem: OnProblem = "fail") -> RewriteSet:
    """Read turns with people's rewrites from JSON lines, plain or gzip-compressed.

    A row holds `utterance`, `rewrite`, and, where there are some, `history` (a list of {role, text}, the oldest first)
    and `conversation`; a row without one is a conversation of its own. Roles are user, assistant (or system) and title.

    Raises:
        DataError: rows that cannot be used; the message names file, line, value and remedy. `skip` leaves such rows
            out, unless none remain.
    """
    reader, found = RowReader(path), []
    for row in reader.objects():
        try:
            found.append(_example(reader, row))
        except BadRow:
            continue
    result = reader.finish(on_problem)
    if not found:
        reader.number = 0
        reader.error("empty-file", "", "no usable turn in it", "check that whatever wrote it came to its end")
        reader.finish("fail")
    return RewriteSet(tuple(found), (*result.problems, *result.warnings))


def read_turns(source: Path | Iterable[bytes], *, on_problem: OnProblem = "fail") -> tuple[list[str], list[Turn]]:
    """Ids and turns to rewrite, from JSON lines with `query_id`, `utterance` and, where there is some, `history`.

    `source` is a file, plain or gzip-compressed, or the lines of a pipe.

    A row without `query_id` gets the number of its line.

    Raises:
        DataError: rows that cannot be used, or two with one id.
    """
    reader = RowReader(source) if isinstance(source, Path) else RowReader(Path(STDIN), source)
    found: dict[str, Turn] = {}
    lines: dict[str, int] = {}
    for row in reader.objects():
        try:
            name = reader.identifier(row, "query_id") if "query_id" in row else str(reader.number)
            if name in found:
                message = f"query id {name!r} is also on line {lines[name]}"
                reader.reject("repeated-id", name, message, "give each turn an id of its own")
            found[name], lines[name] = _turn(reader, row), reader.number
        except BadRow:
            continue
    reader.finish(on_problem)
    return list(found), list(found.values())


def task_turns(query_ids: Sequence[str], texts: Sequence[str], *, history: bool = True) -> list[Turn]:
    """The queries of a task as turns, in order; see the module's docstring for which ids are conversations.

    Texts are taken as they are, so those of the utterances as said give what was said. There are no replies.
    """
    parted = [_ID.fullmatch(name) for name in query_ids]
    matched = [match for match in parted if match is not None]
    if not history or not matched or len(matched) < len(parted):
        return [Turn(text) for text in texts]
    groups: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for place, match in enumerate(matched):
        groups[match[1]].append((int(match[2]), place))
    if max(map(len, groups.values())) > _LONGEST:
        return [Turn(text) for text in texts]
    turns = [Turn(text) for text in texts]
    for group in groups.values():
        earlier: list[Said] = []
        for _, place in sorted(group):
            turns[place] = Turn(texts[place], tuple(earlier))
            earlier.append(("user", texts[place]))
    return turns


def conversations_told(query_ids: Sequence[str], turns: Sequence[Turn]) -> str | None:
    """What ids made of queries, for people to see that it is not a habit of naming; None where they made nothing."""
    later = [name for name, turn in zip(query_ids, turns, strict=True) if turn.history]
    if not later:
        return None
    count = len({name.rpartition("_")[0] for name in later})
    return (
        f"{len(later):,} of {len(turns):,} queries are read as later turns of {count:,} "
        f"{'conversation' if count == 1 else 'conversations'}, because of ids such as {later[0]!r}"
    )


def chosen(examples: Sequence[RewriteExample], count: int | None) -> list[RewriteExample]:
    """At most so many examples, by the hash of their ids, in their own order: always the same ones."""
    if count is None or count >= len(examples):
        return list(examples)
    kept = {one.id for one in sorted(examples, key=lambda one: hash_share(one.id))[:count]}
    return [one for one in examples if one.id in kept]


def split_by_conversation(
    examples: Sequence[RewriteExample], share: float
) -> tuple[list[RewriteExample], list[RewriteExample]]:
    """Training and dev examples; conversations go to dev in the order of the hash of their names, up to `share` of all.

    Raises:
        DataError: there are fewer than two conversations.
    """
    sizes: dict[str, int] = defaultdict(int)
    for one in examples:
        sizes[one.conversation] += 1
    if len(sizes) < 2:
        raise DataError(
            f"{len(examples):,} turns of {len(sizes)} conversation: dev takes whole conversations, so give at least two"
        )
    dev: set[str] = set()
    taken, quota = 0, max(1, round(share * len(examples)))
    for name in sorted(sizes, key=hash_share)[:-1]:
        if dev and taken + sizes[name] > quota:
            continue
        dev.add(name)
        taken += sizes[name]
        if taken >= quota:
            break
    parts: tuple[list[RewriteExample], list[RewriteExample]] = ([], [])
    for one in examples:
        parts[one.conversation in dev].append(one)
    return parts


def leaking(examples: Sequence[RewriteExample], turns: Sequence[Turn], queries: Sequence[str]) -> list[int]:
    """Positions of the examples that a test may know: ascending, each once.

    An example leaks where its rewrite is, or nearly is, one of `queries` (people's rewrites of the test turns, or the
    utterances where there are none), or where utterance and history together are, or nearly are, a test turn's.
    """
    by_rewrite = near_pairs([one.rewrite for one in examples], queries, NEAR_THRESHOLD)
    by_turn = near_pairs([_whole(one.turn) for one in examples], [_whole(turn) for turn in turns], NEAR_THRESHOLD)
    return sorted({pair.left for pair in (*by_rewrite, *by_turn)})


def _whole(turn: Turn) -> str:
    return " ".join([*(text for _, text in turn.history), turn.utterance])


def _example(reader: RowReader, row: dict[str, Any]) -> RewriteExample:
    turn, rewrite = _turn(reader, row), reader.text(row, "rewrite").strip()
    if not rewrite:
        reader.reject("empty-rewrite", "", "'rewrite' is empty", "write the query, or remove the row")
    name = reader.identifier(row, "conversation") if row.get("conversation") is not None else f"line {reader.number}"
    conversation = f"{reader.path.name} {name}"
    return RewriteExample(f"{conversation} {reader.number}", conversation, turn, rewrite)


def _turn(reader: RowReader, row: dict[str, Any]) -> Turn:
    utterance = reader.text(row, "utterance").strip()
    if not utterance:
        reader.reject("empty-utterance", "", "'utterance' is empty", "write what was asked, or remove the row")
    history = row.get("history") or []
    if not isinstance(history, list):
        message = f"'history' is {str(history)[:60]!r}, which is no list"
        reader.reject("wrong-type", history, message, 'write [{"role": "user", "text": "..."}, ...]')
    return Turn(utterance, tuple(_said(reader, entry) for entry in history))


def _said(reader: RowReader, entry: Any) -> Said:
    if not isinstance(entry, dict):
        message = f"an entry of 'history' is {str(entry)[:60]!r}, which is no object"
        reader.reject("wrong-type", entry, message, 'write {"role": "user", "text": "..."}')
    role = reader.text(entry, "role")
    if role not in _ROLES:
        message = f"role {role!r} in 'history' is none of {', '.join(_ROLES)}"
        reader.reject("bad-role", role, message, "write who said it: user or assistant; title for what it is about")
    return _ROLES[role], reader.text(entry, "text")
