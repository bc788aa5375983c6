"""Whether a rewrite will help, foretold from what is known without labels: two rankings and two texts.

Query expansion helps poor rankings and harms good ones (Amati, Carpineto and Romano 2004, Query difficulty, robustness
and selective application of query expansion). Features are those of query performance prediction: how far the first
scores stand out (Cummins 2014), how even they are, how far two rankings agree (Zhou and Croft 2007), how telling the
words are. All of a query's features come from that query alone, so they can be had at run time.

The predictor is ridge regression of the gain. What dev tells about it is cross-fitted: a query's gain is predicted by a
model, and decided on by a threshold, that never saw it. Where that gain is not surely above 0, no rewrite is used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from searchtune.errors import ArtifactError, ConfigError, DataError, did_you_mean
from searchtune.metrics.significance import SAME, Estimate, bootstrap
from searchtune.types import NO_DOC, FloatArray64, IntArray, Run

BoolArray = npt.NDArray[np.bool_]
Use = Literal["never", "always", "predicted"]
TOP = 10
"""Ranks that the features look at."""
FEWEST = 10
"""Queries below which nothing is learned."""
_PERSISTENCE = 0.9
_PENALTIES = (1e4, 1e3, 1e2, 1e1, 1.0)
"""Ridge penalties that are tried, in units of a standardised feature's sum of squares over one query; the strongest of
equals is taken."""
_ROUNDS = 2000


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


class Aim(NamedTuple):
    """What a threshold is chosen for; see `AbstentionSpec`."""

    max_harmed: float | None = None
    """At most this share of the queries may become worse; None looks at the mean gain alone."""
    certainty: float = 0.9
    folds: int = 5


@dataclass(frozen=True, eq=False)
class GainPredictor:
    """A predicted gain for each query, and which rewrites are used."""

    names: tuple[str, ...]
    centre: FloatArray64
    scale: FloatArray64
    weights: FloatArray64
    """Shape: (features,) each."""
    intercept: float
    use: Use
    threshold: float
    """A rewrite is used where the predicted gain is above it; looked at only where `use` is "predicted"."""
    expected: Estimate
    """Mean gain over all dev queries under cross-fitted decisions, whether or not these are the ones in `use`."""
    share: float
    """Of the dev queries that were rewritten there."""
    harmed: float
    """Share of all dev queries that became worse there."""
    reading: str
    """What dev says, in words."""

    def predict(self, features: GainFeatures) -> FloatArray64:
        """The expected gain of each query, in the metric's unit. Shape: (queries,).

        Raises:
            ConfigError: a feature that the predictor was fitted on is not there.
        """
        own = features.only(self.names).values
        return np.asarray((own - self.centre) / self.scale @ self.weights + self.intercept, dtype=np.float64)

    def decide(self, features: GainFeatures) -> BoolArray:
        """For which queries the rewrite is used. Shape: (queries,)."""
        if self.use != "predicted":
            return np.full(len(features), self.use == "always")
        return np.asarray(self.predict(features) > self.threshold)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads; figures that dev could not give are null."""
        expected = [None if np.isnan(value) else float(value) for value in self.expected[:3]]
        return {
            "names": list(self.names),
            "centre": self.centre.tolist(),
            "scale": self.scale.tolist(),
            "weights": self.weights.tolist(),
            "intercept": self.intercept,
            "use": self.use,
            "threshold": self.threshold,
            "expected": [*expected, self.expected.n],
            "share": self.share,
            "harmed": self.harmed,
            "reading": self.reading,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> GainPredictor:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: a number is missing or none, or numbers do not fit each other.
        """
        try:
            names = tuple(str(name) for name in data["names"])
            columns = {name: np.array(data[name], dtype=np.float64) for name in ("centre", "scale", "weights")}
            mean, low, high = (np.nan if value is None else float(value) for value in data["expected"][:3])
            numbers = {name: float(data[name]) for name in ("intercept", "threshold", "share", "harmed")}
            expected = Estimate(mean, low, high, int(data["expected"][3]))
            use, reading = data["use"], str(data["reading"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"no predictor of gains: {str(data)[:200]} lacks or mistakes {error}") from error
        finite = [*numbers.values(), *np.concatenate(list(columns.values())).tolist()]
        shapes = {column.shape for column in columns.values()}
        if use not in get_args(Use) or shapes != {(len(names),)} or not np.isfinite(finite).all():
            raise ArtifactError(f"predictor of gains {str(data)[:200]}: numbers out of range; fit it again")
        if not (columns["scale"] > 0).all():
            raise ArtifactError(f"predictor of gains: scale {columns['scale'].tolist()} must be above 0; fit it again")
        return cls(names, **columns, use=use, expected=expected, reading=reading, **numbers)


def fit_gain(features: GainFeatures, gains: FloatArray64, seed: int, aim: Aim | None = None) -> GainPredictor:
    """Fit the predictor and its threshold on dev. Shape: gains (queries,), the rewrite's value less the utterance's.

    Penalty and threshold are chosen on cross-fitted predictions. How good that is, is read off decisions that are
    cross-fitted once more: each part's threshold comes from the others. Unless the mean gain of these is above 0 with
    the wished certainty, `use` is "never"; so it is with fewer than `FEWEST` queries, or where no gain differs from 0.

    Raises:
        DataError: gains that are not finite, or not one a query.
    """
    aim = aim or Aim()
    gains = np.asarray(gains, dtype=np.float64)
    if gains.shape != (len(features),) or not np.isfinite(gains).all():
        raise DataError(f"gains of shape {gains.shape} for {len(features)} queries, or not finite: score every query")
    if len(gains) < FEWEST:
        return _never(features, gains, f"{len(gains)} dev queries are too few to learn when to rewrite ({FEWEST} at least)")
    if not (np.abs(gains) > SAME).any():
        return _never(features, gains, "no rewrite changed the metric on dev, so none is used")
    parts = np.random.default_rng(seed).permutation(len(gains)) % aim.folds
    tried = {penalty: _cross_predicted(features.values, gains, parts, penalty) for penalty in _PENALTIES}
    penalty = min(_PENALTIES, key=lambda one: round(float(((tried[one] - gains) ** 2).mean()), 12))
    predicted = tried[penalty]
    used = np.zeros(len(gains), dtype=np.bool_)
    for part in np.unique(parts):
        own = parts == part
        used[own] = predicted[own] > best_threshold(predicted[~own], gains[~own], aim.max_harmed)
    threshold = best_threshold(predicted, gains, aim.max_harmed)
    return _settled(features, gains, used, (penalty, threshold), seed, aim)


def best_threshold(predicted: FloatArray64, gains: FloatArray64, max_harmed: float | None = None) -> float:
    """The threshold above which using the rewrite gives the greatest mean gain; the highest of equals.

    Infinity uses none, minus infinity all. With `max_harmed`, only thresholds under which at most that share of the
    queries loses. Queries of equal prediction are decided alike. Shape: (queries,) both.
    """
    if not len(predicted):
        return np.inf
    order = np.argsort(-predicted, kind="stable")
    falling, won = predicted[order], np.concatenate(([0.0], np.cumsum(gains[order])))
    lost = np.concatenate(([0], np.cumsum(gains[order] < -SAME))) / len(gains)
    possible = np.concatenate(([True], falling[1:] < falling[:-1], [True]))  # how many of the first are used
    if max_harmed is not None:
        possible &= lost <= max_harmed + SAME
    count = int(np.argmax(np.where(possible, np.round(won, 9), -np.inf)))
    if count == 0:
        return np.inf
    if count == len(falling):
        return -np.inf
    return float((falling[count - 1] + falling[count]) / 2)


def _settled(
    features: GainFeatures,
    gains: FloatArray64,
    used: BoolArray,
    chosen: tuple[float, float],
    seed: int,
    aim: Aim,
) -> GainPredictor:
    """The predictor on all of dev, and what the cross-fitted decisions say of it."""
    penalty, threshold = chosen
    centre, scale, weights, intercept = _ridge(features.values, gains, penalty)
    earned = np.where(used, gains, 0.0)
    sure = bootstrap(earned, seed=seed, level=2 * aim.certainty - 1, rounds=_ROUNDS)
    expected = bootstrap(earned, seed=seed, rounds=_ROUNDS)
    helps = bool(sure.low > SAME) and threshold < np.inf
    use: Use = "never" if not helps else "always" if threshold == -np.inf else "predicted"
    share, harmed = float(used.mean()), float((earned < -SAME).mean())
    words = (
        f"on {expected.n} dev queries, rewriting {share:.0%} of them where a gain is expected changes the mean by "
        f"{expected.mean:+.4f} (95% interval {expected.low:+.4f} to {expected.high:+.4f}) and harms {harmed:.0%}"
    )
    verdict = {
        "never": f"no gain that is sure at {aim.certainty:.0%}, so no rewrite is used",
        "always": "every rewrite is used",
        "predicted": "a rewrite is used where its predicted gain is above the threshold",
    }[use]
    return GainPredictor(
        features.names,
        centre,
        scale,
        weights,
        intercept,
        use,
        threshold if np.isfinite(threshold) else 0.0,
        expected,
        share,
        harmed,
        f"{words}: {verdict}",
    )


def _never(features: GainFeatures, gains: FloatArray64, reading: str) -> GainPredictor:
    """A predictor that uses no rewrite; its expected gain is what dev's mean would be, 0 throughout."""
    zeros = np.zeros(len(features.names))
    expected = bootstrap(np.zeros(len(gains)), seed=0, rounds=1)
    return GainPredictor(features.names, zeros, zeros + 1, zeros, 0.0, "never", 0.0, expected, 0.0, 0.0, reading)


def _cross_predicted(values: FloatArray64, gains: FloatArray64, parts: IntArray, penalty: float) -> FloatArray64:
    """Each query's gain as predicted by a model of the other parts. Shape: (queries,)."""
    predicted = np.zeros(len(gains))
    for part in np.unique(parts):
        own = parts == part
        centre, scale, weights, intercept = _ridge(values[~own], gains[~own], penalty)
        predicted[own] = (values[own] - centre) / scale @ weights + intercept
    return predicted


def _ridge(
    values: FloatArray64, gains: FloatArray64, penalty: float
) -> tuple[FloatArray64, FloatArray64, FloatArray64, float]:
    """Centre, scale, weights and intercept of ridge regression on standardised features; constant ones weigh nothing.

    Shape: values (queries, features) -> (features,) thrice.
    """
    centre, spread = values.mean(axis=0), values.std(axis=0)
    scale = np.where(spread > SAME, spread, 1.0)
    x = np.where(spread > SAME, (values - centre) / scale, 0.0)
    mean = float(gains.mean())
    weights = np.linalg.solve(x.T @ x + penalty * np.eye(x.shape[1]), x.T @ (gains - mean))
    return centre, scale, np.asarray(weights, dtype=np.float64), mean


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
