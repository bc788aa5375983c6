"""From a reranker's scores to probabilities of relevance, and how far such probabilities can be believed.

A calibration is fitted on labelled pairs, keeps the order of scores (it never falls as the score rises), and is a few
numbers in JSON. Everything here takes flat arrays: one entry for each labelled query-document pair.

Targets of the two logistic fits are Platt's: (r + 1) / (r + 2) for the r relevant pairs, 1 / (w + 2) for the w others
(Platt 1999, Probabilistic outputs for support vector machines). They keep every fit finite: pairs that are all
relevant, or none, or parted cleanly by their scores, give probabilities near 1 and 0, the nearer the more pairs there
are. Scores that are NaN or infinite are an error when fitting.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from searchtune.errors import ArtifactError, ConfigError, DataError, did_you_mean
from searchtune.types import FloatArray64, IntArray

Kind = Literal["temperature", "platt", "isotonic"]
"""sigmoid(scale x score); sigmoid(scale x score + bias); a rising line through averages of neighbouring pairs."""
BoolArray = npt.NDArray[np.bool_]
Numbers = npt.NDArray[np.floating[Any]]

_PARAMS: Mapping[Kind, tuple[str, ...]] = {
    "temperature": ("scale",),
    "platt": ("scale", "bias"),
    "isotonic": ("scores", "probabilities"),
}
_NEWTON_STEPS = 100
_CLOSE_ENOUGH = 1e-10
_SURE = 1e-12
"""No probability counts as nearer than this to 0 or 1 when its logarithm is taken."""


@dataclass(frozen=True)
class Calibration:
    """A rising function from scores to probabilities; equal where kind and numbers are."""

    kind: Kind
    params: Mapping[str, tuple[float, ...]]
    """By name: one `scale` (and one `bias`), or `scores` that rise with their `probabilities`."""

    def __call__(self, scores: Numbers) -> FloatArray64:
        """Probabilities of relevance; NaN stays NaN, and an infinite score takes the limit. Shape: any, kept."""
        values = np.asarray(scores, dtype=np.float64)
        if self.kind == "isotonic":
            return np.asarray(np.interp(values, self.params["scores"], self.params["probabilities"]), np.float64)
        scale, bias = self.params["scale"][0], self.params.get("bias", (0.0,))[0]
        if not scale:  # 0 x infinity is NaN
            values = np.where(np.isinf(values), 0.0, values)
        return _sigmoid(scale * values + bias)

    def to_json(self) -> dict[str, Any]:
        """What `from_json` reads."""
        return {"kind": self.kind, "params": {name: list(values) for name, values in self.params.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Calibration:
        """Read what `to_json` gave.

        Raises:
            ArtifactError: an unknown kind, or numbers that do not make a rising function.
        """
        if data.get("kind") not in get_args(Kind):
            known = did_you_mean(str(data.get("kind")), get_args(Kind))
            raise ArtifactError(f"unknown calibration {data.get('kind')!r}{known}")
        kind: Kind = data["kind"]
        params = data.get("params")
        try:
            found = {name: tuple(float(value) for value in (params or {})[name]) for name in _PARAMS[kind]}
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(f"{kind} calibration: {params!r} lacks numbers for {_PARAMS[kind]}") from error
        if not _rises(kind, found):
            raise ArtifactError(f"{kind} calibration: {found} is no rising function of scores; fit it again")
        return cls(kind, found)


class Reliability(NamedTuple):
    """Probabilities in bins, lowest first, against what came true. Shape: (bins that hold something,) each."""

    predicted: FloatArray64
    """Mean probability."""
    observed: FloatArray64
    """Share of relevant pairs."""
    counts: IntArray


class Choice(NamedTuple):
    """The calibration with the least log loss on queries it was not fitted on, fitted on all of them."""

    calibration: Calibration
    log_loss: Mapping[Kind, float]
    """Mean over pairs, each scored by a fit without its query; empty where a single query leaves nothing to fit on."""


def fit_platt(scores: Numbers, relevant: BoolArray) -> Calibration:
    """Scale and bias by maximum likelihood (Newton; Lin, Lin and Weng 2007, Machine Learning 68:267).

    Where higher scores are less often relevant, or all scores or all labels are equal, the scale is 0: one probability
    for all.

    Shape: (pairs,) each.

    Raises:
        DataError: no pair, or a score that is NaN or infinite.
    """
    values, truth = _checked(scores, relevant)
    mean = float(values.mean())
    spread = float(values.std()) if values.max() > values.min() else 1.0
    columns = np.stack([(values - mean) / spread, np.ones(len(values))], axis=1)  # (pairs, 2)
    slope, level = _newton(columns, _targets(truth))
    if slope <= 0 or truth.min() == truth.max():
        slope, level = 0.0, float(_newton(columns[:, 1:], _targets(truth))[0])
    return Calibration("platt", {"scale": (slope / spread,), "bias": (level - slope * mean / spread,)})


def fit_temperature(scores: Numbers, relevant: BoolArray) -> Calibration:
    """The scale alone by maximum likelihood (Guo et al. 2017, ICML): for scores whose 0 already means a half.

    Never below 0, where every probability is a half. Shape: (pairs,) each. Raises as `fit_platt`.
    """
    values, truth = _checked(scores, relevant)
    size = float(np.abs(values).max()) or 1.0
    slope = float(_newton(values[:, None] / size, _targets(truth))[0])
    return Calibration("temperature", {"scale": (max(slope, 0.0) / size,)})


def fit_isotonic(scores: Numbers, relevant: BoolArray) -> Calibration:
    """The rising steps nearest to the labels (pool adjacent violators, Zadrozny & Elkan 2002, KDD), joined by lines.

    Pairs with equal scores share a step. With n pairs probabilities stay within 1 / (n + 2) and (n + 1) / (n + 2): no
    sample makes sure. Below the lowest score and above the highest the curve is flat. Shape: (pairs,) each.
    Raises as `fit_platt`.
    """
    values, truth = _checked(scores, relevant)
    levels, inverse = np.unique(values, return_inverse=True)
    weights = np.bincount(inverse).astype(np.float64)
    heights, starts = _pool(np.bincount(inverse, weights=truth) / weights, weights)
    ends = np.append(starts[1:], len(levels)) - 1
    heights = heights.clip(1 / (len(values) + 2), (len(values) + 1) / (len(values) + 2))
    knots = np.stack([starts, ends], axis=1)  # (steps, 2)
    keep = np.stack([np.ones(len(starts), dtype=np.bool_), ends > starts], axis=1)
    places = knots[keep]
    tops = np.repeat(heights, 2).reshape(-1, 2)[keep]
    return Calibration("isotonic", {"scores": tuple(levels[places].tolist()), "probabilities": tuple(tops.tolist())})


FITS: Mapping[Kind, Callable[[Numbers, BoolArray], Calibration]] = {
    "temperature": fit_temperature,
    "platt": fit_platt,
    "isotonic": fit_isotonic,
}
"""How each kind is fitted, the one with the fewest numbers first."""


def choose_calibration(
    scores: Numbers, relevant: BoolArray, queries: IntArray, *, folds: int = 5, seed: int = 0
) -> Choice:
    """The kind with the least log loss under cross-validation, of equal ones the simpler; then fitted on all pairs.

    A query's pairs stay in one fold, and there are no more folds than queries. One query alone cannot be held out:
    Platt's fit is taken. Shape: (pairs,) each.

    Raises:
        ConfigError: fewer than 2 folds.
        DataError: no pair, or a score that is NaN or infinite.
    """
    if folds < 2:
        raise ConfigError(f"folds {folds}: cross-validation needs at least 2")
    values, _ = _checked(scores, relevant)
    if np.shape(queries) != values.shape:
        raise ValueError(f"{len(values)} scores, but queries of shape {np.shape(queries)}")
    distinct, row = np.unique(queries, return_inverse=True)
    if len(distinct) < 2:
        return Choice(fit_platt(scores, relevant), {})
    fold = np.random.default_rng(seed).permutation(len(distinct))[row] % min(folds, len(distinct))
    losses: dict[Kind, float] = {}
    for kind, fit in FITS.items():
        held_out = np.empty(len(values))
        for number in range(int(fold.max()) + 1):
            out = fold == number
            held_out[out] = fit(values[~out], relevant[~out])(values[out])
        losses[kind] = log_loss(held_out, relevant)
    best = min(FITS, key=lambda kind: losses[kind])
    return Choice(FITS[best](scores, relevant), losses)


def log_loss(probabilities: Numbers, relevant: BoolArray) -> float:
    """Mean of -log(probability of what came true), in nats. Shape: (pairs,) each."""
    values, truth = _checked(probabilities, relevant)
    return float(-np.log(np.where(truth > 0, values, 1 - values).clip(_SURE, 1)).mean())


def brier(probabilities: Numbers, relevant: BoolArray) -> float:
    """Mean squared distance of probabilities from 1 and 0 (Brier 1950). Shape: (pairs,) each."""
    values, truth = _checked(probabilities, relevant)
    return float(((values - truth) ** 2).mean())


def reliability(probabilities: Numbers, relevant: BoolArray, bins: int = 10) -> Reliability:
    """Probabilities in at most `bins` bins of equally many pairs, against the share that is relevant.

    Equal probabilities share a bin, so bins may be of different size, and fewer than asked for. Shape: (pairs,) each.

    Raises:
        ConfigError: `bins` below 1.
        DataError: no pair, or a probability that is NaN.
    """
    if bins < 1:
        raise ConfigError(f"bins {bins}: at least 1 is needed; 10 is usual")
    values, truth = _checked(probabilities, relevant)
    order = np.argsort(values, kind="stable")
    values, truth = values[order], truth[order]
    first = np.searchsorted(values, values)  # the first place of the same probability
    _, bin_of = np.unique(first * bins // len(values), return_inverse=True)
    counts = np.bincount(bin_of)
    return Reliability(
        np.bincount(bin_of, weights=values) / counts, np.bincount(bin_of, weights=truth) / counts, counts
    )


def expected_calibration_error(probabilities: Numbers, relevant: BoolArray, bins: int = 10) -> float:
    """Mean distance of predicted from observed over the bins of `reliability`, weighted by their pairs.

    Equal-count bins as in Nguyen & O'Connor 2015 (EMNLP). Shape: (pairs,) each.
    """
    found = reliability(probabilities, relevant, bins)
    return float(np.average(np.abs(found.predicted - found.observed), weights=found.counts))


def _checked(values: Numbers, relevant: BoolArray) -> tuple[FloatArray64, FloatArray64]:
    """Values and labels (1 or 0) as float64, if they are finite and there are any. Shape: (pairs,) each."""
    numbers, truth = np.asarray(values, np.float64), np.asarray(relevant)
    if numbers.ndim != 1 or numbers.shape != truth.shape or truth.dtype != np.bool_:
        raise ValueError(
            f"values {numbers.shape} and labels {truth.shape} of {truth.dtype}: one boolean for each value"
        )
    if not len(numbers):
        raise DataError("no labelled pair to calibrate on or to measure: take a split whose documents have labels")
    broken = np.flatnonzero(~np.isfinite(numbers))
    if len(broken):
        raise DataError(
            f"{len(broken):,} of {len(numbers):,} values are not finite, the first is {numbers[broken[0]]} at place "
            f"{broken[0]}: leave out pairs that were not scored, and look for NaN in the model's output"
        )
    return numbers, truth.astype(np.float64)


def _targets(truth: FloatArray64) -> FloatArray64:
    """Platt's targets. Shape: (pairs,)."""
    right = float(truth.sum())
    return np.where(truth > 0, (right + 1) / (right + 2), 1 / (len(truth) - right + 2))


def _newton(columns: FloatArray64, targets: FloatArray64) -> Sequence[float]:
    """Coefficients of the logistic regression on `columns`; a step is halved until it lowers the loss.

    Shape: columns (pairs, n), targets (pairs,); result (n,).
    """
    found = np.zeros(columns.shape[1])
    loss = _cross_entropy(columns @ found, targets)
    for _ in range(_NEWTON_STEPS):
        chance = _sigmoid(columns @ found)
        slope = columns.T @ (chance - targets) / len(targets)
        if np.abs(slope).max() < _CLOSE_ENOUGH:
            break
        curvature = (columns * (chance * (1 - chance))[:, None]).T @ columns / len(targets)
        step = np.linalg.solve(curvature + 1e-12 * np.eye(len(found)), slope)
        shorter = 1.0
        while (lower := _cross_entropy(columns @ (found - shorter * step), targets)) > loss and shorter > _CLOSE_ENOUGH:
            shorter /= 2
        if lower > loss:
            break
        found, loss = found - shorter * step, lower
    return [float(value) for value in found]


def _cross_entropy(logits: FloatArray64, targets: FloatArray64) -> float:
    return float((np.logaddexp(0, logits) - targets * logits).mean())


def _sigmoid(logits: FloatArray64) -> FloatArray64:
    with np.errstate(invalid="ignore"):  # of NaN, which stays
        chances: FloatArray64 = np.exp(-np.logaddexp(0.0, -logits))
    return chances


def _pool(heights: FloatArray64, weights: FloatArray64) -> tuple[FloatArray64, IntArray]:
    """The rising steps nearest to `heights` in weighted squares, and where each starts. Shape: (n,) -> (steps,)."""
    steps: list[tuple[float, float, int]] = []  # height, weight, start
    for place, (height, weight) in enumerate(zip(heights.tolist(), weights.tolist(), strict=True)):
        start = place
        while steps and steps[-1][0] >= height:
            before, mass, start = steps.pop()
            height, weight = (before * mass + height * weight) / (mass + weight), mass + weight
        steps.append((height, weight, start))
    return np.array([step[0] for step in steps]), np.array([step[2] for step in steps], dtype=np.int64)


def _rises(kind: Kind, params: Mapping[str, tuple[float, ...]]) -> bool:
    """Whether these are the numbers of a calibration: finite, of the right count, and of a rising function."""
    if not all(np.isfinite(values).all() and values for values in params.values()):
        return False
    if kind != "isotonic":
        return all(len(values) == 1 for values in params.values()) and params["scale"][0] >= 0
    scores, heights = np.array(params["scores"]), np.array(params["probabilities"])
    within = (heights >= 0).all() and (heights <= 1).all()
    return len(scores) == len(heights) and bool(
        (np.diff(scores) > 0).all() and (np.diff(heights) >= 0).all() and within
    )
