"""Whether a rewrite will help, foretold from what is known without labels: two rankings and two texts.

Query expansion helps poor rankings and harms good ones (Amati, Carpineto and Romano 2004, Query difficulty, robustness
and selective application of query expansion), so a rewrite is used only where a gain is expected (see `gain_features`).

The predictor is ridge regression of the gain. What dev tells about it is cross-fitted: a query's gain is predicted by a
model, and decided on by a threshold, that never saw it. Where that gain is not surely above 0, no rewrite is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from searchtune.errors import ArtifactError, DataError
from searchtune.metrics.gain_features import GainFeatures
from searchtune.metrics.significance import SAME, Estimate, mean_shift, sign_flips
from searchtune.types import FloatArray64, IntArray

BoolArray = npt.NDArray[np.bool_]
Use = Literal["never", "always", "predicted"]
FEWEST = 10
"""Queries below which nothing is learned."""
_PENALTIES = (1e4, 1e3, 1e2, 1e1, 1.0)
"""Ridge penalties that are tried, in units of a standardised feature's sum of squares over one query; the strongest of
equals is taken."""


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
            centre, scale, weights = (np.array(data[name], np.float64) for name in ("centre", "scale", "weights"))
            intercept, threshold, share, harmed = (
                float(data[name]) for name in ("intercept", "threshold", "share", "harmed")
            )
            mean, low, high = (np.nan if value is None else float(value) for value in data["expected"][:3])
            expected = Estimate(mean, low, high, int(data["expected"][3]))
            use, reading = data["use"], str(data["reading"])
        except (KeyError, TypeError, ValueError, IndexError) as error:
            raise ArtifactError(f"no predictor of gains: {str(data)[:200]} lacks or mistakes {error}") from error
        fits = {centre.shape, scale.shape, weights.shape} == {(len(names),)} and use in get_args(Use)
        numbers = [intercept, threshold, share, harmed]
        if not fits or not np.isfinite([*centre.flat, *scale.flat, *weights.flat, *numbers]).all():
            raise ArtifactError(f"predictor of gains {str(data)[:200]}: numbers out of range; fit it again")
        if not (scale > 0).all():
            raise ArtifactError(f"predictor of gains: scale {scale.tolist()} must be above 0; fit it again")
        return cls(
            names,
            centre,
            scale,
            weights,
            intercept,
            use,
            threshold,
            expected,
            share=share,
            harmed=harmed,
            reading=reading,
        )


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
        return _never(
            features, gains, f"{len(gains)} dev queries are too few to learn when to rewrite ({FEWEST} at least)"
        )
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
    (shifts,) = sign_flips(earned[:, None], seed=seed)
    sure, expected = shifts.interval(2 * (1 - aim.certainty)), shifts.interval()
    helps = bool(sure.low > SAME) and threshold < np.inf
    use: Use = "never" if not helps else "always" if threshold == -np.inf else "predicted"
    share, harmed = float(used.mean()), float((earned < -SAME).mean())
    span = f"95% interval {expected.low:+.4f} to {expected.high:+.4f}"
    words = (
        f"on {expected.n} dev queries, rewriting {share:.0%} of them where a gain is expected changes the mean by "
        f"{expected.mean:+.4f} ({'too few for an interval' if np.isnan(expected.low) else span}) and harms {harmed:.0%}"
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
    expected = mean_shift(np.zeros(len(gains)), seed=0)
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
