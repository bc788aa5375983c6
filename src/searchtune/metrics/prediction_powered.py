"""A mean over queries from many judged by a model and few judged by people: prediction-powered inference.

The judge's labels give a metric for every query, people's labels for some. The judge's mean over all queries is precise
but may be off; the queries that have both say by how much, and how sure that is. The result is as honest as the few
human queries alone, and sharper the better the judge predicts them (Angelopoulos et al. 2023, Science 382:669,
arXiv:2301.09633). Power tuning weighs the judge by what it is worth, so that a useless one does no harm (PPI++,
Angelopoulos, Duchi and Zrnic 2023, arXiv:2311.01453). The queries with human labels must be drawn at random.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from scipy import special

from searchtune.errors import DataError
from searchtune.metrics.significance import Estimate
from searchtune.types import FloatArray64


class PredictionPowered(NamedTuple):
    """A mean corrected by people, beside what either side says alone. `n` of each counts its queries."""

    estimate: Estimate
    """The judge's mean corrected by people; `n` is the number of all queries."""
    human_only: Estimate
    """From the queries that people labelled, Student's interval."""
    judge_only: Estimate
    """From all queries and the judge's word: its interval does not know that the judge may be off."""
    weight: float
    """How far the judge was believed: 0 not at all, 1 fully (lambda of PPI++)."""
    p_value: float
    """Two-sided, of the corrected mean being 0: meant for differences."""

    @property
    def effective(self) -> float:
        """How many human-labelled queries alone would give as narrow an interval; NaN where there is none."""
        wide, narrow = (it.high - it.low for it in (self.human_only, self.estimate))
        return self.human_only.n * (wide / narrow) ** 2 if narrow > 0 else math.nan


def prediction_powered(human: FloatArray64, judge: FloatArray64, *, level: float = 0.95) -> PredictionPowered:
    """The mean of `human` over all queries, where most of its values are missing and `judge` predicts them.

    `human` is NaN where people labelled nothing. With n labelled and N other queries the mean is
    w mean(judge, others) + mean(human - w judge, labelled), where w = cov / ((1 + n/N) var(judge)) kept within 0 to 1.
    The interval is Student's with n - 1 degrees of freedom, which for few labelled queries is wider than the normal one
    of the papers and keeps its promise there. With all queries labelled it is the interval of people alone; with
    fewer than 2 it is NaN.

    Shape: (queries,) each.

    Raises:
        DataError: a judge's value that is NaN: judge every query, or leave it out of both arrays.
        ValueError: arrays that are not parallel.
    """
    if human.shape != judge.shape or human.ndim != 1:
        raise ValueError(f"human {human.shape} and judge {judge.shape}: one value of each for a query")
    if not np.isfinite(judge).all():
        place = int(np.flatnonzero(~np.isfinite(judge))[0])
        raise DataError(
            f"the judge has no value for query {place}: judge every query, or leave the query out of both arrays"
        )
    labelled = np.isfinite(human)
    truth, same, others = human[labelled], judge[labelled], judge[~labelled]
    weight = _weight(truth, same, others)
    n, many = len(truth), len(others)
    rest = truth - weight * same
    mean = float(rest.mean() + (weight * others.mean() if many else 0.0)) if n else math.nan
    error = math.sqrt(_variance(rest) / n + weight**2 * _variance(others) / max(many, 1)) if n else math.nan
    estimate = _interval(mean, error, n, len(human), level)
    return PredictionPowered(
        estimate=estimate,
        human_only=_plain(truth, level),
        judge_only=_plain(judge, level),
        weight=weight,
        p_value=_p_value(mean, error, n),
    )


def prediction_powered_difference(
    human: tuple[FloatArray64, FloatArray64], judge: tuple[FloatArray64, FloatArray64], *, level: float = 0.95
) -> PredictionPowered:
    """The second system's mean minus the first's, each pair the (first, second) system's values by query.

    The judge is weighed by how well it predicts the *difference*, which may be far better or worse than it predicts
    either mean. Shape: (queries,) each; NaN in `human` as in `prediction_powered`, which also says what is raised.
    """
    return prediction_powered(human[1] - human[0], judge[1] - judge[0], level=level)


def _weight(truth: FloatArray64, same: FloatArray64, others: FloatArray64) -> float:
    """Lambda of PPI++ (its equation for means), kept within 0 to 1; 0 where there is nothing to learn it from."""
    n, many = len(truth), len(others)
    spread = _variance(np.concatenate([same, others])) if n > 1 and many else 0.0
    if not spread > 0:
        return 0.0
    together = float(((truth - truth.mean()) * (same - same.mean())).sum()) / (n - 1)
    return min(max(together / ((1 + n / many) * spread), 0.0), 1.0)


def _plain(values: FloatArray64, level: float) -> Estimate:
    n = len(values)
    error = math.sqrt(_variance(values) / n) if n else math.nan
    return _interval(float(values.mean()) if n else math.nan, error, n, n, level)


def _interval(mean: float, error: float, n: int, counted: int, level: float) -> Estimate:
    """Student's interval with n - 1 degrees of freedom; NaN where `n` is below 2."""
    reach = float(special.stdtrit(n - 1, (1 + level) / 2)) * error if n > 1 else math.nan
    return Estimate(mean, mean - reach, mean + reach, counted)


def _p_value(mean: float, error: float, n: int) -> float:
    if n < 2:
        return math.nan
    if not error:
        return 1.0 if not mean else 0.0
    return float(2 * special.stdtr(n - 1, -abs(mean) / error))


def _variance(values: FloatArray64) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0
