"""What takes long to make and can be made again at any time, kept on disk between processes.

    CACHE/derived/KIND/KEY      sha256 of the value as 64 hex digits, a line break, the value

KEY is a hash over all that decides the value, the versions of the programs that make it included. A value that is cut
short or changed does not fit its hash and is made again, and where nothing can be written nothing is kept.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from searchtune.errors import StorageError
from searchtune.storage.atomic import write_bytes
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.places import cache_root


def recall(kind: str, key: Mapping[str, str | int | float | None]) -> bytes | None:
    """The value that `remember` kept under this key; None where there is none, or it is damaged."""
    try:
        seal, _, value = _place(kind, key).read_bytes().partition(b"\n")
    except OSError:
        return None
    return value if seal == _seal(value) else None


def remember(kind: str, key: Mapping[str, str | int | float | None], value: bytes) -> None:
    """Keep a value under its key, as far as the disk allows."""
    with suppress(StorageError, OSError):
        write_bytes(_place(kind, key), _seal(value) + b"\n" + value)


def derived(kind: str, key: Mapping[str, str | int | float | None], make: Callable[[], bytes]) -> bytes:
    """The value kept under this key, or what `make` gives, which is then kept."""
    found = recall(kind, key)
    if found is None:
        found = make()
        remember(kind, key, found)
    return found


def _place(kind: str, key: Mapping[str, str | int | float | None]) -> Path:
    return cache_root() / "derived" / kind / sha256_json(dict(key))


def _seal(value: bytes) -> bytes:
    return hashlib.sha256(value).hexdigest().encode()
