"""`COMPLETE.json`: the last file written into a folder, with the size and sha256 of every other one.

A folder without it was interrupted; a folder that disagrees with it was changed or damaged afterwards.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from searchtune.errors import ArtifactError
from searchtune.reading import read_json_object
from searchtune.storage.fingerprint import sha256_file

MARKER_FILE = "COMPLETE.json"
_REMEDY = "copy the folder again from where it came, or make it anew"


def mark_complete(folder: Path) -> None:
    """List every file of `folder` in its `COMPLETE.json`, on disk before this returns.

    An older marker goes first, so that a kill in between leaves the folder incomplete rather than wrongly complete.
    """
    marker = folder / MARKER_FILE
    marker.unlink(missing_ok=True)
    files = {
        name: {"bytes": (folder / name).stat().st_size, "sha256": sha256_file(folder / name)} for name in _names(folder)
    }
    text = json.dumps({"made_by": "searchtune", "format": 1, "files": files}, indent=2, ensure_ascii=False)
    with marker.open("w", encoding="utf-8") as file:
        file.write(text + "\n")
        file.flush()
        os.fsync(file.fileno())


def check_complete(folder: Path, *, hashes: bool = True) -> None:
    """Raise `ArtifactError` unless every file that the marker lists is there as it was written.

    `hashes=False` compares sizes only, which takes no reading. Files that the marker does not list are not looked at.
    """
    for name, expected in _listed(folder).items():
        path = folder / name
        if not path.is_file():
            raise ArtifactError(f"{path}: missing, though {MARKER_FILE} lists it; {_REMEDY}")
        size = path.stat().st_size
        if size != expected["bytes"]:
            raise ArtifactError(f"{path}: {size} bytes where {MARKER_FILE} says {expected['bytes']}; {_REMEDY}")
        if hashes and sha256_file(path) != expected["sha256"]:
            raise ArtifactError(f"{path}: its sha256 is not the one in {MARKER_FILE}: damaged or edited; {_REMEDY}")


def is_complete(folder: Path) -> bool:
    """Whether the marker is there and all files have the sizes it lists."""
    try:
        check_complete(folder, hashes=False)
    except ArtifactError:
        return False
    return True


def _names(folder: Path) -> Iterator[str]:
    """Every file below `folder` as a relative posix path, sorted; the marker itself and temporary files left out."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        temporary = any(part.startswith(".") and ".tmp-" in part for part in PurePosixPath(name).parts)
        if path.is_file() and name != MARKER_FILE and not temporary:
            yield name


def _listed(folder: Path) -> dict[str, dict[str, Any]]:
    """The marker's files. Its names are data: one that points out of the folder makes the marker unreadable."""
    marker = folder / MARKER_FILE
    if not marker.exists():
        raise ArtifactError(f"{folder}: no {MARKER_FILE}: the folder is missing or was never finished; {_REMEDY}")
    try:
        files: dict[str, dict[str, Any]] = read_json_object(marker, ArtifactError)["files"]
        readable = all(_inside(name) and {"bytes", "sha256"} <= entry.keys() for name, entry in files.items())
    except (KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(f"{marker}: cannot be read as a marker ({error}); {_REMEDY}") from error
    if not files:
        raise ArtifactError(f"{marker}: lists no file, so nothing says that the folder is whole; {_REMEDY}")
    if not readable:
        raise ArtifactError(f"{marker}: lists names or entries that searchtune does not write; {_REMEDY}")
    return files


def _inside(name: str) -> bool:
    path = PurePosixPath(name)
    return not path.is_absolute() and ".." not in path.parts
