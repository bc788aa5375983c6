"""The folder a command writes to, and what happens when it is already there."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Literal

from searchtune.errors import OutputExistsError, StorageError
from searchtune.reading import user_path
from searchtune.storage.atomic import sweep, temporary_beside, write_json
from searchtune.storage.marker import MARKER_FILE

OutputPolicy = Literal["fail", "overwrite", "resume"]

RUN_FILE = "searchtune-run.json"
"""Put into every output folder at once: proof that searchtune made the folder and may remove it."""


def prepare_output(path: Path, policy: OutputPolicy = "fail") -> Path:
    """Make the folder `path` ready to be written to and return it resolved, with `searchtune-run.json` inside.

    A new or empty folder always serves. With content in it, `fail` raises `OutputExistsError`, `resume` keeps it
    and `overwrite` removes it; both only touch a folder that searchtune made (it holds `searchtune-run.json` or
    `COMPLETE.json`) and `overwrite` never removes the working directory, the home folder or a parent of them.
    """
    folder = user_path(path).resolve()
    if folder.exists() and not folder.is_dir():
        raise OutputExistsError(f"{path} is a file, and the output needs a folder: choose another --out")
    if folder.is_dir() and any(folder.iterdir()):
        _settle(folder, path, policy)
    _make_writable(folder, path)
    return folder


def _settle(folder: Path, path: Path, policy: OutputPolicy) -> None:
    """Decide about a folder that has content: keep it, remove it, or raise."""
    if not _ours(folder):
        raise OutputExistsError(
            f"{path} has content that searchtune did not make (no {RUN_FILE} in it), so it stays: choose another --out"
        )
    if policy == "fail":
        state = "a finished run" if (folder / MARKER_FILE).is_file() else "an unfinished run"
        raise OutputExistsError(
            f"{path} already holds {state}: add --overwrite to replace it or --resume to go on, or choose another --out"
        )
    if policy == "overwrite":
        for used, what in ((Path.cwd(), "the working directory"), (Path.home(), "the home folder")):
            if used.resolve().is_relative_to(folder):
                raise OutputExistsError(f"{path} contains {what} and will not be removed: choose another --out")
        _remove_whole(folder, path)


def _ours(folder: Path) -> bool:
    return (folder / RUN_FILE).is_file() or (folder / MARKER_FILE).is_file()


def _remove_whole(folder: Path, path: Path) -> None:
    """Remove a folder in one step for whoever looks: it is renamed first, so that a kill leaves no half of it."""
    condemned = temporary_beside(folder)
    try:
        folder.rename(condemned)
    except OSError as error:
        raise StorageError(f"{path} cannot be replaced: {error.strerror}; choose another --out") from error
    shutil.rmtree(condemned, ignore_errors=True)


def _make_writable(folder: Path, path: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"{path} cannot be made: {error.strerror}; choose another --out") from error
    sweep(folder)
    if not os.access(folder, os.W_OK | os.X_OK):
        raise StorageError(f"{path} is not writable for this user: choose another --out or change its permissions")
    if not _ours(folder):
        write_json(folder / RUN_FILE, {"made_by": "searchtune", "format": 1})
