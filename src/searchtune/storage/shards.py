"""A job in several parts: which results a part makes, and joining the journals of the parts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

from searchtune.errors import ConfigError, DataError, OutputExistsError
from searchtune.storage.atomic import atomic_write
from searchtune.storage.journal import FORMAT, JournalView, check_same_job, journal_file, journal_line


def shard(keys: Sequence[str], index: int, count: int) -> list[int]:
    """The positions of the keys that part `index`, from 0 to `count` - 1, works on; each key is in one part.

    A key's part is its sha256 modulo `count`: it depends neither on the other keys nor on their order.

    Raises:
        ConfigError: there is no such part.
    """
    if count < 1 or not 0 <= index < count:
        raise ConfigError(f"shard {index} of {count}: shards are counted from 0 to the number of shards - 1")
    return [i for i, key in enumerate(keys) if _number(key) % count == index]


def _number(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()[:8], "big")


def merge_journals(places: Sequence[Path], out: Path) -> int:
    """Join journals of one job, such as those of its shards, into a new one; returns how many results it holds.

    The result is written whole or not at all. A result that several of them hold is written once.

    Raises:
        ConfigError: two headers differ, or there is nothing to join.
        DataError: a journal is damaged, or two give one key different values.
        OutputExistsError: `out` is there.
    """
    if not places:
        raise ConfigError("no journal to join: name at least one")
    target = journal_file(out)
    if target.exists():
        raise OutputExistsError(f"{target} is already there: remove it or choose another path")
    views = [JournalView(place) for place in places]
    for view in views[1:]:
        check_same_job(view.path, view.header, views[0].header, other=str(views[0].path))
    owner: dict[str, JournalView] = {}
    with atomic_write(target) as file:
        file.write(journal_line({"format": FORMAT, "header": views[0].header}))
        for view in views:
            for key, value in view.items():
                first = owner.setdefault(key, view)
                if first is view:
                    file.write(journal_line({"key": key, "value": value}))
                elif first.get(key) != value:
                    raise DataError(
                        f"{view.path}: key {key!r} has another value than in {first.path}; these are not shards of one "
                        "run: leave one of them out"
                    )
    return len(owner)
