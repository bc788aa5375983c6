"""How far predicted probabilities of relevance can be taken at their word."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
from scipy import special

from searchtune.errors import DataError
from searchtune.evaluation.report import Reliability, ReliabilityBin
from searchtune.metrics.significance import Estimate
from searchtune.types import FloatArray64

BoolArray = npt.NDArray[np.bool_]
BINS = 10
"""Bins of equal width from 0 to 1."""


def reliability(probabilities: FloatArray64, relevant: BoolArray, bins: int = BINS) -> Reliability:
    """Predicted probabilities against the share that is relevant, bin by bin.

    Expected calibration error over bins of equal width (Naeini et al. 2015, AAAI), the last one closed at 1, and Brier
    score (Brier 1950, Monthly Weather Review 78:1). NaN without any pair. Shape: both (pairs,).

    Raises:
        DataError: a probability that is NaN or not from 0 to 1.
        ValueError: arrays that are not parallel.
    """
    p, y = np.asarray(probabilities, np.float64), np.asarray(relevant, np.bool_)
    if p.ndim != 1 or p.shape != y.shape:
        raise ValueError(f"probabilities have shape {p.shape}, labels {y.shape}: expected one of each for every pair")
    if (wrong := np.flatnonzero(~((p >= 0) & (p <= 1)))).size:
        raise DataError(
            f"probability {p[wrong[0]]:g} of pair {wrong[0]} is not from 0 to 1: calibrate scores first, for instance "
            "with a sigmoid"
        )
    if not len(p):
        return Reliability(n=0, bins=[], error=math.nan, brier=math.nan)
    place = np.minimum((p * bins).astype(np.int64), bins - 1)
    found = []
    for number in np.unique(place).tolist():
        inside = place == number
        share = wilson(int(y[inside].sum()), int(inside.sum()))
        predicted = float(p[inside].mean())
        found.append(ReliabilityBin(low=number / bins, high=(number + 1) / bins, predicted=predicted, relevant=share))
    error = sum(it.relevant.n * abs(it.predicted - it.relevant.mean) for it in found) / len(p)
    return Reliability(n=len(p), bins=found, error=error, brier=float(((p - y) ** 2).mean()))


def wilson(hits: int, n: int, level: float = 0.95) -> Estimate:
    """A share with its score interval (Wilson 1927, JASA 22:209), which stays within 0 to 1; NaN for n = 0.

    It takes the pairs as independent; those of one query are not quite, so that it is rather too narrow.
    """
    if not n:
        return Estimate(math.nan, math.nan, math.nan, 0)
    z = float(special.ndtri((1 + level) / 2))
    share = hits / n
    centre = (share + z * z / (2 * n)) / (1 + z * z / n)
    reach = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    return Estimate(share, max(0.0, centre - reach), min(1.0, centre + reach), n)
