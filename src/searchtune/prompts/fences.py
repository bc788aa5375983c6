"""Fences around text that comes from outside, so that a model can tell data from instruction.

A fence is `<doc-NONCE>` and `</doc-NONCE>`. The nonce is drawn for each job, so that whoever wrote a document could not
know it; what looks like a fence or like a mark of a chat template inside the document is made harmless.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from functools import lru_cache

from searchtune.errors import ConfigError

_LETTERS = "bcdfghjkmpqrtvwxz"
"""No vowels, so that no word comes out; no `l`, `n` and `s`, which look or sound like others; no digits, which a judge
might read as grades."""
_NONCE = re.compile(f"[{_LETTERS}]{{4,32}}")
_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\ufe00-\ufe0f\ufeff]"
)
_BRACKETS = str.maketrans({"\u2039": "<", "\u203a": ">", "\u27e8": "<", "\u27e9": ">", "\u3008": "<", "\u3009": ">"})
_FENCE = re.compile(r"<(?=\s*[/\\]?\s*doc\s*[-\u2010-\u2015_])", re.IGNORECASE)
_MARKS = re.compile(
    r"<(?=\|)|(?<=\|)>"  # <|im_start|>, <|eot_id|>
    r"|<(?=/?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think|tool_call|tool_response)>)"
    r"|<(?=</?SYS>)|\[(?=/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT)\])",
    re.IGNORECASE,
)


def draw_nonce(seed: str, length: int = 6) -> str:
    """Letters that depend on `seed` alone, such as the key of a job: a job that goes on uses the same ones.

    Raises:
        ConfigError: fewer than 4 or more than 32 letters.
    """
    if not 4 <= length <= 32:
        raise ConfigError(f"a nonce of {length} letters: choose from 4 to 32")
    digest = hashlib.sha256(f"fence\0{seed}".encode("utf-8", "surrogatepass")).digest()
    return "".join(_LETTERS[byte % len(_LETTERS)] for byte in digest[:length])


def fence(nonce: str) -> tuple[str, str]:
    """The mark that opens a document and the one that closes it.

    Raises:
        ConfigError: a nonce that `draw_nonce` does not draw.
    """
    if not _NONCE.fullmatch(nonce):
        raise ConfigError(f"nonce {nonce!r}: draw it with `draw_nonce`")
    return f"<doc-{nonce}>", f"</doc-{nonce}>"


def harmless(text: str, nonce: str) -> str:
    """`text` without anything that a model or its tokenizer could take for a fence or for a mark of a chat template.

    The bracket of a mark becomes a parenthesis, and the nonce loses its letters. Text in which such a thing is written
    with look-alikes (full-width letters, invisible characters) is first brought to its plain form (Unicode NFKC).
    Other text stays as it is. Doing it twice changes nothing.
    """
    if not text.isascii():
        plain = _plain(text)
        if plain != text and _dangerous(plain, nonce):
            text = plain
    if not _dangerous(text, nonce):
        return text
    text = _FENCE.sub("(", text)
    text = _MARKS.sub(lambda mark: ")" if mark[0] == ">" else "(", text)
    return _pattern(nonce).sub("...", text)


def _dangerous(text: str, nonce: str) -> bool:
    return bool(_FENCE.search(text) or _MARKS.search(text) or _pattern(nonce).search(text))


def _plain(text: str) -> str:
    return _INVISIBLE.sub("", unicodedata.normalize("NFKC", text)).translate(_BRACKETS)


@lru_cache(maxsize=16)
def _pattern(nonce: str) -> re.Pattern[str]:
    return re.compile(r"[\s._-]*".join(nonce), re.IGNORECASE)
