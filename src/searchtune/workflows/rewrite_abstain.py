"""When to use a rewrite and when to leave the utterance: fitted on dev, applied at run time, and what it comes to.

A rewrite is searched beside the utterance, and the predictor looks at both rankings and both texts. What it learned
holds for one retriever, one mode and one rewriter; `Abstention` remembers which retriever and mode.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.data.candidates import word_idf
from searchtune.errors import DataError, did_you_mean
from searchtune.metrics.gain_features import GainFeatures, retriever_features
from searchtune.metrics.gain_prediction import Aim, fit_gain
from searchtune.metrics.significance import SAME, Estimate, mean_shift, paired_randomisation
from searchtune.retrieval.choice import choose
from searchtune.retrieval.gain_rule import changed_rows, rewrite_features
from searchtune.specs.reward import AbstentionSpec
from searchtune.storage.fingerprint import sha256_json
from searchtune.types import FloatArray64, IntArray, Qrels, Run
from searchtune.workflows.rewrite_rule import Abstention
from searchtune.workflows.rewrite_search import OpenRetrieval, RewriteSearch

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class Looked:
    """Utterances and rewrites as they were searched. Row `i` of all is one query."""

    utterances: list[str]
    rewrites: list[str]
    original: Run
    rewritten: Run
    features: GainFeatures

    @property
    def changed(self) -> BoolArray:
        """Where the rewrite says something else than the utterance. Shape: (queries,)."""
        return changed_rows(self.utterances, self.rewrites)


@dataclass(frozen=True, eq=False)
class RewriteWatch:
    """Searches for utterances and rewrites and notes what can be known of them without labels."""

    search: RewriteSearch
    other: OpenRetrieval | None = None
    """A second retriever, whose agreement with the first on the utterance becomes a feature."""

    def look(self, utterances: Sequence[str], rewrites: Sequence[str], queries: IntArray | None = None) -> Looked:
        """Search both; an empty rewrite means the utterance. `queries` are positions in the collection, where known."""
        asked = [" ".join(text.split()) for text in utterances]
        new = [" ".join(text.split()) or old for text, old in zip(rewrites, asked, strict=True)]
        original = self.search.original(queries, asked)
        rewritten = self.search.rewritten(queries, asked, new, original)
        features = rewrite_features(asked, new, original, rewritten, self._idf)
        if self.other is not None:
            second = RewriteSearch(self.search.collection, self.other, "replace", self.search.depth)
            features = features.beside(retriever_features(original, second.original(queries, asked)))
        return Looked(asked, new, original, rewritten, features)

    @cached_property
    def _idf(self) -> Mapping[str, float]:
        return word_idf(self.search.collection.documents)

    @property
    def identity(self) -> dict[str, Any]:
        """What predictions depend on beside rewriter and collection, as plain JSON."""
        return {
            "retriever": sha256_json(dict(self.search.opened.identity)),
            "other": None if self.other is None else sha256_json(dict(self.other.identity)),
            "mode": self.search.mode,
        }


@dataclass(frozen=True, eq=False)
class RewriteEffect:
    """What rewriting does to each judged query of a split. Shape: (queries,) each."""

    metric: str
    queries: IntArray
    """Positions in the collection."""
    original: FloatArray64
    """The metric of the utterance."""
    rewritten: FloatArray64
    """Of the rewrite."""
    used: BoolArray
    """Where the rewrite is used; without abstention, where it is not the utterance."""
    run: Run
    """The rankings that users get."""
    seed: int = 13

    @property
    def values(self) -> FloatArray64:
        """The metric of what users get."""
        return np.where(self.used, self.rewritten, self.original)

    @property
    def gains(self) -> FloatArray64:
        """What users gain on the utterance."""
        return self.values - self.original

    def figures(self) -> dict[str, Any]:
        """Plain values: `share` rewritten, `mean` of the utterances, `gain` on all and `gain_used` on those rewritten
        with their 95% intervals, `p` (paired randomisation), shares `better` and `harmed`, `mean_harm` of the harmed,
        and `gain_without_abstention`.
        """
        gains = self.gains
        return {
            "queries": len(gains),
            "share": float(self.used.mean()) if len(gains) else 0.0,
            "mean": float(self.original.mean()) if len(gains) else float("nan"),
            "gain": mean_shift(gains, seed=self.seed),
            "gain_used": mean_shift(gains[self.used], seed=self.seed),
            "gain_without_abstention": mean_shift(self.rewritten - self.original, seed=self.seed),
            "p": paired_randomisation(self.original, self.values, seed=self.seed),
            "better": float((gains > SAME).mean()) if len(gains) else 0.0,
            "harmed": float((gains < -SAME).mean()) if len(gains) else 0.0,
            "mean_harm": float(gains[gains < -SAME].mean()) if (gains < -SAME).any() else 0.0,
        }

    def lines(self) -> list[str]:
        """The same in words."""
        if not len(self.queries):
            return ["no query was searched"]
        found = self.figures()
        return [
            f"{found['share']:.0%} of {found['queries']:,} queries are rewritten",
            f"{self.metric} {found['mean']:.4f} as they are; gain on all {_words(found['gain'])}, p {found['p']:.3f}",
            f"gain on those rewritten {_words(found['gain_used'])}",
            f"gain if all were rewritten {_words(found['gain_without_abstention'])}",
            f"{found['better']:.0%} become better, {found['harmed']:.0%} worse, those by {found['mean_harm']:.4f}",
        ]


def fit_abstention(
    watch: RewriteWatch,
    rewrites: Sequence[str],
    *,
    metric: str,
    split: str = "dev",
    utterances: Sequence[str] | None = None,
    spec: AbstentionSpec | None = None,
) -> Abstention:
    """Learn on a split when its rewrites help. One rewrite (and utterance) for each judged query, in its order.

    Raises:
        DataError: there is no such split, or not one rewrite a query.
        ConfigError: the spec names a feature that there is not.
    """
    spec = spec or AbstentionSpec()
    qrels, asked = _judged(watch, split, rewrites, utterances)
    looked = watch.look(asked, rewrites, qrels.queries)
    rows = np.arange(len(qrels))
    before, after = (watch.search.scores(run, qrels, rows, metric) for run in (looked.original, looked.rewritten))
    features = looked.features if spec.features is None else looked.features.only(spec.features)
    aim = Aim(spec.max_harmed if spec.aim == "harm" else None, spec.certainty, spec.folds)
    return Abstention(fit_gain(features, after - before, spec.seed, aim), watch.identity)


def measure_rewriting(
    watch: RewriteWatch,
    rewrites: Sequence[str],
    *,
    metric: str,
    split: str = "test",
    utterances: Sequence[str] | None = None,
    abstention: Abstention | None = None,
    seed: int = 13,
) -> RewriteEffect:
    """Search utterances and rewrites of a split and score both, and what abstention makes of them.

    Raises:
        DataError: there is no such split, or not one rewrite a query.
        ConfigError: abstention was fitted for another search.
    """
    qrels, asked = _judged(watch, split, rewrites, utterances)
    looked = watch.look(asked, rewrites, qrels.queries)
    rows = np.arange(len(qrels))
    before, after = (watch.search.scores(run, qrels, rows, metric) for run in (looked.original, looked.rewritten))
    used = looked.changed if abstention is None else abstention.decide(watch, looked)
    run = choose(looked.original, looked.rewritten, used)
    named = Run(qrels.queries, run.docs, run.scores)
    return RewriteEffect(metric, qrels.queries, before, after, used, named, seed)


def _judged(
    watch: RewriteWatch, split: str, rewrites: Sequence[str], utterances: Sequence[str] | None
) -> tuple[Qrels, list[str]]:
    """Labels and utterances of a split, with one rewrite each."""
    collection = watch.search.collection
    if split not in collection.qrels:
        raise DataError(f"{collection.name} has no split {split!r}{did_you_mean(split, collection.qrels)}")
    qrels = collection.qrels[split]
    asked = [collection.query_texts[int(query)] for query in qrels.queries] if utterances is None else list(utterances)
    if not len(rewrites) == len(asked) == len(qrels):
        raise DataError(
            f"{collection.name} {split}: {len(rewrites)} rewrites and {len(asked)} utterances for {len(qrels)} judged "
            "queries; give one each, in the order of the split's queries"
        )
    return qrels, asked


def _words(estimate: Estimate) -> str:
    if np.isnan(estimate.mean):
        return "unknown, since there are none"
    if np.isnan(estimate.low):
        return f"{estimate.mean:+.4f} ({estimate.n} {'query has' if estimate.n == 1 else 'queries have'} no interval)"
    return f"{estimate.mean:+.4f} (95% interval {estimate.low:+.4f} to {estimate.high:+.4f})"
