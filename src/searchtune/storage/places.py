"""Where searchtune keeps what it can make again, and taking turns at making it."""

from __future__ import annotations

import fcntl
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from searchtune.errors import StorageError
from searchtune.reading import user_path


def cache_root() -> Path:
    """`$SEARCHTUNE_CACHE`, or `searchtune` in the user's cache folder (XDG Base Directory; ~/Library on macOS)."""
    home = os.environ.get("SEARCHTUNE_CACHE")
    if home:
        return user_path(home)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "searchtune"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "searchtune"


class Kept(NamedTuple):
    """One folder directly below the cache root."""

    folder: Path
    files: int
    bytes: int


def kept() -> list[Kept]:
    """What the cache root holds, by folder name."""
    root = cache_root()
    folders = sorted(path for path in root.iterdir() if path.is_dir()) if root.is_dir() else []
    return [_measured(folder) for folder in folders]


def _measured(folder: Path) -> Kept:
    sizes = []
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError):  # another process may be at work
            if path.is_file():
                sizes.append(path.stat().st_size)
    return Kept(folder, len(sizes), sum(sizes))


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Only one process at a time is within this block for the same `path`; the others wait.

    The lock is an empty file beside `path`; it ends with the process that holds it, whichever way that dies.

    Raises:
        StorageError: the folder of `path` cannot be written.
    """
    lock = path.with_name(f".{path.name}.lock")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    except OSError as error:
        raise StorageError(
            f"{lock}: cannot be written ({error.strerror}); change its permissions, or set SEARCHTUNE_CACHE to a "
            "folder that can"
        ) from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
