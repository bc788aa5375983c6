"""How far passages cover the words of a question: three numbers that say much about whether they answer it.

Words are compared without common endings, and those that nearly every question has do not count. A word counts as much
as it has letters, up to eight: long words are rare ones, and no collection needs to be counted for it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from searchtune.data.grounding import sentences
from searchtune.types import FloatArray64
from searchtune.words import find_terms

FEATURES = ("coverage", "sentence_coverage", "log_words")
"""What `coverage` gives: the share of the question's words that the passage has; the share that its best sentence has,
a title's line left out; the logarithm of one more than its words, since what is long has many words by chance."""
_LINE = re.compile(r"\s+[.!?]\s+|\n")
"""Ends of sentences in text whose marks stand apart, and ends of lines."""
_STOP = frozenset(
    re.findall(
        r"\w+",
        "a an the of in to is are was were be been do does did has have had what who which when where why how whom "
        "whose that this it its on for and or by from with as at into can will would should you your i my me they them "
        "he she his her s",
    )
)
_ENDINGS = ("ing", "ed", "es", "s", "ly")
_SHORTEST = 3
_HEAVIEST = 8


def coverage(question: str, passages: Sequence[str]) -> FloatArray64:
    """The `FEATURES` of the passage that covers the question best; zeros without passages. Shape: (3,)."""
    asked = list(dict.fromkeys(_words(question)))
    asked = [word for word in asked if word not in _STOP] or asked
    rows = [_of_passage(asked, passage) for passage in passages]
    best = max(rows, key=lambda row: row[0] + row[1], default=(0.0, 0.0, 0.0))
    return np.array(best, dtype=np.float64)


def coverages(questions: Sequence[str], passages: Sequence[Sequence[str]]) -> FloatArray64:
    """`coverage` of each question by its own passages. Shape: (questions, 3)."""
    rows = [coverage(question, own) for question, own in zip(questions, passages, strict=True)]
    return np.array(rows, dtype=np.float64).reshape(-1, len(FEATURES))


def _of_passage(asked: Sequence[str], passage: str) -> tuple[float, float, float]:
    title, _, body = passage.partition("\n")
    parts = [set(_words(part)) for line in _LINE.split(body or title) for part in sentences(line)]
    whole = set(_words(title)).union(*parts)
    nearest = max((_share(asked, part) for part in parts), default=0.0)
    return _share(asked, whole), nearest, float(np.log1p(len(find_terms(passage, underscore=False))))


def _share(asked: Sequence[str], words: set[str]) -> float:
    """The share of the asked words that are there, each by its weight."""
    total = sum(min(_HEAVIEST, len(word)) for word in asked)
    return sum(min(_HEAVIEST, len(word)) for word in asked if word in words) / max(1, total)


def _words(text: str) -> list[str]:
    return [_stem(word) for word in find_terms(text.lower(), underscore=False)]


def _stem(word: str) -> str:
    """The word without its ending, where three letters remain."""
    for ending in _ENDINGS:
        if word.endswith(ending) and len(word) - len(ending) >= _SHORTEST:
            return word[: -len(ending)]
    return word
