"""What an answer rests on: its sentences, the passages that each cites, and whether passages support them.

Citations are numbers in square brackets, counted from 1: `[2]`, `[1][3]`, `[1, 3]`, `[1-3]`. As in ALCE (Gao et al.
2023, arXiv:2305.14627) a sentence is backed where the passages that it cites itself, taken together, support it; one
that cites nothing is not. Support is a number from 0 to 1 that any `Supporter` may give: the share of words that
passages have (`word_support`), or how sure a judge is.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from searchtune.words import find_terms, find_words

Supporter = Callable[[str, Sequence[str]], float]
"""Sentence, passages -> how surely they support it together, 0 to 1; NaN for a sentence that states nothing."""
SUPPORTED = 0.6
"""From this support on a sentence counts as supported."""

_MARK = re.compile(r"\[\s*(\d{1,4}(?:\s*[,;\-–]\s*\d{1,4})*)\s*\]")
_RANGE = re.compile(r"(\d+)\s*[-–]\s*(\d+)")
_MOST_IN_RANGE = 50
_SPACE_BEFORE = re.compile(r"\s+(?=[.,;:!?])")
_ENDS = re.compile(
    r"(?<=[.!?])([\"'”’)]*(?:\s*\[[\d\s,;\-–]+\])*)\s+(?=[^\sa-z])"
    r"|(?<=[。！？｡।؟۔])[\"'”’）」』)]*(?:\s*\[[\d\s,;\-–]+\])*\s*(?=[^\s\"'”’）」』)])"  # no space need follow these
)
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:[A-Z]|Dr|Mr|Mrs|Ms|St|Prof|Jr|Sr|vs|etc|cf|e\.g|i\.e|No|Fig|al|approx)\.$")
_BULLET = re.compile(r"^\s*(?:[-*•]|\d+[.)])\s+")
_STOP_WORDS = """
a about above after again all also am an and any are as at be because been before being below between both but
by can could did do does doing down during each either few for from further had has have having he her here hers
him his how however i if in into is it its itself just may me might more most must my nor not of off on once one
only or other our ours out over own per s same shall she should so some such t than that the their theirs them
then there therefore these they this those through thus to too under until up upon us very was we were what when
where whether which while who whom whose why will with within without would you your yours
"""
_STOP = frozenset(_STOP_WORDS.split())
"""English words that state nothing by themselves."""


class Sentence(NamedTuple):
    """One sentence of an answer."""

    text: str
    """Without its citations."""
    cites: tuple[int, ...]
    """The numbers that it cites, each once, in the order of their first mention; some may point at no passage."""


def cited_numbers(text: str) -> tuple[int, ...]:
    """Every number that is cited, each once, in the order of its first mention, whatever passages there are.

    >>> cited_numbers("Tides follow the moon [2], and the sun [1, 2].")
    (2, 1)
    """
    found: dict[int, None] = {}
    for mark in _MARK.finditer(text):
        for part in re.split(r"[,;]", mark[1]):
            span = _RANGE.search(part)
            first, last = (int(span[1]), int(span[2])) if span else (int(part), int(part))
            if first <= last < first + _MOST_IN_RANGE:
                found.update(dict.fromkeys(range(first, last + 1)))
    return tuple(found)


def without_citations(text: str) -> str:
    """`text` without marks of citations and the space that they leave before a full stop; line breaks stay."""
    lines = (" ".join(_MARK.sub(" ", line).split()) for line in text.splitlines())
    return "\n".join(_SPACE_BEFORE.sub("", line) for line in lines)


def sentences(text: str) -> list[Sentence]:
    """The sentences of an answer with what each cites; a citation right behind a full stop belongs to the one before.

    A line is never joined with the next, so items of a list are sentences of their own. A text between two ends that
    has no word is none. Abbreviations that are common in English do not end one.

    >>> [one.cites for one in sentences("Salt melts ice. [1] It lowers the freezing point [1][2].")]
    [(1,), (1, 2)]
    """
    found = []
    for line in text.splitlines():
        for piece in _pieces(_BULLET.sub("", line)):
            bare = without_citations(piece).strip()
            if find_words(bare, underscore=False):
                found.append(Sentence(bare, cited_numbers(piece)))
            elif found and (more := cited_numbers(piece)):
                found[-1] = Sentence(found[-1].text, tuple(dict.fromkeys((*found[-1].cites, *more))))
    return found


def content_words(text: str) -> set[str]:
    """The words that state something, in lower case: letters and digits, without common English words."""
    return {word for word in find_terms(text.lower(), underscore=False) if word not in _STOP}


def word_support(sentence: str, passages: Sequence[str]) -> float:
    """The share of the sentence's content words that occur in the passages; NaN for a sentence without any.

    Cheap and blind to meaning: it finds what was added to the passages, not what was turned into its opposite.
    """
    wanted = content_words(sentence)
    if not wanted:
        return math.nan
    there = set().union(*(content_words(passage) for passage in passages))
    return len(wanted & there) / len(wanted)


def unsupported_rate(
    said: Sequence[Sentence], passages: Sequence[str], supporter: Supporter = word_support, *, at: float = SUPPORTED
) -> float:
    """The share of sentences that no single passage supports with `at` or more; NaN without a sentence that counts.

    1 where there is a sentence and no passage. A sentence whose support is NaN for every passage does not count.
    """
    verdicts = []
    for one in said:
        given = [supporter(one.text, [passage]) for passage in passages] or [_bare(supporter(one.text, []))]
        known = [support for support in given if not math.isnan(support)]
        if known:
            verdicts.append(max(known) < at)
    return sum(verdicts) / len(verdicts) if verdicts else math.nan


def unbacked_rate(
    said: Sequence[Sentence], passages: Sequence[str], supporter: Supporter = word_support, *, at: float = SUPPORTED
) -> float:
    """The share of sentences whose own citations do not support them: 1 - ALCE's citation recall.

    A sentence that cites nothing, or no passage that is there, is not backed. NaN without a sentence that counts.
    """
    verdicts = []
    for one in said:
        cited = [passages[number - 1] for number in one.cites if 1 <= number <= len(passages)]
        support = supporter(one.text, cited)
        if not math.isnan(support):
            verdicts.append(not cited or support < at)
    return sum(verdicts) / len(verdicts) if verdicts else math.nan


def _bare(support: float) -> float:
    """Without any passage nothing is supported, whatever the supporter thinks of an empty list."""
    return support if math.isnan(support) else 0.0


def _pieces(line: str) -> list[str]:
    """A line cut where sentences end."""
    pieces, start = [], 0
    for end in _ENDS.finditer(line):
        if not _ABBREVIATED.search(line[start : end.start()]):
            pieces.append(line[start : end.end()])
            start = end.end()
    return [*pieces, line[start:]]
