"""One writer at a time for an output, across processes and, where the file system shares locks, across machines.

The lock is a file beside the folder (`.NAME.lock`), because the folder itself may be removed, or renamed into its
place, by the very work that is guarded; where nothing can be written beside it (a mounted folder, say), it is inside.
The kernel holds the lock (flock), so it ends with its process, kill -9 included. The file says in plain JSON who holds
it; it is removed at the end, and one that a killed process left is taken over.

Where a file system has no locks, the file alone decides: a holder on this machine that is gone is known to be, one on
another machine cannot be seen and is believed.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

from searchtune.errors import OutputBusyError, StorageError
from searchtune.reading import user_path

INNER_LOCK = ".searchtune.lock"
"""Its name inside a folder."""
_NO_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS}
_ATTEMPTS = 100
"""To make the file where the system says that its folder is not there; `/proc` and links to nothing say so for ever."""
_HELD: dict[Path, int] = {}
"""Lock file -> the thread of this process that holds it."""


def lock_file(folder: Path) -> Path:
    """Where the lock of an output folder (or file) lies."""
    folder = user_path(folder).resolve()
    if not folder.name:  # the root has nothing beside it
        return folder / INNER_LOCK
    if folder.is_dir() and not os.access(folder.parent, os.W_OK | os.X_OK):
        return folder / INNER_LOCK
    return folder.with_name(f".{folder.name}.lock")


@contextmanager
def sole_writer(folder: Path) -> Iterator[bool]:
    """Within this block no other process that asks for the same `folder` is in it; within one thread blocks may nest.

    `folder` need not be there. The lock's file is made beside it, and its parent folders where they are missing. Yields
    whether an outer block of this thread holds it already.

    Raises:
        OutputBusyError: another process (or thread) is writing there; the message names host and process.
        StorageError: the lock cannot be written.
    """
    file = lock_file(folder)
    if _HELD.get(file) == threading.get_ident():
        yield True
        return
    made = not file.parent.is_dir()
    handle = _taken(file, folder)
    _HELD[file] = threading.get_ident()
    try:
        yield False
    finally:
        del _HELD[file]
        with suppress(OSError):  # first the name, then the lock: whoever waits for it sees that the name is gone
            file.unlink()
            if made:  # and nothing came into it: a refused run leaves no empty `runs`
                file.parent.rmdir()
        os.close(handle)


def _taken(file: Path, folder: Path) -> int:
    """An open handle with the lock on it and this process's name in it."""
    for attempt in count():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if isinstance(error, FileNotFoundError) and attempt < _ATTEMPTS:
                continue  # whoever had made the parent folder has just removed it
            raise StorageError(
                f"{file}: cannot be written ({error.strerror}), and it keeps two processes from writing {folder} at "
                "once; choose another --out or change the permissions of its parent folder"
            ) from error
        try:
            _lock(handle, folder)
            if _still_there(handle, file):
                _sign(handle)
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its holder ended and removed it between the two calls: the next one makes it anew
    raise AssertionError("unreachable")


def _lock(handle: int, folder: Path) -> None:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputBusyError(_refusal(folder, _holder(handle))) from error
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise StorageError(f"{folder}: cannot be locked ({error.strerror}); choose another --out") from error
        holder = _holder(handle)
        if holder and not (holder.get("host") == socket.gethostname() and _gone(holder.get("pid"))):
            advice = f"; if that process is gone, remove {lock_file(folder)}"
            raise OutputBusyError(_refusal(folder, holder) + advice) from error


def _refusal(folder: Path, holder: dict[str, Any]) -> str:
    who = "another process"
    if holder:
        who = f"process {holder.get('pid')} on host {holder.get('host')}, since {holder.get('since')}"
        who += f" ({holder.get('command')})"
    return f"{folder} is being written by {who}: wait until it ends, stop it, or choose another --out"


def _holder(handle: int) -> dict[str, Any]:
    """Who signed the lock; empty where nobody has yet."""
    try:
        found = json.loads(os.pread(handle, 4096, 0).decode("utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _sign(handle: int) -> None:
    who = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])[:400],
    }
    with suppress(OSError):  # a full disk: the lock itself stands
        os.ftruncate(handle, 0)
        os.pwrite(handle, (json.dumps(who) + "\n").encode(), 0)


def _gone(pid: object) -> bool:
    try:
        os.kill(int(str(pid)), 0)
    except (ProcessLookupError, ValueError, OverflowError):
        return True
    except OSError:
        return False
    return False


def _still_there(handle: int, file: Path) -> bool:
    """Whether the locked file still bears its name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
