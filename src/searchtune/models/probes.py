"""Texts for a card's probe: drawn from the tokenizer's own vocabulary, so that an adapter carries none of its data."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np

PROBES = 8
"""Texts, pairs or conversations in a probe."""
QUERY_WORDS = 16
"""Of the longest made-up query."""
_WORDS, _TRIES = 300, 5000
_LETTERS = "abcdefgh"


def synthetic_texts(tokenizer: Any, longest: int, count: int = PROBES, *, seed: int = 0) -> list[str]:
    """Texts of 2 to `longest` words of the vocabulary, lengths spread evenly by ratio; the same ones every time.

    They mean nothing. A text of as many words as a model reads tokens is cut by it, as long texts are.
    """
    words = _words(tokenizer)
    rng = random.Random(seed)
    lengths = np.geomspace(min(2, longest), max(1, longest), num=count).round().astype(int)
    return [" ".join(rng.choices(words, k=int(length))) for length in lengths]


def spread(items: Sequence[Any], count: int = PROBES) -> list[Any]:
    """A few items, evenly over their order, each once."""
    places = np.unique(np.linspace(0, len(items) - 1, num=min(count, len(items))).astype(int))
    return [items[int(place)] for place in places]


def _words(tokenizer: Any) -> list[str]:
    """Some tokens that are letters alone, as text."""
    special = set(tokenizer.all_special_ids)
    known = [number for number in sorted(tokenizer.get_vocab().values()) if number not in special]
    rng = random.Random(0)
    found: dict[str, None] = {}
    for number in rng.sample(known, min(_TRIES, len(known))):
        text = tokenizer.decode([number]).strip().removeprefix("##")
        if text.isalpha():
            found[text] = None
        if len(found) == _WORDS:
            break
    return list(found) or list(_LETTERS)
