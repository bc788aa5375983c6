"""What a paired comparison can show at all: the smallest p-value that its ties allow, and the smallest effect.

Both are for the test that decides, `significance.sign_flips`, at the level that it decides at.
"""

from __future__ import annotations

import math

import numpy as np
from scipy import special

from searchtune.metrics.significance import ALPHA, ROUNDS, SAME, sign_flips
from searchtune.types import FloatArray64

_FEW = 30
"""Untied queries up to which samples are drawn; above, the test is as good as a t-test of them."""
_SAMPLES = 200


def least_p(untied: int) -> float:
    """The smallest two-sided p-value that so many untied queries can give: 2^(1 - untied), all of them of one sign."""
    return float(min(1.0, 2.0 ** (1 - untied)))


def untied_needed(alpha: float = ALPHA) -> int:
    """The fewest untied queries whose smallest p-value is below `alpha`: 6 for 0.05."""
    return next(untied for untied in range(1, 1100) if least_p(untied) < alpha)


def minimum_detectable_effect(differences: FloatArray64, alpha: float = ALPHA, power: float = 0.8) -> float:
    """The smallest true mean difference that `sign_flips` would show at level `alpha` with chance `power`.

    Ties say nothing to the test, so as many queries as here are taken to be untied, with the spread that they have
    here around another mean. Up to 30 of them, samples are drawn with replacement from their distances from their mean
    (widened by m / (m - 1) in variance), and each is asked which shift its own interval would just tell from 0:
    the effect is the quantile of those. Above, it is (t[1 - alpha/2] + t[power]) x standard error (Sakai 2018,
    Laboratory Experiments in Information Retrieval, ch. 6), of the untied queries. In the metric's own unit, over all
    queries, ties included.

    NaN where it cannot be said: fewer untied queries than the test needs, or all of them with one and the same
    difference. Shape: differences (n,).
    """
    untied = differences[np.abs(differences) > SAME]
    m = len(untied)
    if m < untied_needed(alpha) or np.ptp(untied) < SAME:
        return math.nan
    share = m / len(differences)
    if m > _FEW:
        error = float(np.std(untied, ddof=1)) / math.sqrt(m)
        return float((special.stdtrit(m - 1, 1 - alpha / 2) + special.stdtrit(m - 1, power)) * error) * share
    around = (untied - untied.mean()) * math.sqrt(m / (m - 1))
    samples = np.random.default_rng(m).choice(around, size=(m, _SAMPLES))
    rounds = min(ROUNDS, max(1_000, math.ceil(20 / alpha)))
    shown_by = np.array([-it.interval(alpha).low for it in sign_flips(samples, seed=m, rounds=rounds)])
    return float(np.quantile(shown_by, power)) * share
