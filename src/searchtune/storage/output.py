"""The folder a command writes to, and what happens when it is already there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from searchtune.errors import OutputExistsError, StorageError
from searchtune.reading import read_json_object, user_path
from searchtune.storage.atomic import remove_folder, sweep, write_json
from searchtune.storage.lock import INNER_LOCK, sole_writer
from searchtune.storage.marker import MARKER_FILE

OutputPolicy = Literal["fail", "overwrite", "resume"]

RUN_FILE = "searchtune-run.json"
"""Put into every output folder at once: proof that searchtune made the folder and may remove it. Its `finished` says
whether the command that wrote there came to its end."""


@contextmanager
def output_folder(path: Path, policy: OutputPolicy = "fail") -> Iterator[Path]:
    """The folder, prepared, for this process alone; marked as finished once the block ends well.

    Raises:
        OutputBusyError: another process is writing there.
        OutputExistsError, StorageError: as `prepare_output`.
    """
    with sole_writer(path):
        folder = prepare_output(path, policy)
        yield folder
        mark_finished(folder)


def prepare_output(path: Path, policy: OutputPolicy = "fail") -> Path:
    """Make the folder `path` ready to be written to and return it resolved, with `searchtune-run.json` inside.

    A new or empty folder always serves. With content in it, `fail` raises `OutputExistsError`, `resume` keeps it
    and `overwrite` removes it; both only touch a folder that searchtune made (it holds `searchtune-run.json` or
    `COMPLETE.json`) and `overwrite` never removes the working directory, the home folder or a parent of them.
    """
    folder = check_output(path, policy)
    if policy == "overwrite" and _content(folder):
        _remove_whole(folder, path)
    _make_writable(folder, path)
    return folder


def check_output(path: Path, policy: OutputPolicy = "fail") -> Path:
    """Raise what `prepare_output` would raise about what is there, and touch nothing; returns the path resolved."""
    folder = user_path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{path} is a file, and the output needs a folder: choose another --out")
    if not _content(folder):
        return folder
    if not _ours(folder):
        raise OutputExistsError(
            f"{path} has content that searchtune did not make (no {RUN_FILE} in it), so it stays: choose another --out"
        )
    if policy == "fail":
        ways = "add --overwrite to replace it, or choose another --out"
        if not is_finished(folder):
            ways = "add --resume to go on with it or --overwrite to replace it, or choose another --out"
        state = "a finished run" if is_finished(folder) else "an unfinished run"
        raise OutputExistsError(f"{path} already holds {state}: {ways}")
    if policy == "overwrite":
        for used, what in ((Path.cwd(), "the working directory"), (Path.home(), "the home folder")):
            if used.resolve().is_relative_to(folder):
                raise OutputExistsError(f"{path} contains {what} and will not be removed: choose another --out")
    return folder


def output_file(path: Path | str) -> Path:
    """Where a command is to write a file; looked at before the work, so that none is done for a place that cannot be.

    Raises:
        OutputExistsError: it is a folder.
    """
    file = user_path(path)
    if not file.name or file.is_dir():
        raise OutputExistsError(f"{path} is a folder, and the output is a file: name one in it")
    return file


def is_finished(folder: Path) -> bool:
    """Whether the command that wrote into an output folder came to its end."""
    return (folder / MARKER_FILE).is_file() or bool(_record(folder).get("finished"))


def mark_finished(folder: Path) -> None:
    """Say in an output folder that the command came to its end."""
    write_json(folder / RUN_FILE, {**_new_record(), "finished": True})


def _content(folder: Path) -> bool:
    return folder.is_dir() and any(path.name != INNER_LOCK for path in folder.iterdir())


def _new_record() -> dict[str, Any]:
    return {"made_by": "searchtune", "format": 1}


def _record(folder: Path) -> dict[str, Any]:
    try:
        return read_json_object(folder / RUN_FILE, StorageError)
    except StorageError:
        return {}


def _ours(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or (folder / MARKER_FILE).is_file()


def _remove_whole(folder: Path, path: Path) -> None:
    try:
        remove_folder(folder)
    except OSError as error:
        raise StorageError(f"{path} cannot be replaced: {error.strerror}; choose another --out") from error


def _make_writable(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error.strerror}; choose another --out") from error
    sweep(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path} is not writable for this user: choose another --out or change its permissions")
    if not _ours(folder) or _record(folder).get("finished"):
        write_json(folder / RUN_FILE, _new_record())
