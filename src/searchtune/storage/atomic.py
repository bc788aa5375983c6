"""Files and folders that are there whole or not at all.

Everything is first written beside its place under a temporary name, brought to disk (fsync) and then renamed. A power
cut, kill -9 or a full disk leaves what was there before. A killed process leaves its temporary file behind: readers
never look at those names, and the next write to the same place sweeps them away.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from searchtune.errors import OutputExistsError, StorageError
from searchtune.storage.fingerprint import sha256_text
from searchtune.storage.marker import MARKER_FILE, mark_complete

_HOST = sha256_text(socket.gethostname())[:8]
_FOREIGN_AGE = 7 * 24 * 3600.0
"""Seconds after which a leftover of another machine on a shared disk counts as abandoned."""
_REMEDIES = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder, then run the command again",
    errno.EDQUOT: "the disk quota is used up: free some space or choose another folder, then run the command again",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "no permission to write here: choose another folder or change its permissions",
    errno.EPERM: "no permission to write here: choose another folder or change its permissions",
    errno.ENOTDIR: "a part of this path is a file, not a folder: choose another path",
    errno.EEXIST: "a part of this path is a file, not a folder: choose another path",
    errno.EISDIR: "a folder of this name is in the way: remove it or choose another path",
}


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary file that takes the place of `path` once the block ends well; missing parent folders are made.

    On any exception the old file stays as it was. A write that the disk refuses is a `StorageError`.
    """
    temp = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        with temp.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temp.replace(path)
        sync_folder(path.parent)
    except BaseException as error:
        _remove(temp)
        explain_refusal(error, path)
        raise


def write_bytes(path: Path, data: bytes) -> None:
    """Replace `path` by `data`, atomically."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in UTF-8, line ends as they are, atomically."""
    write_bytes(path, text.encode("utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Replace `path` by `value` as readable JSON, keys in their order; NaN and infinities raise `ValueError`."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """Yield an empty folder that appears as `path`, marked complete, once the block ends well.

    A complete folder already at `path` stays until then and is replaced; any other content there is an
    `OutputExistsError`, raised before the block runs. On an exception nothing remains of the new folder.
    """
    temp = temporary_beside(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        sweep(path)
        if path.exists() and not _replaceable(path):
            raise OutputExistsError(
                f"{path} holds something that searchtune did not finish: remove it or choose another path"
            )
        temp.mkdir()
        yield temp
        mark_complete(temp)
        _share(temp)
        _sync_tree(temp)
        _swap(temp, path)
    except BaseException as error:
        _remove(temp)
        explain_refusal(error, path)
        raise


def remove_folder(path: Path) -> None:
    """Remove a folder in one step for whoever looks: it is renamed first, so that a kill leaves no half of it.

    One that cannot be renamed stays as it is, and the `OSError` is raised.
    """
    if not path.exists():
        return
    condemned = temporary_beside(path)
    path.rename(condemned)
    _remove(condemned)


def temporary_beside(path: Path) -> Path:
    """A fresh temporary name in the folder of `path`, which tells the process and the machine that use it."""
    if not path.name:
        raise StorageError(f"{path}: a folder, where the name of what is to be written belongs; add one")
    return path.with_name(f".{path.name}.tmp-{os.getpid()}-{_HOST}-{secrets.token_hex(4)}")


def sweep(path: Path) -> None:
    """Remove what killed processes left beside `path`; files of living processes stay.

    A folder that was killed between the two renames of a replacement is first put back in its place.
    """
    for leftover in path.parent.glob(f".{_escaped(path.name)}.tmp-*"):
        if not _abandoned(leftover):
            continue
        if leftover.name.endswith("-old") and not path.exists():
            leftover.rename(path)
        else:
            _remove(leftover)


def sync_folder(folder: Path) -> None:
    """Bring the names inside `folder` to disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some network file systems know no such call and need none
            raise
    finally:
        os.close(handle)


def explain_refusal(error: BaseException, path: Path) -> None:
    """Raise a `StorageError` with the remedy where `error` says that the disk refused; return otherwise."""
    number = error.errno if isinstance(error, OSError) else None
    if os.strerror(errno.ENOSPC) in str(error):  # native writers such as safetensors have exceptions of their own
        number = errno.ENOSPC
    touches = str(getattr(error, "filename", None) or path.parent).startswith(str(path.parent))
    if number in _REMEDIES and touches:
        raise StorageError(f"{path}: {_REMEDIES[number]}; nothing there was changed") from error


def _replaceable(path: Path) -> bool:
    return path.is_dir() and ((path / MARKER_FILE).is_file() or not any(path.iterdir()))


def _swap(temp: Path, path: Path) -> None:
    """Move `temp` to `path`; what was at `path` goes only once the new folder stands there."""
    old = temp.with_name(f"{temp.name}-old")
    if path.exists():
        path.rename(old)
    try:
        temp.rename(path)
    except BaseException:
        if old.exists():
            old.rename(path)
        raise
    sync_folder(path.parent)
    _remove(old)


def _abandoned(leftover: Path) -> bool:
    """Whether the process that used this temporary name is gone, or is on another machine and long silent."""
    pid, _, rest = leftover.name.rpartition(".tmp-")[2].partition("-")
    try:
        if not rest.startswith(_HOST):
            return time.time() - leftover.stat().st_mtime > _FOREIGN_AGE
        os.kill(int(pid), 0)
    except (ProcessLookupError, OverflowError):
        return True
    except (OSError, ValueError):
        return False
    return False


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with suppress(OSError):
            path.unlink()


def _share(folder: Path) -> None:
    """Give every file of a marked folder the permissions that a new file gets here (the umask, as its marker shows).

    Some libraries write through private temporary files (mode 0600), which nobody else could then read.
    """
    usual = (folder / MARKER_FILE).stat().st_mode & 0o777
    for path in folder.rglob("*"):
        mode = path.stat().st_mode & 0o777
        if path.is_file() and not path.is_symlink() and mode | usual != mode:
            path.chmod(mode | usual)


def _sync_tree(folder: Path) -> None:
    for parent, _, names in os.walk(folder, topdown=False):
        for name in names:
            with Path(parent, name).open("rb") as file:
                os.fsync(file.fileno())
        sync_folder(Path(parent))


def _escaped(name: str) -> str:
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
