"""Files that may be packed with gzip: read by what they hold, written by what they are called."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, cast

from searchtune import reading
from searchtune.errors import DataError
from searchtune.storage.atomic import atomic_write

_GZIP = b"\x1f\x8b"
_PACKING = 4
"""Level of gzip, below its default of 9: files are written in passing."""


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file's bytes, unpacked where it is gzip; what the system says against it becomes a `DataError`."""
    try:
        with reading.opened(path) as raw:
            packed = raw.peek(2)[:2] == _GZIP  # a pipe cannot be wound back
            if packed:
                with gzip.open(raw, "rb") as file:
                    yield cast("BinaryIO", file)
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise DataError(f"{path}: broken gzip file ({error}); fetch or write it again") from error


@contextmanager
def created(path: Path) -> Iterator[BinaryIO]:
    """A file to write, there whole or not at all; packed where its name ends in `.gz`, the same bytes every time."""
    with atomic_write(path) as file:
        if path.suffix != ".gz":
            yield file
            return
        with gzip.GzipFile(filename="", fileobj=file, mode="wb", compresslevel=_PACKING, mtime=0) as packed:
            yield cast("BinaryIO", packed)
