"""Sets of words and word pairs of many texts as arrays, and all pairs of sets that are alike, none missed.

Two sets with a Jaccard similarity of t or more share one of their rarest members: with members in one order for all
sets, the rarest first, any such pair has a common one among the first |x| - ceil(t |x|) + 1 of the greater set and the
first |x| - ceil(2 t / (1 + t) |x|) + 1 of the smaller (prefix filtering: Bayardo, Ma and Srikant 2007, WWW; Xiao et al.
2008, WWW). Only such pairs are counted out. A text costs 8 bytes a word and pair.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import count, pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from searchtune.types import FloatArray64, IntArray

_CHUNK = 1 << 13
"""Texts that are taken apart at once; less than 2 to the 15th."""
_BITS = 24
_WORDS = (1 << _BITS) - 1
"""Different words that are told apart; more than any collection here has."""
_KEY = (1 << 2 * _BITS) - 1
_BUCKETS = 1 << 20
_MIX = -0x61C8864680B583EB
"""2 to the 64th over the golden ratio, odd and with a sign (Knuth, volume 3, 6.4)."""
_PAIRS = 1 << 20
"""Pairs that are looked at at once."""
_ENTRIES = 1 << 21
_SLACK = 1e-9


class SimilarPairs(NamedTuple):
    """Pairs of sets, each once, the first before the second. Shape: (pairs,) each."""

    first: IntArray
    second: IntArray
    similarity: FloatArray64


class ShingleSets(NamedTuple):
    """Set `i` is `keys[offsets[i] : offsets[i + 1]]`, ascending. Shape: keys (members,), offsets (sets + 1,)."""

    keys: IntArray
    offsets: IntArray

    @property
    def sizes(self) -> IntArray:
        """Shape: (sets,)."""
        return np.diff(self.offsets)

    def select(self, chosen: IntArray) -> ShingleSets:
        """Some of the sets, in this order."""
        keys, lengths = self.keys[_spread(self.offsets[chosen], self.sizes[chosen])], self.sizes[chosen]
        return ShingleSets(keys, np.concatenate(([0], np.cumsum(lengths))))


def shingle_sets(texts: Iterable[str], words_of: Callable[[str], Sequence[str]]) -> ShingleSets:
    """The words of each text and its pairs of neighbouring words, as numbers that mean the same in all texts."""
    numbers: defaultdict[str, int] = defaultdict(count(1).__next__)
    keys: list[IntArray] = []
    sizes: list[IntArray] = []
    number = numbers.__getitem__
    words: list[int] = []
    ends = [0]

    def close() -> None:
        part, lengths = _sets_of(np.array(words, np.int64) & _WORDS, np.diff(ends))
        keys.append(part)
        sizes.append(lengths)
        words.clear()
        del ends[1:]

    for text in texts:
        words += map(number, words_of(text))
        ends.append(len(words))
        if len(ends) > _CHUNK:
            close()
    close()
    return ShingleSets(np.concatenate(keys), np.concatenate([[0], np.cumsum(np.concatenate(sizes))]))


def equal_sets(sets: ShingleSets) -> IntArray:
    """For each set the first one that is equal; empty sets are equal to none but themselves. Shape: (sets,)."""
    seen: dict[bytes, int] = {}
    raw, ends = sets.keys.tobytes(), (8 * sets.offsets).tolist()
    firsts = [seen.setdefault(raw[a:b], i) if b > a else i for i, (a, b) in enumerate(pairwise(ends))]
    return np.array(firsts, dtype=np.int64)


def similar_pairs(sets: ShingleSets, threshold: float, *, across: int = 0) -> SimilarPairs:
    """All pairs of sets with at least this Jaccard similarity (above 0), in the order of the first, then the second.

    With `across`, only pairs of one of the first `across` sets with one behind them.
    """
    found = [_confirmed(sets, pairs, threshold) for pairs in _candidates(sets, threshold, across)]
    first = np.concatenate([part.first for part in found] or [np.zeros(0, np.int64)])
    second = np.concatenate([part.second for part in found] or [np.zeros(0, np.int64)])
    similarity = np.concatenate([part.similarity for part in found] or [np.zeros(0)])
    _, once = np.unique(first * len(sets.offsets) + second, return_index=True)
    return SimilarPairs(first[once], second[once], similarity[once])


def _sets_of(words: IntArray, lengths: IntArray) -> tuple[IntArray, IntArray]:
    """The members of some texts' sets one behind the other, and how many each has. Shape: words (all words,)."""
    rows = np.repeat(np.arange(len(lengths)), lengths) << 2 * _BITS
    pair = rows[1:] == rows[:-1] if len(rows) else np.zeros(0, np.bool_)
    pairs = (rows[1:] | words[:-1] << _BITS | words[1:])[pair]
    entries = np.sort(np.concatenate([rows | words, pairs]))
    entries = entries[np.diff(entries, prepend=-1) != 0]
    return entries & _KEY, np.bincount(entries >> 2 * _BITS, minlength=len(lengths))


def _candidates(sets: ShingleSets, threshold: float, across: int) -> Iterator[IntArray]:
    """Pairs that share a rare member and whose sizes allow the similarity. Shape: (pairs, 2) each, first < second."""
    keys, owners, indexed = _prefixes(sets, threshold)
    order = np.lexsort((sets.sizes[owners], keys))
    keys, owners, indexed = keys[order], owners[order], indexed[order]
    groups = np.cumsum(np.diff(keys, prepend=-1) != 0)
    sizes = sets.sizes[owners]
    step = int(sizes.max(initial=0)) + 2
    places = groups * step + sizes
    index = np.flatnonzero(indexed)
    low = np.searchsorted(places[index], groups * step + np.ceil(threshold * sizes - _SLACK).astype(np.int64))
    high = np.searchsorted(places[index], places, side="right")
    partners = np.maximum(high - low, 0)
    ends = np.cumsum(partners)
    start = 0
    while start < len(partners):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _PAIRS, side="right")))
        here = partners[start:stop]
        a = np.repeat(owners[start:stop], here)
        b = owners[index[_spread(low[start:stop], here)]]
        a, b = np.minimum(a, b), np.maximum(a, b)
        keep = (a < across) & (b >= across) if across else a != b
        yield np.stack(np.divmod(np.unique(a[keep] * len(sets.offsets) + b[keep]), len(sets.offsets)), axis=1)
        start = stop


def _prefixes(sets: ShingleSets, threshold: float) -> tuple[IntArray, IntArray, npt.NDArray[np.bool_]]:
    """The rarest members of every set, whose they are, and whether they are also among those of a smaller partner."""
    counts = np.zeros(_BUCKETS, dtype=np.int64)
    for start in range(0, len(sets.keys), _ENTRIES):
        counts += np.bincount(_bucket(sets.keys[start : start + _ENTRIES]), minlength=_BUCKETS)
    sizes = sets.sizes
    full = sizes - np.ceil(threshold * sizes - _SLACK).astype(np.int64) + 1
    short = sizes - np.ceil(2 * threshold / (1 + threshold) * sizes - _SLACK).astype(np.int64) + 1
    parts: list[tuple[IntArray, IntArray, npt.NDArray[np.bool_]]] = []
    for start in range(0, max(1, len(sizes)), _CHUNK):
        chunk = slice(start, start + _CHUNK)
        here = sizes[chunk]
        keys = sets.keys[sets.offsets[start] : sets.offsets[start] + here.sum()]
        rows = np.repeat(np.arange(len(here)), here)
        order = np.argsort(rows << 40 | counts[_bucket(keys)], kind="stable")  # equal counts: by key
        place = np.arange(len(keys)) - np.repeat(np.cumsum(here) - here, here)
        kept = place < full[chunk][rows]
        parts.append((keys[order][kept], rows[kept] + start, (place < short[chunk][rows])[kept]))
    keys, owners, indexed = (np.concatenate(column) for column in zip(*parts, strict=True))
    return keys, owners, indexed


def _confirmed(sets: ShingleSets, pairs: IntArray, threshold: float) -> SimilarPairs:
    """Those pairs that are as similar. Shape: pairs (pairs, 2)."""
    sizes = sets.sizes
    shared = np.zeros(len(pairs), dtype=np.int64)
    lengths = sizes[pairs[:, 0]] + sizes[pairs[:, 1]]
    ends = np.cumsum(lengths)
    start = 0
    while start < len(pairs):
        stop = max(start + 1, int(np.searchsorted(ends, (ends[start - 1] if start else 0) + _ENTRIES, side="right")))
        stop = min(stop, start + (1 << 14))
        some = pairs[start:stop]
        both = np.concatenate([sets.keys[_spread(sets.offsets[side], sizes[side])] for side in some.T])
        rows = np.concatenate([np.repeat(np.arange(len(some)), sizes[side]) for side in some.T])
        entries = np.sort(rows << 2 * _BITS | both)
        again = entries[1:][entries[1:] == entries[:-1]] >> 2 * _BITS
        shared[start:stop] = np.bincount(again, minlength=len(some))
        start = stop
    similarity = shared / (lengths - shared)
    near = similarity >= threshold
    return SimilarPairs(pairs[near, 0], pairs[near, 1], similarity[near])


def _bucket(keys: IntArray) -> IntArray:
    """A place for each member in a table of counts; members that share one count as equally rare."""
    mixed: IntArray = (keys * _MIX >> 43) & (_BUCKETS - 1)
    return mixed


def _spread(starts: IntArray, lengths: IntArray) -> IntArray:
    """The numbers from each start on, so many of each, one behind the other."""
    total = np.cumsum(lengths)
    places: IntArray = np.arange(total[-1] if len(total) else 0) + np.repeat(starts - (total - lengths), lengths)
    return places
