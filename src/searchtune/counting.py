"""How far a long loop is, for whoever watches this process; loops need not know whether somebody does."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

Watcher = Callable[[int, int], None]
"""Is told how many items are done, and of how many."""
Group = TypeVar("Group")

_watcher: ContextVar[Watcher | None] = ContextVar("watcher", default=None)


@contextmanager
def watched_by(watcher: Watcher) -> Iterator[None]:
    """Within this block, loops of this thread tell `watcher` how far they are."""
    token = _watcher.set(watcher)
    try:
        yield
    finally:
        _watcher.reset(token)


def counted(groups: Iterable[Group], total: int, size: Callable[[Any], int] = len) -> Iterator[Group]:
    """The same groups of items, `total` items in all; once the work on one is done, its items are counted."""
    watcher, done = _watcher.get(), 0
    for group in groups:
        yield group
        done += size(group)
        if watcher is not None:
            watcher(done, total)
