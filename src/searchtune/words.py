"""The one word finder: what counts as a word in any script, for BM25, leaks, duplicates, overlaps and lengths.

A word is a run of letters and digits with the marks that belong to them (Unicode general category M: vowel signs of
Hindi, Arabic diacritics, accents that stand apart), after NFC. Scripts that put no space between words (Han, Kana,
Thai, Lao, Khmer, Myanmar and their neighbours) are cut into characters, each with its marks: `find_words` gives these
characters, `find_terms` each pair of neighbours, the usual units of search in them (Lucene's CJK analyser). Korean is
written with spaces and stays in words.

Texts without any such character, English among them, take a short way: one regular expression over the text as it is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from functools import lru_cache
from itertools import pairwise
from typing import NamedTuple

WORDS_VERSION = 2
"""Part of the key of whatever is kept and depends on words; higher with every change of what they are."""

_IDEOGRAPHS = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
_UNSPACED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u1950-\u19df\u1a20-\u1aaf\u1b00-\u1b7f\ua980-\ua9ff\uaa60-\uaadf"  # Thai
    "\u3021-\u3029\u3031-\u3035\u3038-\u303c\u3041-\u30ff\u3105-\u312f\u31a0-\u31bf\u31f0-\u31ff"  # Kana
    "\uff66-\uff9f\U0001b000-\U0001b16f" + _IDEOGRAPHS
)
"""Thai and its neighbours, Kana, Han: a body of a character class."""
_ANY_UNSPACED = re.compile(f"[{_UNSPACED}]")
_HAN = re.compile(f"[{_IDEOGRAPHS}]")
_BEYOND_LATIN = re.compile("[\u0300-\u036f\u0483-\u1dff\u200c\u200d\u20d0-\u20ff\u2cef-\U0010ffff]")
"""What can make a text take the long way at all, without Latin, Greek, most Cyrillic and dashes: quick to look for."""
_WIDE = re.compile("[\uff00-\uffef]+")
"""Full-width Latin and half-width Kana, which stand for their usual forms."""
_JOINERS = re.compile("[\u200c\u200d\ufe00-\ufe0f\U000e0100-\U000e01ef]")
"""Joiners and variation selectors: how a character is drawn, not which one it is."""
_PLAIN = re.compile(r"\w+")
_PLAIN_WITHOUT_UNDERSCORE = re.compile(r"[^\W_]+")
_PLAIN_LONG = re.compile(r"\b\w\w+\b")


class _Patterns(NamedTuple):
    careful: re.Pattern[str]
    """A character that the short way would get wrong."""
    piece: re.Pattern[str]
    """One word, or (group 1) an unbroken run of characters of scripts without spaces."""
    marked: re.Pattern[str]
    """One character with its marks."""


def find_words(text: str, *, underscore: bool = True) -> list[str]:
    """The words in their order, case as it stands; scripts without spaces give characters with their marks.

    Without `underscore` it parts words, as other punctuation does.

    >>> find_words("Hello, wörld_1! 数据检索")
    ['Hello', 'wörld_1', '数', '据', '检', '索']
    """
    if text.isascii() or not _needs_care(text):
        return (_PLAIN if underscore else _PLAIN_WITHOUT_UNDERSCORE).findall(text)
    return [piece for run, _ in _runs(text, underscore) for piece in run]


def find_terms(text: str, *, underscore: bool = True) -> list[str]:
    """The words to compare texts by: like `find_words`, with pairs of neighbours where a script has no spaces.

    A character that stands alone is a term by itself.

    >>> find_terms("数据检索 API")
    ['数据', '据检', '检索', 'API']
    """
    if not _needs_care(text):
        return find_words(text, underscore=underscore)
    return [term for run, unspaced in _runs(text, underscore) for term in (_pairs(run) if unspaced else run)]


def search_words(text: str) -> list[str]:
    """The words that BM25 knows a text by: lower case, two letters or more; of scripts without spaces pairs of
    neighbours, and of Han, where one may be a word, all characters too.

    >>> search_words("os.path: Join a path_list")
    ['os', 'path', 'join', 'path_list']
    >>> search_words("検索する")
    ['検索', '索す', 'する', '検', '索']
    """
    lower = text.lower()
    if not _needs_care(lower):
        return _PLAIN_LONG.findall(lower)
    found: list[str] = []
    for run, unspaced in _runs(lower, underscore=True):
        if unspaced:
            found += _pairs(run)
            found += _HAN.findall("".join(run)) if len(run) > 1 else []
        elif len(run[0]) > 1:
            found += run
    return found


def has_search_word(text: str) -> bool:
    """Whether `search_words` finds any."""
    return bool(search_words(text)) if _needs_care(text) else _PLAIN_LONG.search(text) is not None


def count_words(text: str) -> int:
    """How long a text is: parts between white space, and in scripts without spaces characters."""
    return len(find_words(text)) if has_unspaced(text) else len(text.split())


def has_unspaced(text: str) -> bool:
    """Whether a text has characters of a script that puts no space between words."""
    return not text.isascii() and _BEYOND_LATIN.search(text) is not None and _ANY_UNSPACED.search(text) is not None


def _needs_care(text: str) -> bool:
    if text.isascii() or not _BEYOND_LATIN.search(text):
        return False
    return _patterns().careful.search(text) is not None


def _runs(text: str, underscore: bool) -> Iterator[tuple[list[str], bool]]:
    """Each word by itself, and each unbroken run of characters of scripts without spaces, with whether it is one."""
    patterns = _patterns()
    plain = _WIDE.sub(lambda wide: unicodedata.normalize("NFKC", wide[0]), unicodedata.normalize("NFC", text))
    plain = _JOINERS.sub("", plain if underscore else plain.replace("_", " "))
    for found in patterns.piece.finditer(plain):
        if found[1] is None:
            yield [found[0]], False
        else:
            yield patterns.marked.findall(found[1]), True


def _pairs(run: list[str]) -> list[str]:
    """Pairs of neighbours; a character that stands alone is left to itself."""
    return [first + second for first, second in pairwise(run)] or run


@lru_cache(maxsize=1)
def _patterns() -> _Patterns:
    """Made where a text first needs them: all marks of Unicode have to be looked up (some 20 ms)."""
    marks = _ranges(char for char in map(chr, range(0x0300, 0x20000)) if unicodedata.category(char)[0] == "M")
    found = (char for char in map(chr, range(0x0E00, 0x20000)) if _ANY_UNSPACED.match(char) and char.isalnum())
    unspaced = rf"{_ranges(found)}\U00020000-\U0003ffff"
    return _Patterns(
        careful=re.compile(
            f"[{marks}{_UNSPACED}\u1100-\u11ff\u200c\u200d\uff00-\uffef]"
        ),  # Korean in parts, wide forms
        piece=re.compile(rf"([{unspaced}][{unspaced}{marks}]*)|[^\W{unspaced}](?:[^\W{unspaced}]|[{marks}])*"),
        marked=re.compile(f"[^{marks}][{marks}]*"),
    )


def _ranges(chars: Iterable[str]) -> str:
    """Ascending characters as the body of a character class."""
    spans: list[list[int]] = []
    for code in map(ord, chars):
        if spans and spans[-1][1] == code - 1:
            spans[-1][1] = code
        else:
            spans.append([code, code])
    return "".join(f"{chr(first)}-{chr(last)}" for first, last in spans)
