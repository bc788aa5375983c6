"""Near-duplicate texts: in large sets MinHash finds candidates (Broder 1997); the exact Jaccard similarity decides.

A text is the set of its words (see `searchtune.words`; of scripts without spaces its characters) and of its pairs of
neighbouring words, after Unicode NFKC, case folding and removal of punctuation. Changing one inner word of n different
ones gives a similarity of (2n - 4) / (2n + 2): .73 for 10 words, .9 for 29. So .9 stands for the same sentence in other
clothes, not for a paraphrase nor for a claim with its opposite.
"""

from __future__ import annotations

import unicodedata
import zlib
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from searchtune.words import find_words

NEAR_THRESHOLD = 0.9
"""Similarity from which two queries count as the same."""
GROUP_THRESHOLD = 0.7
"""Similarity from which texts stay on one side of a split that is cut here: more cautious than `NEAR_THRESHOLD`."""

_ALL_PAIRS = 4_000_000
"""So many pairs or fewer are all looked at, which is quick and misses none; of more, MinHash finds the candidates."""
_PERMUTATIONS = 128
_MISS = 1e-3
"""Largest probability that a pair right at the threshold does not become a candidate."""


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
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(find_words(folded)) or " ".join(folded.split())


def shingles(text: str) -> frozenset[str]:
    """The words of the normalised text and its pairs of neighbouring words."""
    words = normalise(text).split()
    return frozenset(words) | {f"{first} {second}" for first, second in pairwise(words)}


def near_pairs(left: Sequence[str], right: Sequence[str], threshold: float = NEAR_THRESHOLD) -> list[NearPair]:
    """All pairs across two lists of at least this similarity (0 < threshold <= 1), in order of position.

    Texts that are equal once normalised have similarity 1. Empty texts are near nothing.
    """
    left_sets, left_at = _distinct(left)
    right_sets, right_at = _distinct(right)
    return sorted(
        NearPair(i, j, similarity)
        for a, b, similarity in _matches(left_sets, right_sets, threshold)
        for i in left_at[a]
        for j in right_at[b]
    )


def near_groups(columns: Sequence[Sequence[str]], threshold: float = GROUP_THRESHOLD) -> list[int]:
    """Group of every row, named by the group's first row. Rows are linked where any column has near-duplicate texts.

    Groups are connected components, so a group may hold two rows that are not near each other.
    """
    links: list[tuple[int, int]] = []
    for column in columns:
        sets, at = _distinct(column)
        links += [(rows[0], row) for rows in at for row in rows[1:]]
        links += [(at[a][0], at[b][0]) for a, b, _ in _matches(sets, sets, threshold) if a < b]
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


def _distinct(texts: Sequence[str]) -> tuple[list[frozenset[str]], list[list[int]]]:
    """The distinct non-empty shingle sets, and for each the positions of the texts that have it."""
    at: dict[frozenset[str], list[int]] = {}
    for i, text in enumerate(texts):
        at.setdefault(shingles(text), []).append(i)
    at.pop(frozenset(), None)
    return list(at), list(at.values())


def _matches(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """Pairs of sets with at least this Jaccard similarity. The right side, held in memory, is best the smaller one."""
    if not left or not right:
        return
    if len(left) * len(right) <= _ALL_PAIRS:
        yield from _all_matches(left, right, threshold)
        return
    from datasketch import MinHashLSH  # half a second of imports

    index = MinHashLSH(num_perm=_PERMUTATIONS, params=_bands(threshold))
    signatures = list(_signatures(right))
    for b, signature in enumerate(signatures):
        index.insert(b, signature)
    for a, signature in enumerate(signatures if left is right else _signatures(left)):
        for b in sorted(index.query(signature)):
            similarity = _jaccard(left[a], right[b])
            if similarity >= threshold:
                yield a, b, similarity


def _all_matches(
    left: Sequence[frozenset[str]], right: Sequence[frozenset[str]], threshold: float
) -> Iterator[tuple[int, int, float]]:
    """`_matches` with every pair looked at: what two sets share is an entry of a product of sparse matrices."""
    columns: dict[str, int] = {}
    ours, theirs = _incidence(left, columns), _incidence(right, columns)
    ours.resize(len(left), len(columns))
    common = (ours @ theirs.T).tocsr()
    common.sort_indices()
    rows = np.repeat(np.arange(len(left)), np.diff(common.indptr))
    sizes = np.array(list(map(len, left)))[rows] + np.array(list(map(len, right)))[common.indices]
    similarity = common.data / (sizes - common.data)
    for place in np.flatnonzero(similarity >= threshold).tolist():
        yield int(rows[place]), int(common.indices[place]), float(similarity[place])


def _incidence(sets: Sequence[frozenset[str]], columns: dict[str, int]) -> Any:
    """Which set holds which shingle; new shingles get the next columns. Shape: (sets, shingles so far)."""
    from scipy.sparse import csr_array

    places = [columns.setdefault(shingle, len(columns)) for group in sets for shingle in group]
    ends = np.cumsum([0, *map(len, sets)])
    return csr_array((np.ones(len(places), np.int64), places, ends), shape=(len(sets), len(columns)))


def _signatures(sets: Sequence[frozenset[str]]) -> Iterator[Any]:
    from datasketch import MinHash

    encoded = ([shingle.encode() for shingle in group] for group in sets)
    yield from MinHash.generator(encoded, num_perm=_PERMUTATIONS, seed=1, hashfunc=zlib.crc32)


def _bands(threshold: float) -> tuple[int, int]:
    """Bands and rows a band: the longest rows that miss a pair at the threshold with probability <= `_MISS`."""
    for rows in range(16, 1, -1):
        bands = _PERMUTATIONS // rows
        if (1 - threshold**rows) ** bands <= _MISS:
            return bands, rows
    return _PERMUTATIONS, 1


def _jaccard(first: frozenset[str], second: frozenset[str]) -> float:
    common = len(first & second)
    return common / (len(first) + len(second) - common)
