"""Ranking metrics as array code, equal to trec_eval to 1e-6.

A metric is a name, a cutoff and a pure function over `RankedLabels`: the labelled documents of each judged query with
their ranks. A new metric is one function and one line in `METRICS`.

One rule is stricter than trec_eval's default: a judged query that the run lacks scores 0 (its option -c).

This module does not know ids, files or how a run was made.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from searchtune.errors import ConfigError, did_you_mean
from searchtune.metrics.labels import Placed, RankedLabels, rank_labels
from searchtune.types import FloatArray64, IntArray, Qrels, Run


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

    `ndcg` and `ndcg_exp` use graded labels, `judged` any label; all others call a document relevant from `min_grade`
    on (trec_eval's relevance level). A judged query that the run lacks, or that has no relevant document, scores 0.
    Only the ranks that the largest cutoff reaches are looked at.
    """
    parsed = {text: parse_metric(text) for text in metrics}
    cutoffs = [metric.cutoff for metric in parsed.values()]
    depth = max((cutoff for cutoff in cutoffs if cutoff is not None), default=0) if None not in cutoffs else None
    labels = rank_labels(run, qrels, min_grade=min_grade, depth=depth)
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
    if base in NO_CUTOFF:
        raise ConfigError(f"metric {name!r}: {base} looks at the whole run, write {base} alone")
    if not (cutoff.isascii() and cutoff.isdigit() and int(cutoff) > 0):
        raise ConfigError(f"metric {name!r}: the cutoff must be a whole number above 0, for instance {base}@10")
    return Metric(base, int(cutoff))


def _linear_gain(grades: IntArray) -> FloatArray64:
    return np.maximum(grades, 0).astype(np.float64)


def _exponential_gain(grades: IntArray) -> FloatArray64:
    return np.exp2(_linear_gain(grades)) - 1


def _ndcg(
    labels: RankedLabels, cutoff: int | None, gain: Callable[[IntArray], FloatArray64] = _linear_gain
) -> FloatArray64:
    """Normalised discounted cumulative gain: `ndcg` with gain = grade (Järvelin & Kekäläinen 2002, TOIS 20:422), as
    trec_eval's ndcg_cut; `ndcg_exp` with gain = 2^grade - 1 (Burges et al. 2005, ICML). Negative grades gain nothing.
    """
    judged = len(labels)

    def dcg(placed: Placed) -> FloatArray64:
        return placed.sums(gain(placed.grades) / np.log2(placed.ranks + 1), judged)

    return _divide(dcg(labels.found.until(cutoff)), dcg(labels.ideal.until(cutoff)))


def _recall(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the relevant documents that the first `cutoff` ranks hold."""
    return _divide(_count(labels, cutoff), labels.relevant_count)


def _precision(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the first `cutoff` ranks that hold a relevant document; empty ranks count as not relevant."""
    return _count(labels, cutoff) / max(labels.depth if cutoff is None else cutoff, 1)


def _hit(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """1 where the first `cutoff` ranks hold any relevant document, otherwise 0 (trec_eval's success)."""
    return np.minimum(_count(labels, cutoff), 1)


def _mrr(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """1 / rank of the first relevant document among the first `cutoff`, 0 where there is none."""
    relevant = labels.relevant.until(cutoff)
    values = np.zeros(len(labels))
    rows, first = np.unique(relevant.rows, return_index=True)
    values[rows] = 1 / relevant.ranks[first]
    return values


def _average_precision(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Precision at each relevant document among the first `cutoff`, summed over all relevant (trec_eval's map_cut)."""
    relevant = labels.relevant.until(cutoff)
    so_far = relevant.before(np.ones(len(relevant.rows), dtype=np.bool_)) + 1
    return _divide(relevant.sums(so_far / relevant.ranks, len(labels)), labels.relevant_count)


def _r_precision(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Precision at rank R, where R is how many relevant documents the query has (trec_eval's Rprec)."""
    relevant = labels.relevant.until(cutoff)
    within = (relevant.ranks <= labels.relevant_count[relevant.rows]).astype(np.float64)
    return _divide(relevant.sums(within, len(labels)), labels.relevant_count)


def _bpref(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the judged non-relevant documents that each relevant one stands above (Buckley & Voorhees 2004, SIGIR).

    For each relevant document 1 - min(N, R) / min(all N, R), summed over R: N counts judged non-relevant documents
    above it, R the query's relevant ones. As in trec_eval, a negative grade says "in the pool, not judged": such a
    document is passed over, as one without any label is.
    """
    judged = labels.found.until(cutoff)
    judged = judged.only(judged.grades >= 0)
    relevant = judged.grades >= labels.min_grade
    above = judged.before(~relevant)[relevant]
    judged = judged.only(relevant)
    bound = labels.relevant_count[judged.rows]
    most = np.minimum(labels.nonrelevant_count[judged.rows], bound)
    kept = 1 - _divide(np.minimum(above, bound).astype(np.float64), most)
    return _divide(judged.sums(kept, len(labels)), labels.relevant_count)


def _judged(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """Share of the documents at the first `cutoff` ranks that have a label, whatever its grade; 0 without documents.

    A row that ends early is divided by its own length, as in ir_measures' Judged.
    """
    found = labels.found.until(cutoff)
    lengths = labels.lengths if cutoff is None else np.minimum(labels.lengths, cutoff)
    return _divide(found.sums(np.ones(len(found.rows)), len(labels)), lengths)


def _rank_biased_precision(labels: RankedLabels, cutoff: int | None, persistence: float = 0.8) -> FloatArray64:
    """(1 - p) x sum of p^(rank - 1) over the relevant documents (Moffat & Zobel 2008, TOIS 27:2), p = `persistence`:
    the chance that a reader goes on to the next document. Documents without a label count as not relevant.
    """
    relevant = labels.relevant.until(cutoff)
    weights: FloatArray64 = (1 - persistence) * np.power(persistence, relevant.ranks - 1, dtype=np.float64)
    return relevant.sums(weights, len(labels))


def _count(labels: RankedLabels, cutoff: int | None) -> FloatArray64:
    """How many relevant documents the first `cutoff` ranks of each row hold. Shape: (judged,)."""
    return np.bincount(labels.relevant.until(cutoff).rows, minlength=len(labels)).astype(np.float64)


def _divide(part: FloatArray64, whole: FloatArray64 | IntArray) -> FloatArray64:
    """`part / whole`, 0 where `whole` is 0."""
    return np.asarray(np.divide(part, whole, out=np.zeros_like(part), where=whole > 0))


METRICS: dict[str, Callable[[RankedLabels, int | None], FloatArray64]] = {
    "ndcg": _ndcg,
    "ndcg_exp": partial(_ndcg, gain=_exponential_gain),
    "recall": _recall,
    "precision": _precision,
    "mrr": _mrr,
    "map": _average_precision,
    "hit": _hit,
    "rprec": _r_precision,
    "bpref": _bpref,
    "judged": _judged,
    "rbp": _rank_biased_precision,
    "rbp.5": partial(_rank_biased_precision, persistence=0.5),
    "rbp.95": partial(_rank_biased_precision, persistence=0.95),
}
"""Every metric by its name. `rbp` has persistence .8; `rbp.5` and `rbp.95` are the others of its paper."""

NEEDS_CUTOFF = frozenset({"recall", "precision", "hit", "judged"})
"""Metrics that say nothing without a cutoff."""
NO_CUTOFF = frozenset({"rprec", "bpref"})
"""Metrics that are defined on the whole run only."""
