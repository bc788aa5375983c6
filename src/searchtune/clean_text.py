"""Text from strangers, made fit to be kept and shown.

What a server replies goes into journals, files and terminals: escape sequences and other control characters, marks that
turn the direction of writing, and halves of surrogate pairs are taken out where it comes in.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_ESCAPES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]"  # colours and the cursor (CSI, ECMA-48)
    r"|(?:\x1b[\]PX^_]|[\x9d\x90\x98\x9e\x9f])[^\x07\x1b\x9c]{0,4096}(?:\x07|\x1b\\|\x9c)"  # titles, links (OSC, DCS)
    r"|\x1b[ -/]*[0-~]"
)
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_HALF = re.compile(r"[\ud800-\udfff]")
_DEEPEST = 50


def clean(text: str) -> str:
    """Text fit for a file and a terminal: line ends and tabs stay, what steers a terminal goes, and so do halves of
    surrogate pairs, for which U+FFFD stands.

    >>> clean("a\\x1b[31mb\\x9dc\\u202ed" + chr(0xD800))
    'abcd\\ufffd'
    """
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if text.isascii() and text.isprintable():
        return text
    text = _CONTROL.sub("", _ESCAPES.sub("", text))
    if _HALF.search(text):  # two halves that belong together are one character
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def clean_all(value: Any, hide: Callable[[str], str] = str, depth: int = 0) -> Any:
    """The same for every text in a value that came as JSON, keys included, and `hide` after it.

    What is nested too deeply to be a reply becomes None.
    """
    if isinstance(value, str):
        return hide(clean(value))
    if not isinstance(value, dict | list):
        return value
    if depth >= _DEEPEST:
        return None
    if isinstance(value, list):
        return [clean_all(one, hide, depth + 1) for one in value]
    return {hide(clean(str(key))): clean_all(one, hide, depth + 1) for key, one in value.items()}
