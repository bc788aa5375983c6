"""The one way to files that people name: paths, bytes, text, JSON and arrays; errors name the file and the remedy.

Everything else in searchtune that opens, decodes or parses a file comes here, so that a loop of links, a folder where a
file should be, a number of five thousand digits or half a surrogate pair is one and the same kind of error everywhere.
"""

from __future__ import annotations

import errno
import io
import json
import math
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, cast

from searchtune.errors import ConfigError, DataError, SearchtuneError

if TYPE_CHECKING:
    import numpy.typing as npt

Refusal = type[SearchtuneError]
"""The class of the error that the caller's user is to see."""

STDIN = "-"
"""What stands for standard input where a file of texts is asked for."""
_BOM = b"\xef\xbb\xbf"
_SHOWN = 120
_STREAMS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")
"""How a shell hands over a pipe as if it were a file, as in `<(zcat x.gz)`."""
_ESCAPED_HALF = re.compile(r"\\u[dD][89a-fA-F]")
_HALF = re.compile("[\ud800-\udfff]")
_REMEDIES = {
    errno.EISDIR: "name a file in it",
    errno.ELOOP: "point the link to what is meant, or name that",
    errno.EACCES: "change its permissions, or run as a user who may",
    errno.EPERM: "change its permissions, or run as a user who may",
    errno.ENOSPC: "free some space, then run the command again",
    errno.EIO: "copy it again from where it came",
}


def shown(value: object) -> str:
    """A path or value for a message: cut where it is long, without control characters and bytes that are no text."""
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    plain = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in text[: 8 * _SHOWN])
    return plain if len(text) <= 2 * _SHOWN else f"{plain[:_SHOWN]}... ({len(text):,} characters)"


def explain(error: OSError) -> tuple[str, str]:
    """What the system says against a file, and what to do about it."""
    return error.strerror or str(error), _REMEDIES.get(error.errno or 0, "check the path")


def user_path(name: str | Path, error: Refusal = ConfigError) -> Path:
    """The path that somebody wrote, `~` filled in. It need not be there, but the system must be able to look.

    Raises:
        error: a NUL in it, `~nobody`, a name that is too long, links in a circle, or a folder that may not be entered.
    """
    text = os.fspath(name)
    if "\0" in text:
        raise error(f"{shown(text)!r}: a path with a NUL character in it; check how the path was made")
    try:
        path = Path(text).expanduser()
    except RuntimeError as problem:
        who = shown(Path(text).parts[0])
        raise error(f"{shown(text)}: {who} is nobody's home folder here; write the path without ~") from problem
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever opens it says what is needed there
    except OSError as problem:
        reason, remedy = explain(problem)
        raise error(f"{shown(path)}: cannot be used as a path ({reason}); {remedy}") from problem
    except ValueError as problem:
        raise error(f"{shown(path)}: no path that a file system can hold; check how it was made") from problem
    return path


@contextmanager
def opened(path: Path, error: Refusal = DataError) -> Iterator[io.BufferedReader]:
    """The bytes of a file, or of a pipe that a shell handed over.

    Raises:
        error: it is not there, no file, or may not be read; also where the disk gives up in the middle.
    """
    path = user_path(path, error)
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or str(path).startswith(_STREAMS)):
            raise error(f"{shown(path)}: cannot be read (a pipe or a device); write what it holds to a file")
        with path.open("rb") as file:
            yield file
    except OSError as problem:
        if problem.errno is None:  # a packed file's own complaint
            raise
        reason, remedy = explain(problem)
        if problem.errno == errno.ENOENT and path.is_symlink():
            reason, remedy = f"a link to {shown(path.readlink())}, which is not there", "point it to a file"
        raise error(f"{shown(path)}: cannot be read ({reason}); {remedy}") from problem


def read_bytes(path: Path, error: Refusal = DataError) -> bytes:
    """All bytes of a file; errors as `opened`."""
    with opened(path, error) as file:
        return file.read()


def read_text(path: Path, error: Refusal = DataError) -> str:
    """A text file in UTF-8, a byte order mark left out; errors as `opened`, and for bytes that are no UTF-8."""
    return decode(read_bytes(path, error), shown(path), error)


def decode(raw: bytes, place: str, error: Refusal = DataError) -> str:
    """Bytes as UTF-8, a byte order mark left out; `place` is what the message calls them."""
    try:
        return raw.removeprefix(_BOM).decode("utf-8")
    except UnicodeDecodeError as problem:
        raise error(f"{place}: not UTF-8 at byte {problem.start}; save the file as UTF-8") from problem


def read_json(path: Path, error: Refusal = DataError) -> Any:
    """The value in a JSON file; errors as `read_text` and `parse_json`."""
    return parse_json(read_text(path, error), shown(path), error)


def read_json_object(path: Path, error: Refusal = DataError, what: str = "") -> dict[str, Any]:
    """The object in a JSON file; errors as `read_json`, and for a list, a text or a number.

    `what` it should be ("a report") is for the message.
    """
    place = f"{shown(path)}: not {what}" if what else shown(path)
    value = parse_json(read_text(path, error), place, error)
    if not isinstance(value, dict):
        raise error(f"{place}: not an object but a JSON {_kind(value)}; name the file that holds {{...}}")
    return value


def parse_json(text: str | bytes, place: str, error: Refusal = DataError) -> Any:
    """The value of a JSON text, in which all strings are characters and all numbers finite.

    Raises:
        error: no JSON, NaN or an infinity, a number that is too long, nesting that is too deep, half a surrogate pair.
    """
    try:
        return strict_json(text)
    except (ValueError, RecursionError) as problem:
        what = "nested too deeply" if isinstance(problem, RecursionError) else str(problem)
        found = "; it is empty" if not text.strip() else ""
        raise error(
            f"{place}: cannot be read as JSON ({shown(what)}{found}); write it again or correct it"
        ) from problem


def strict_json(text: str | bytes) -> Any:
    """As `parse_json`, with `ValueError` and `RecursionError` for whoever words the message.

    >>> strict_json('{"a": [1, 2.5]}')
    {'a': [1, 2.5]}
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8")
    value = json.loads(text, parse_constant=_no_constant, parse_float=_finite)
    if _ESCAPED_HALF.search(text) or not text.isascii():
        check_characters(value)
    return value


def check_characters(value: Any) -> None:
    """Raise a `ValueError` where a string in a plain value, a key or the value itself holds half a surrogate pair."""
    if isinstance(value, str):
        if _HALF.search(value):
            raise ValueError(f"half a surrogate pair, which is no character, in {value[:_SHOWN]!a}")
    elif isinstance(value, dict):
        for key, inner in value.items():
            check_characters(key)
            check_characters(inner)
    elif isinstance(value, list):
        for inner in value:
            check_characters(inner)


def read_array(path: Path, error: Refusal = DataError, *, mmap: bool = False) -> npt.NDArray[Any]:
    """The array of an npy file; nothing in it is ever unpickled.

    Raises:
        error: it cannot be read, or is no npy file of numbers.
    """
    import numpy as np

    with opened(path, error):
        pass  # says what is wrong with the path
    try:
        found: Any = np.load(path, mmap_mode="r" if mmap else None, allow_pickle=False)
    except (OSError, ValueError, EOFError, TypeError, SyntaxError, MemoryError, OverflowError) as problem:
        what = "it is empty" if path.stat().st_size == 0 else shown(problem).partition(". If you trust")[0]
        raise error(f"{shown(path)}: cannot be read as an npy array ({what}); write it again") from problem
    if not (isinstance(found, np.ndarray) and found.dtype.kind in "biuf"):
        raise error(f"{shown(path)}: no npy array of numbers; write it again")
    return cast("npt.NDArray[Any]", found)


def _kind(value: Any) -> str:
    return {list: "list", str: "text", bool: "truth value", type(None): "null"}.get(type(value), "number")


def _no_constant(text: str) -> NoReturn:
    raise ValueError(f"{text} is no number of JSON")


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{shown(text)} is more than a number can hold")
    return value
