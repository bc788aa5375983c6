"""Ranking metrics as array code, equal to trec_eval to 1e-6.

A metric is a name, a cutoff and a pure function over `RankedLabels`: the labels of each judged query's documents, laid
out in rank order. A new metric is one function and one line in `METRICS`.

One rule is stricter than trec_eval's default: a judged query that the run lacks scores 0 (its option -c).

This module does not know ids, files or how a run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError, did_you_mean
from searchtune.types import NO_DOC, FloatArray64, IntArray, Qrels, Run

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class RankedLabels:
    """What a metric may look at: the labels of each judged query, in the order in which a run ranked its documents.

    Shape: grades, labelled and filled (judged, depth); ideal (judged, most labels); relevant_count (judged,).
    """

    grades: IntArray
    """Grade at each rank; 0 where the document has no label or the row has ended."""
    labelled: BoolArray
    """Whether somebody judged the document at this rank."""
    filled: BoolArray
    """Whether there is a document at this rank."""
    ideal: IntArray
    """All grades of the query, best first, padded with 0."""
    relevant_count: IntArray
    """How many labels of the query reach `min_grade`."""
    min_grade: int

    @property
    def relevant(self) -> BoolArray:
        """Whether the document at each rank is relevant. Shape: (judged, depth)."""
        return self.labelled & (self.grades >= self.min_grade)


class Metric(NamedTuple):
    """A metric as a value: `Metric("ndcg", 10)` is `ndcg@10`; a cutoff of None looks at the whole run."""

    name: str
    cutoff: int | None = None

    def __str__(self) -> str:
        return self.name if self.cutoff is None else f"{self.name}@{self.cutoff}"

    def __call__(self, labels: RankedLabels) -> FloatArray64:
        """One value per judged query. Shape: (judged,)."""
        return METRICS[self.name](labels, self.cutoff)


def score(run: Run, qrels: Qrels, metrics: Sequence[str], *, min_grade: int = 1) -> dict[str, FloatArray64]:
    """Score every judged query of `qrels`, in its order. Shape of each value: (judged,).

    `ndcg` uses graded labels; all others call a document relevant from `min_grade` on (trec_eval's relevance level).
    A judged query that the run lacks, or that has no relevant document, scores 0.
    """
    if min_grade < 1:
        raise ConfigError(f"min_grade {min_grade}: the smallest relevant grade is at least 1")
    parsed = {text: parse_metric(text) for text in metrics}
    labels = rank_labels(run, qrels, min_grade=min_grade)
    return {text: metric(labels) for text, metric in parsed.items()}


def parse_metric(name: str) -> Metric:
    """Read `ndcg@10`, `recall@100` or `map`; a `ConfigError` says what is wrong and what is near."""
    base, at, cutoff = name.strip().lower().partition("@")
    if base not in METRICS:
        raise ConfigError(f"unknown metric {name!r}{did_you_mean(base, METRICS)}")
    if not at:
        if base in NEEDS_CUTOFF:
            raise ConfigError(f"metric {name!r} needs a cutoff, for instance {base}@10")
        return Metric(base)
    if not (cutoff.isascii() and cutoff.isdigit() and int(cutoff) > 0):
        raise ConfigError(f"metric {name!r}: the cutoff must be a whole number above 0, for instance {base}@10")
    return Metric(base, int(cutoff))


def rank_labels(run: Run, qrels: Qrels, *, min_grade: int = 1) -> RankedLabels:
    """Lay out the labels of `qrels` in the order of `run`: one row per judged query, empty where the run lacks it."""
    docs = _rows_of(run, qrels.queries)  # (judged, depth)
    width = 1 + max(int(docs.max(initial=NO_DOC)), int(qrels.docs.max(initial=NO_DOC)))
    keys = np.arange(len(qrels))[:, None] * width + docs
    label_rows = np.repeat(np.arange(len(qrels)), np.diff(qrels.offsets))
    label_keys = label_rows * width + qrels.docs  # ascending, since rows and the documents in a row are

    filled = docs != NO_DOC
    if len(label_keys):
        place = np.minimum(np.searchsorted(label_keys, keys), len(label_keys) - 1)
        labelled = filled & (label_keys[place] == keys)
        grades = np.where(labelled, qrels.grades[place], 0)
    else:
        labelled, grades = np.zeros_like(filled), np.zeros_like(docs)
    relevant_count = np.bincount(label_rows[qrels.grades >= min_grade], minlength=len(qrels))
    return RankedLabels(grades, labelled, filled, _ideal(qrels, label_rows), relevant_count, min_grade)


def _rows_of(run: Run, queries: IntArray) -> IntArray:
    """The run's documents for each of `queries`, `NO_DOC` throughout where the run lacks the query."""
    docs = np.full((len(queries), run.depth), NO_DOC, dtype=np.int64)
    if len(run.queries):
        row = np.minimum(np.searchsorted(run.queries, queries), len(run.queries) - 1)
        found = run.queries[row] == queries
        docs[found] = run.docs[row[found]]
    return docs


def _ideal(qrels: Qrels, label_rows: IntArray) -> IntArray:
    """Every query's grades from best to worst, padded with 0. Shape: (judged, most labels)."""
    counts = np.diff(qrels.offsets)
    ideal = np.zeros((len(qrels), int(counts.max(initial=0))), dtype=np.int64)
    order = np.lexsort((-qrels.grades, label_rows))
    column = np.arange(len(order)) - np.repeat(qrels.offsets[:-1], counts)
    ideal[label_rows, column] = qrels.grades[order]
    return ideal


def _ndcg(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Normalised discounted cumulative gain with linear gains (Järvelin & Kekäläinen 2002), as trec_eval's ndcg_cut."""
    return _divide(_dcg(labels.grades[:, :cutoff]), _dcg(labels.ideal[:, :cutoff]))


def _dcg(grades: IntArray) -> FloatArray64:
    """Sum of grade / log2(rank + 1); negative grades gain nothing."""
    discounts = 1 / np.log2(np.arange(2, grades.shape[1] + 2))
    return np.asarray(np.maximum(grades, 0) @ discounts, dtype=np.float64)


def _recall(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the relevant documents that the first `cutoff` ranks hold."""
    return _divide(_count(labels.relevant[:, :cutoff]), labels.relevant_count)


def _precision(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the first `cutoff` ranks that hold a relevant document; empty ranks count as not relevant."""
    depth = labels.grades.shape[1] if cutoff is None else cutoff
    return np.asarray(_count(labels.relevant[:, :cutoff]) / max(depth, 1), dtype=np.float64)


def _hit(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """1 where the first `cutoff` ranks hold any relevant document, otherwise 0 (trec_eval's success)."""
    return np.minimum(_count(labels.relevant[:, :cutoff]), 1)


def _mrr(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """1 / rank of the first relevant document among the first `cutoff`, 0 where there is none."""
    relevant = labels.relevant[:, :cutoff]
    reciprocal_ranks = relevant / np.arange(1, relevant.shape[1] + 1)
    return np.asarray(reciprocal_ranks.max(axis=1, initial=0.0), dtype=np.float64)


def _average_precision(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Precision at each relevant document among the first `cutoff`, summed over all relevant (trec_eval's map_cut)."""
    relevant = labels.relevant[:, :cutoff]
    precision = np.cumsum(relevant, axis=1) / np.arange(1, relevant.shape[1] + 1)
    return _divide((precision * relevant).sum(axis=1), labels.relevant_count)


def _count(marked: BoolArray) -> FloatArray64:
    """How many places of each row are marked. Shape: (judged,)."""
    return np.asarray(marked.sum(axis=1), dtype=np.float64)


def _divide(part: FloatArray64, whole: FloatArray64 | IntArray) -> FloatArray64:
    """`part / whole`, 0 where `whole` is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


METRICS: dict[str, Callable[[RankedLabels, int | None], FloatArray64]] = {
    "ndcg": _ndcg,
    "recall": _recall,
    "precision": _precision,
    "mrr": _mrr,
    "map": _average_precision,
    "hit": _hit,
}
"""Every metric by its name."""

NEEDS_CUTOFF = frozenset({"recall", "precision", "hit"})
"""Metrics that say nothing without a cutoff."""
