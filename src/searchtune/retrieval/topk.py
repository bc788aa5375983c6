"""The best documents of each query, kept while the scores of a corpus go by block after block.

A score and its document are held as one 64-bit integer: the bits of the float32 score, turned so that they order as the
scores do, above the document's position. Comparing two such keys is comparing (score, position), so equal scores go to
the greater position (trec_eval's rule) at every place, the last one included, and one integer partition keeps the top.
Only scores that reach a query's current last place become keys; in a long corpus that is a few in a hundred.

Knows no vectors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from searchtune.types import NO_DOC, FloatArray, IntArray

_EMPTY = np.iinfo(np.int64).min
_LOWEST = np.finfo(np.float32).min
_GROUPS = 4
"""Groups for each place when a bound is sought."""
_SPARE = 256
"""Places beyond the depth, at least: how many keys may gather before the lowest are thrown out."""


class TopK:
    """The `depth` best of all documents offered, for each of `rows` queries. Documents are below 2**32."""

    def __init__(self, rows: int, depth: int) -> None:
        self.rows, self.depth = rows, depth
        self._room = depth + max(depth, _SPARE)
        self._keys = np.full((rows, 0), _EMPTY, dtype=np.int64)
        self._filled = np.zeros(rows, dtype=np.int64)
        self._floor = np.full((rows, 1), _LOWEST, dtype=np.float32)
        """The score of each query's last place once its places are taken."""

    def offer(self, blocks: Sequence[tuple[int, FloatArray]]) -> None:
        """Take in blocks of scores, each with the position of its first document; minus infinity is no score.

        No score is NaN. Documents come in ascending order, and the more of them come in the first call, the fewer keys
        are made. Shape: scores (rows, width), contiguous; the last block may be narrower.
        """
        if not self._keys.shape[1]:
            self._floor = _bound([scores for _, scores in blocks], self.depth)
        for first, scores in blocks:
            self._take_in(scores, first)

    def _take_in(self, scores: FloatArray, first: int) -> None:
        """One block of `offer`."""
        width = scores.shape[1]
        flat = np.flatnonzero(scores >= self._floor)  # ">=": an equal score at a greater position is the better one
        ends = np.searchsorted(flat, np.arange(self.rows + 1) * width)
        counts = np.diff(ends)
        keys = _ordered(scores.reshape(-1)[flat])
        keys <<= 32
        keys += flat
        keys += np.repeat(first - np.arange(self.rows) * width, counts)
        self._store(keys, counts, ends[:-1])

    def ranked(self) -> tuple[IntArray, FloatArray]:
        """Documents and scores, best first, `NO_DOC` and minus infinity where a row ends. Shape: (rows, <= depth)."""
        used = int(self._filled.max(initial=0))
        keys = np.sort(self._keys[:, :used], axis=1)[:, ::-1][:, : self.depth]
        docs = np.where(keys == _EMPTY, NO_DOC, keys & 0xFFFFFFFF)
        return docs, np.where(keys == _EMPTY, np.float32(-np.inf), _score(keys))

    def _store(self, keys: IntArray, counts: IntArray, starts: IntArray) -> None:
        """Put each row's keys behind those it has; throw out the lowest once a row outgrows its room."""
        needed = int((self._filled + counts).max(initial=0))
        if needed > self._keys.shape[1]:
            wider = np.full((len(counts), max(needed, min(self._room, 2 * needed))), _EMPTY, dtype=np.int64)
            wider[:, : self._keys.shape[1]] = self._keys
            self._keys = wider
        width = self._keys.shape[1]
        places = np.repeat(np.arange(len(counts)) * width + self._filled - starts, counts)
        places += np.arange(len(keys))
        self._keys.reshape(-1)[places] = keys
        self._filled += counts
        if needed > self._room or (self._floor[0, 0] == _LOWEST and needed >= self.depth):
            self._compact(needed)

    def _compact(self, used: int) -> None:
        """Keep the best `depth` keys of each row, and raise its floor to the last of them."""
        held = self._keys[:, :used]
        held.partition(used - self.depth, axis=1)
        best = held[:, used - self.depth :]
        last = best[:, :1]  # a partition puts the least of the best in its place
        self._floor = np.where(last == _EMPTY, _LOWEST, _score(last))
        if (last == _EMPTY).any():
            best = np.sort(best, axis=1)[:, ::-1]  # a row that is not full keeps its keys in front
        kept = np.full((self.rows, self._room), _EMPTY, dtype=np.int64)
        kept[:, : self.depth] = best
        self._keys = kept
        np.minimum(self._filled, self.depth, out=self._filled)


def _bound(blocks: Sequence[FloatArray], depth: int) -> FloatArray:
    """A score that at least `depth` documents of each row reach, close to the `depth`-th greatest; one look at each.

    The documents of one column, in every so-many-th block, are a group; the bound is the `depth`-th greatest of what is
    greatest in each group, which as many documents reach, one a group. With `_GROUPS` groups for each place it lets
    through about a sixth more documents than are wanted. Shape: blocks (rows, width or fewer) -> (rows, 1).
    """
    rows, width = blocks[0].shape
    together = min(len(blocks), -(-_GROUPS * depth // width))
    best = np.concatenate(blocks[:together], axis=1)  # (rows, groups)
    for number, block in enumerate(blocks[together:]):
        group = best[:, number % together * width :][:, : block.shape[1]]
        np.maximum(group, block, out=group)
    groups = best.shape[1]
    if groups < depth:
        return np.full((rows, 1), _LOWEST)
    best.partition(groups - depth, axis=1)
    return np.maximum(best[:, groups - depth :][:, :1], _LOWEST)


def _ordered(scores: FloatArray) -> npt.NDArray[np.int64]:
    """Integers of 32 bits that order as the scores do; both zeros give 0. Shape: (n,)."""
    bits = (scores + np.float32(0)).view(np.int32)  # -0.0 + 0.0 is 0.0
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.astype(np.int64)


def _score(keys: IntArray) -> FloatArray:
    """The scores inside keys. Shape: any."""
    bits = (keys >> 32).astype(np.int32)
    bits ^= (bits >> 31) & 0x7FFFFFFF
    return bits.view(np.float32)
