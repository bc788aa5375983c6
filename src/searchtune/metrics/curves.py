"""Curves over a whole run: recall by rank, and precision by recall."""

from __future__ import annotations

import numpy as np

from searchtune.metrics.labels import RankedLabels, rank_labels
from searchtune.types import FloatArray64, Qrels, Run

CURVE_DEPTH = 100
"""Deepest rank of the recall curve."""
RECALL_LEVELS = tuple(step / 10 for step in range(11))
"""Where the precision-recall curve is read: trec_eval's eleven points."""


def recall_curve(run: Run, qrels: Qrels, min_grade: int = 1) -> list[float]:
    """Mean recall at rank 1, 2, ..., up to the run's depth or `CURVE_DEPTH`.

    A judged query without a relevant document, or that the run lacks, counts 0, as in `recall@k`.
    """
    labels = rank_labels(run, qrels, min_grade=min_grade, depth=CURVE_DEPTH)
    hits = labels.relevant
    shares = 1 / np.maximum(labels.relevant_count, 1)[hits.rows]  # of its query
    depth = min(run.depth, CURVE_DEPTH)
    added = np.bincount(hits.ranks - 1, weights=shares, minlength=depth)  # (depth,)
    return [round(float(share), 6) for share in np.cumsum(added) / max(1, len(qrels))]


def precision_curve(run: Run, qrels: Qrels, min_grade: int = 1) -> list[float]:
    """Mean interpolated precision at each of `RECALL_LEVELS`, over the whole run.

    A judged query without a relevant document, or that the run lacks, counts 0.
    """
    values = interpolated_precision(rank_labels(run, qrels, min_grade=min_grade))
    return [round(float(mean), 6) for mean in values.sum(axis=0) / max(1, len(qrels))]


def interpolated_precision(labels: RankedLabels) -> FloatArray64:
    """Per query, the best precision at any rank that reaches a share of its relevant documents, for every share.

    trec_eval's iprec_at_recall (Manning et al. 2008, Introduction to Information Retrieval, ch. 8.4): 0 where the run
    never reaches the share. Shape: (judged, levels).
    """
    hits = labels.relevant
    values = np.zeros((len(labels), len(RECALL_LEVELS)))
    if not len(hits.rows):
        return values
    place = hits.before(np.ones(len(hits.rows), dtype=np.bool_))  # of a hit among its row's
    precision = (place + 1) / hits.ranks
    # The best of what follows in the same row: rows are set apart by whole numbers, higher ones first.
    lifted = precision - 2.0 * hits.rows
    best = np.maximum.accumulate(lifted[::-1])[::-1] + 2.0 * hits.rows
    starts = np.searchsorted(hits.rows, np.arange(len(labels)))  # (judged,)
    counts = np.bincount(hits.rows, minlength=len(labels))
    for level, share in enumerate(RECALL_LEVELS):
        needed = np.maximum(np.floor(share * labels.relevant_count + 0.9).astype(np.int64), 1)  # trec_eval's rounding
        reached = np.flatnonzero(counts >= needed)
        values[reached, level] = best[starts[reached] + needed[reached] - 1]
    return values
