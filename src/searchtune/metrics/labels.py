"""From a run and its labels to what a ranking metric looks at: which rank holds which label.

Nearly all documents of a run have no label, so only those that have one are kept. Every metric then costs time in the
number of labels found, not in the number of documents ranked.

This module does not know metrics, ids or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError
from searchtune.types import NO_DOC, FloatArray64, IntArray, Qrels, Run

BoolArray = npt.NDArray[np.bool_]

_SPARSITY = 32
"""Places of the lookup table for each label: about one in so many unlabelled documents is looked up in vain."""
_MOST_BITS = 22
"""The lookup table has at most 2 to this power places of one byte."""


@dataclass(frozen=True, eq=False)
class Placed:
    """Grades at ranks, by judged query: the rows ascend, and so do the ranks within a row.

    Shape: rows, ranks and grades (found,). A row is a position among the judged queries; ranks count from 1.
    """

    rows: IntArray
    ranks: IntArray
    grades: IntArray

    @cached_property
    def deepest(self) -> int:
        """The last rank that holds anything, 0 where none does."""
        return int(self.ranks.max(initial=0))

    def until(self, cutoff: int | None) -> Placed:
        """Only what stands at the first `cutoff` ranks."""
        return self if cutoff is None or cutoff >= self.deepest else self.only(self.ranks <= cutoff)

    def only(self, keep: BoolArray) -> Placed:
        """Only the places where `keep` is true. Shape: keep (found,)."""
        return Placed(self.rows[keep], self.ranks[keep], self.grades[keep])

    def before(self, marked: BoolArray) -> IntArray:
        """How many marked places of the same row stand before each place. Shape: marked and result (found,)."""
        total: IntArray = np.cumsum(marked, dtype=np.int64) - marked  # over all rows so far
        return total - total[np.searchsorted(self.rows, self.rows)]

    def sums(self, weights: FloatArray64, judged: int) -> FloatArray64:
        """The weights of each row, summed. Shape: weights (found,); result (judged,)."""
        return np.bincount(self.rows, weights=weights, minlength=judged).astype(np.float64)  # int for no row at all


@dataclass(frozen=True, eq=False)
class RankedLabels:
    """What a metric may look at: the labels that a run's documents have, in the order in which it ranked them."""

    found: Placed
    """Every labelled document among the first `depth` ranks of the run, with its rank and grade."""
    ideal: Placed
    """All labels of each query, ranked from the best grade to the worst."""
    lengths: IntArray
    """How many documents the run has for each query among the first `depth`. Shape: (judged,)."""
    relevant_count: IntArray
    """How many labels of each query reach `min_grade`. Shape: (judged,)."""
    nonrelevant_count: IntArray
    """How many labels of each query are from 0 to `min_grade` - 1. Shape: (judged,)."""
    min_grade: int
    depth: int

    def __len__(self) -> int:
        return len(self.lengths)

    @cached_property
    def relevant(self) -> Placed:
        """The relevant ones among the labelled documents that were found."""
        return self.found.only(self.found.grades >= self.min_grade)


def rank_labels(run: Run, qrels: Qrels, *, min_grade: int = 1, depth: int | None = None) -> RankedLabels:
    """Find the labels of `qrels` in the rows of `run`, down to rank `depth` (None: all of them).

    The result has a row for every judged query; one that the run lacks has no document and no label found.
    """
    if min_grade < 1:
        raise ConfigError(f"min_grade {min_grade}: the smallest relevant grade is at least 1")
    counts = np.diff(qrels.offsets)
    label_rows = np.repeat(np.arange(len(qrels)), counts)
    docs = _rows_of(run, qrels.queries, depth)  # (judged, depth)
    relevant = qrels.grades >= min_grade
    return RankedLabels(
        found=_find(docs, qrels, label_rows),
        ideal=_ideal(qrels, label_rows, counts),
        lengths=_lengths(docs),
        relevant_count=np.bincount(label_rows[relevant], minlength=len(qrels)),
        nonrelevant_count=np.bincount(label_rows[~relevant & (qrels.grades >= 0)], minlength=len(qrels)),
        min_grade=min_grade,
        depth=docs.shape[1],
    )


def _rows_of(run: Run, queries: IntArray, depth: int | None) -> IntArray:
    """The run's documents for each of `queries`, `NO_DOC` throughout where the run lacks the query."""
    if np.array_equal(run.queries, queries):
        return run.docs[:, :depth]
    docs = np.full((len(queries), run.docs[:, :depth].shape[1]), NO_DOC, dtype=np.int64)
    if len(run.queries):
        row = np.minimum(np.searchsorted(run.queries, queries), len(run.queries) - 1)
        found = run.queries[row] == queries
        docs[found] = run.docs[row[found], :depth]
    return docs


def _lengths(docs: IntArray) -> IntArray:
    """How many documents each row has before it ends. Shape: docs (judged, depth); result (judged,)."""
    lengths = np.full(len(docs), docs.shape[1])
    short = (docs[:, -1:] == NO_DOC).any(axis=1)
    lengths[short] = np.count_nonzero(docs[short] != NO_DOC, axis=1)
    return lengths


def _find(docs: IntArray, qrels: Qrels, label_rows: IntArray) -> Placed:
    """Where the documents that carry a label stand. Shape: docs (judged, depth).

    A pair of row and document is one number, its key. Keys that share their last bits with a label's are looked up
    among the labels; a table that fits the processor's cache tells them from the great rest.
    """
    if not (docs.size and len(label_rows)):
        return Placed(*np.zeros((3, 0), dtype=np.int64))
    width = 2 + max(int(docs.max()), int(qrels.docs.max()))  # one more than the greatest: NO_DOC, -1, has its own keys
    label_keys = label_rows * width + qrels.docs  # ascending, since rows and the documents in a row are
    bits = min(max(len(label_keys) * _SPARSITY, 1).bit_length(), _MOST_BITS)
    suspect = np.zeros(1 << bits, dtype=np.bool_)
    suspect[label_keys & (len(suspect) - 1)] = True
    bits_of_keys = docs + np.arange(0, len(docs) * width, width)[:, None]  # (judged, depth)
    bits_of_keys &= len(suspect) - 1
    rows, columns = np.divmod(np.flatnonzero(suspect[bits_of_keys]), docs.shape[1])
    keys = rows * width + docs[rows, columns]  # (suspects,)
    at = np.searchsorted(label_keys, keys)
    at[at == len(label_keys)] = 0
    hit = label_keys[at] == keys
    return Placed(rows[hit], columns[hit] + 1, qrels.grades[at[hit]])


def _ideal(qrels: Qrels, label_rows: IntArray, counts: IntArray) -> Placed:
    """Every query's grades from best to worst."""
    top, bottom = int(qrels.grades.max(initial=0)), int(qrels.grades.min(initial=0))
    span = top - bottom + 1
    falling = np.sort(label_rows * span + (top - qrels.grades))  # by row, then from the best grade down
    ranks = np.arange(1, len(falling) + 1) - np.repeat(qrels.offsets[:-1], counts)
    return Placed(label_rows, ranks, top - falling % span)
