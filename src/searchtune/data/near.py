"""Near-duplicate texts: those whose sets of words and word pairs have a high Jaccard similarity. None is missed.

A text is the set of its words (see `searchtune.words`; of scripts without spaces its characters) and of its pairs of
neighbouring words, after Unicode NFKC, case folding and removal of punctuation. Changing one inner word of n different
ones gives a similarity of (2n - 4) / (2n + 2): .73 for 10 words, .9 for 29. So .9 stands for the same sentence in other
clothes, not for a paraphrase nor for a claim with its opposite.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from searchtune.data.shingles import ShingleSets, equal_sets, shingle_sets, similar_pairs
from searchtune.words import find_words

NEAR_THRESHOLD = 0.9
"""Similarity from which two queries count as the same."""
GROUP_THRESHOLD = 0.7
"""Similarity from which texts stay on one side of a split that is cut here: more cautious than `NEAR_THRESHOLD`."""


class NearPair(NamedTuple):
    """Positions into the two lists that were compared, and the Jaccard similarity of the texts there."""

    left: int
    right: int
    similarity: float


def normalise(text: str) -> str:
    """NFKC, folded case, words only, single spaces; a text without any word keeps its other characters.

    >>> normalise("  Obesity decreases: life-quality! ")
    'obesity decreases life quality'
    """
    return " ".join(_words(text))


def shingles(text: str) -> frozenset[str]:
    """The words of the normalised text and its pairs of neighbouring words."""
    words = _words(text)
    return frozenset(words) | {f"{first} {second}" for first, second in pairwise(words)}


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float = NEAR_THRESHOLD) -> list[NearPair]:
    """All pairs across two lists of at least this similarity (0 < threshold <= 1), in order of position.

    Texts that are equal once normalised have similarity 1. Empty texts are near nothing.
    """
    sets, at = _distinct([*left, *right], len(left))
    half = sum(place < len(left) for place, *_ in at)
    found = similar_pairs(sets, threshold, across=half) if 0 < half < len(at) else None
    if found is None:
        return []
    return sorted(
        NearPair(i, j - len(left), similarity)
        for a, b, similarity in zip(found.first.tolist(), found.second.tolist(), found.similarity.tolist(), strict=True)
        for i in at[a]
        for j in at[b]
    )


def near_groups(columns: Sequence[Sequence[str]], threshold: float = GROUP_THRESHOLD) -> list[int]:
    """Group of every row, named by the group's first row. Rows are linked where any column has near-duplicate texts.

    Groups are connected components, so a group may hold two rows that are not near each other.
    """
    links: list[tuple[int, int]] = []
    for column in columns:
        sets, at = _distinct(column)
        links += [(rows[0], row) for rows in at for row in rows[1:]]
        found = similar_pairs(sets, threshold)
        links += [(at[a][0], at[b][0]) for a, b in zip(found.first.tolist(), found.second.tolist(), strict=True)]
    return components(len(columns[0]), links)


def components(count: int, links: Sequence[tuple[int, int]]) -> list[int]:
    """Connected components of the graph on `range(count)`: for each node the smallest node that it can reach."""
    parent = list(range(count))

    def root(node: int) -> int:
        while parent[node] != node:
            parent[node] = parent[parent[node]]
            node = parent[node]
        return node

    for first, second in links:
        low, high = sorted((root(first), root(second)))
        parent[high] = low
    return [root(node) for node in range(count)]


def _words(text: str) -> list[str]:
    """The words of the normalised text, or what stands between its spaces where it has no word."""
    folded = text.lower() if text.isascii() else unicodedata.normalize("NFKC", text).casefold()
    return find_words(folded) or folded.split()


def _distinct(texts: Sequence[str], split: int = 0) -> tuple[ShingleSets, list[list[int]]]:
    """The distinct non-empty sets, and for each the positions of the texts that have it; one set on either side of
    position `split` is two.
    """
    sets = shingle_sets(texts, _words)
    at: dict[int, list[int]] = {}
    sizes = sets.sizes.tolist()
    for i, first in enumerate(equal_sets(sets).tolist()):
        if sizes[i]:
            at.setdefault(first if i < split else ~first, []).append(i)
    places = list(at.values())
    return sets.select(np.array([rows[0] for rows in places], dtype=np.int64)), places
