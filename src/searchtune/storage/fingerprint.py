"""SHA-256 (FIPS 180-4) of texts, JSON values, files and arrays, as 64 hex digits."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from itertools import islice
from pathlib import Path
from typing import Any, Self

import numpy as np
import numpy.typing as npt

from searchtune.reading import opened

_TOGETHER = 1024
"""Texts that go into a hash at once."""


def sha256_text(text: str) -> str:
    """Hash of the UTF-8 bytes of `text`."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def sha256_json(value: Any) -> str:
    """Hash of `value` as canonical JSON: sorted keys, no spaces, UTF-8. NaN and infinities are a `ValueError`."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    return sha256_text(text)


def sha256_file(path: Path) -> str:
    """Hash of a file's bytes, read in pieces."""
    with opened(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_array(array: npt.NDArray[Any]) -> str:
    """Hash of an array's element type, shape and elements in C order; memory layout and byte order do not matter."""
    return Fingerprint().add_array(array).hexdigest()


class Fingerprint:
    """A hash built field by field; each field carries its kind and length, so `("ab", "c")` is not `("a", "bc")`.

    >>> Fingerprint().add("ab", "c").hexdigest() == Fingerprint().add("a", "bc").hexdigest()
    False
    """

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, *fields: str | bytes | float | None) -> Self:
        """Take in one field after the other: texts, bytes, numbers, truth values, None."""
        for field in fields:
            if isinstance(field, bytes):
                self._put(b"b", field)
            elif isinstance(field, str):
                self._put(b"s", field.encode("utf-8"))
            else:
                self._put(b"j", json.dumps(field).encode())
        return self

    def add_texts(self, texts: Iterable[str]) -> Self:
        """Take in a list of texts of any length, closed by their number."""
        count, rest = 0, iter(texts)
        while some := [text.encode("utf-8") for text in islice(rest, _TOGETHER)]:
            parts = (part for value in some for part in (b"s", len(value).to_bytes(8, "little"), value))
            self._hash.update(b"".join(parts))
            count += len(some)
        self._put(b"n", str(count).encode())
        return self

    def add_array(self, array: npt.NDArray[Any]) -> Self:
        """Take in element type, shape and elements of an array of numbers or fixed-length strings."""
        if array.dtype.hasobject:
            raise TypeError(f"an array of {array.dtype} holds Python objects, which have no bytes to hash")
        plain = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        self._put(b"a", f"{plain.dtype.str}{array.shape}".encode())
        self._put(b"d", plain.reshape(-1).view(np.uint8).data)
        return self

    def hexdigest(self) -> str:
        """The hash so far; more fields may follow."""
        return self._hash.hexdigest()

    def _put(self, kind: bytes, value: bytes | memoryview) -> None:
        self._hash.update(kind + len(value).to_bytes(8, "little"))
        self._hash.update(value)
