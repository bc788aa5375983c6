"""What is known of a rewrite before anything is judged: how two rankings lie, how far they agree, what two texts say.

These are features of query performance prediction: how far the first scores stand out (Cummins 2014), how even they
are, how far two rankings agree (Zhou and Croft 2007), how telling the words are. All of a query's features come from
that query alone, so they can be had at run time.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.types import NO_DOC, FloatArray64, IntArray, Run

TOP = 10
"""Ranks that the features look at."""
_PERSISTENCE = 0.9


@dataclass(frozen=True, eq=False)
class GainFeatures:
    """Features of queries. Shape: values (queries, names)."""

    names: tuple[str, ...]
    values: FloatArray64

    def __post_init__(self) -> None:
        if self.values.ndim != 2 or self.values.shape[1] != len(self.names):
            raise DataError(f"features of shape {self.values.shape} for {len(self.names)} names: give one column each")
        broken = np.argwhere(~np.isfinite(self.values))
        if len(broken):
            row, column = broken[0].tolist()
            raise DataError(
                f"query {row}: feature {self.names[column]!r} is {self.values[row, column]}; look for NaN or infinite "
                "scores in the rankings behind it"
            )

    def __len__(self) -> int:
        return len(self.values)

    def only(self, names: Sequence[str]) -> GainFeatures:
        """The named features, in that order; a `ConfigError` for one that is not there."""
        for name in names:
            if name not in self.names:
                raise ConfigError(f"no feature {name!r}{did_you_mean(name, self.names)}")
        return GainFeatures(tuple(names), self.values[:, [self.names.index(name) for name in names]])

    def beside(self, other: GainFeatures) -> GainFeatures:
        """These features, then others of the same queries."""
        if len(self) != len(other):
            raise DataError(f"features of {len(self)} and of {len(other)} queries cannot stand side by side")
        return GainFeatures((*self.names, *other.names), np.concatenate([self.values, other.values], axis=1))


def run_features(original: Run, rewritten: Run) -> GainFeatures:
    """What two rankings of the same queries tell, the utterances' and the rewrites'.

    Of each: `margin` (first over second score) and `margin_10` (first over tenth) as shares of the first score's size,
    `entropy` of the first ten scores (of their softmax in standard deviations, as a share of the greatest possible) and
    `found` (share of ten places filled). Of both: see `agreement`; and `score_rise`, by how much the first score grew,
    in units of both sizes.

    Raises:
        DataError: rankings of different queries.
    """
    _check_same_queries(original, rewritten)
    columns: dict[str, FloatArray64] = {}
    for name, run in (("original", original), ("rewritten", rewritten)):
        columns |= {f"{name}_{what}": values for what, values in _shape_of(run).items()}
    first, second = _first_scores(original), _first_scores(rewritten)
    columns["score_rise"] = _share(second - first, np.abs(first) + np.abs(second))
    columns |= {f"runs_{what}": values for what, values in agreement(original, rewritten).items()}
    return _features(columns)


def retriever_features(original: Run, other: Run) -> GainFeatures:
    """How far two retrievers agree on the utterance: where they do, there is little to mend.

    Raises:
        DataError: rankings of different queries.
    """
    _check_same_queries(original, other)
    return _features({f"retrievers_{what}": values for what, values in agreement(original, other).items()})


def text_features(
    queries: Sequence[Sequence[str]], rewrites: Sequence[Sequence[str]], idf: Mapping[str, float]
) -> GainFeatures:
    """What the words of utterances and rewrites tell; `idf` is that of the corpus, whose words it holds.

    `query_words` and `rewrite_words` are ln(1 + count), `kept` the share of the query's words that the rewrite has,
    `new` the share of the rewrite's words that the query has not, `new_known` the share of those that the corpus has,
    and `query_idf` and `new_idf` mean idf over the greatest there is.

    Raises:
        DataError: not one rewrite a query.
    """
    if len(queries) != len(rewrites):
        raise DataError(f"{len(queries)} queries and {len(rewrites)} rewrites: give one rewrite each")
    highest = max(idf.values(), default=1.0)
    rows = [_words_row(query, rewrite, idf, highest) for query, rewrite in zip(queries, rewrites, strict=True)]
    names = ("query_words", "rewrite_words", "kept", "new", "new_known", "query_idf", "new_idf")
    return GainFeatures(names, np.array(rows, dtype=np.float64).reshape(len(rows), len(names)))


def agreement(first: Run, second: Run, *, top: int = TOP) -> dict[str, FloatArray64]:
    """How far the first `top` ranks of two runs agree, 0 to 1 each.

    `jaccard` of the sets; `rbo`, rank-biased overlap (Webber, Moffat and Zobel 2010) with p = .9 cut at `top` and
    divided by its greatest value there; `first`, 1 / rank that the first run's first document has in the second.
    Where both found nothing they agree; where one did, they do not. Shape: (queries,) each.
    """
    a, b = _top_docs(first, top), _top_docs(second, top)  # (queries, top)
    same = (a[:, :, None] == b[:, None, :]) & (a != NO_DOC)[:, :, None]  # (queries, top, top)
    counts = [(docs != NO_DOC).cumsum(axis=1) for docs in (a, b)]
    common = np.array([same[:, :k, :k].sum(axis=(1, 2)) for k in range(1, top + 1)]).T  # (queries, top)
    either = counts[0][:, -1] + counts[1][:, -1] - common[:, -1]
    nothing = either == 0
    longer = np.maximum(np.maximum(*counts), 1)
    weights = _PERSISTENCE ** np.arange(top)
    ranks = np.where(same[:, 0].any(axis=1), same[:, 0].argmax(axis=1) + 1, np.inf)
    return {
        "jaccard": np.where(nothing, 1.0, common[:, -1] / np.maximum(either, 1)),
        "rbo": np.where(nothing, 1.0, (common / longer) @ weights / weights.sum()),
        "first": np.where(nothing, 1.0, 1 / ranks),
    }


def _shape_of(run: Run) -> dict[str, FloatArray64]:
    """How the first ten scores of each query lie. Shape: (queries,) each."""
    docs, scores = _top_docs(run, TOP), _top_scores(run)
    found = docs != NO_DOC
    counts = found.sum(axis=1)
    first = np.where(counts > 0, scores[:, 0], 0.0)
    second = np.where(counts > 1, scores[:, 1], 0.0)
    last = np.where(counts > 0, scores[np.arange(len(scores)), np.maximum(counts - 1, 0)], 0.0)
    mean = np.where(found, scores, 0.0).sum(axis=1) / np.maximum(counts, 1)
    spread = np.sqrt((np.where(found, scores - mean[:, None], 0.0) ** 2).sum(axis=1) / np.maximum(counts, 1))
    standard = np.where(found, _share(scores - mean[:, None], np.broadcast_to(spread[:, None], scores.shape)), -np.inf)
    shares = np.where(found, np.exp(np.where(found, standard, 0.0)), 0.0)
    shares = _share(shares, np.broadcast_to(shares.sum(axis=1, keepdims=True), shares.shape))
    entropy = -(shares * np.log(np.where(shares > 0, shares, 1.0))).sum(axis=1)
    return {
        "margin": _share(first - second, np.abs(first)),
        f"margin_{TOP}": _share(first - last, np.abs(first)),
        "entropy": _share(entropy, np.log(np.maximum(counts, 1))),
        "found": counts / TOP,
    }


def _words_row(query: Sequence[str], rewrite: Sequence[str], idf: Mapping[str, float], highest: float) -> list[float]:
    own, fresh = set(query), set(rewrite) - set(query)
    known = [idf[word] for word in fresh if word in idf]
    of_query = [idf[word] for word in own if word in idf]
    return [
        float(np.log1p(len(query))),
        float(np.log1p(len(rewrite))),
        len(own & set(rewrite)) / len(own) if own else 1.0,
        len(fresh) / len(set(rewrite)) if rewrite else 0.0,
        len(known) / len(fresh) if fresh else 1.0,
        float(np.mean(of_query)) / highest if of_query else 0.0,
        float(np.mean(known)) / highest if known else 0.0,
    ]


def _features(columns: Mapping[str, FloatArray64]) -> GainFeatures:
    return GainFeatures(tuple(columns), np.stack(list(columns.values()), axis=1).astype(np.float64))


def _check_same_queries(first: Run, second: Run) -> None:
    if not np.array_equal(first.queries, second.queries):
        raise DataError(
            f"rankings of {len(first.queries)} and of {len(second.queries)} queries that are not the same: rank the "
            "same queries with both"
        )


def _top_docs(run: Run, top: int) -> IntArray:
    """The first `top` documents, `NO_DOC` where there are fewer. Shape: (queries, top)."""
    return np.pad(run.docs[:, :top], ((0, 0), (0, max(0, top - run.depth))), constant_values=NO_DOC)


def _top_scores(run: Run) -> FloatArray64:
    """The first ten scores, 0 where there is no document. Shape: (queries, 10)."""
    scores = np.pad(run.scores[:, :TOP].astype(np.float64), ((0, 0), (0, max(0, TOP - run.depth))))
    return np.where(_top_docs(run, TOP) == NO_DOC, 0.0, scores)


def _first_scores(run: Run) -> FloatArray64:
    return _top_scores(run)[:, 0]


def _share(part: FloatArray64, whole: FloatArray64) -> FloatArray64:
    """`part / whole`, 0 where the whole is no more than rounding."""
    real = np.abs(whole) > 1e-12
    return np.asarray(np.where(real, part / np.where(real, whole, 1.0), 0.0), dtype=np.float64)
