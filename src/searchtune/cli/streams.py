"""stdin, stdout and stderr as commands may rely on them: there, and able to take any text."""

from __future__ import annotations

import codecs
import io
import os
import sys
from contextlib import suppress

_ESCAPES = "searchtune.escapes"


def settle_streams() -> None:
    """Let stdout take every character, those that its encoding lacks as JSON escapes; refuse a stdout that is closed.

    A stream that is closed leaves its number free, and the next file that is opened would get it, and with it whatever
    a library prints. So a closed stdin or stderr is opened to nothing, and without stdout no work begins.
    """
    for number, mode in ((0, os.O_RDONLY), (2, os.O_WRONLY)):
        if (sys.stdin if number == 0 else sys.stderr) is None:
            _open_nothing(number, mode)
    if sys.stdin is None:
        sys.stdin = io.TextIOWrapper(io.BytesIO())
    if sys.stdout is None:
        _open_nothing(1, os.O_WRONLY)
        sys.stdout = io.TextIOWrapper(io.BytesIO())
        if sys.stderr is not None:
            sys.stderr.write("error: stdout is closed, and results go there; redirect it, for instance to /dev/null\n")
        raise SystemExit(2)
    codecs.register_error(_ESCAPES, _escaped)
    for stream, errors in ((sys.stdout, _ESCAPES), (sys.stderr, "backslashreplace")):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=errors)


def mute_stdout() -> None:
    """Send what is still to come on stdout to nowhere: it cannot be written, and the interpreter would complain."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _open_nothing(number: int, mode: int) -> None:
    with suppress(OSError):
        handle = os.open(os.devnull, mode)
        if handle != number:
            os.dup2(handle, number)
            os.close(handle)


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Characters as JSON escapes them, in pairs beyond the basic plane: a row of JSON stays one."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    units = error.object[error.start : error.end].encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2)), error.end
