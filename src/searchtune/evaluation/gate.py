"""A gate: a report must not fall below an accepted one by more than the limits allow.

A limit is a drop of the mean: `ndcg@10=0.5%` of the baseline's mean, or `ndcg@10=0.005` in the metric's own unit.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from searchtune.errors import ConfigError, did_you_mean
from searchtune.evaluation.compare import scores_of, shared_queries
from searchtune.evaluation.report import Report
from searchtune.evaluation.wording import figure, metric_label, queries, signed
from searchtune.metrics.ranking import parse_metric

_ROUNDING = 1e-9
"""A drop of exactly the limit passes, whatever the last bit of it says."""


@dataclass(frozen=True)
class Limit:
    """The largest drop that passes."""

    value: float
    """A share of the baseline's mean (`relative`), otherwise in the metric's own unit."""
    relative: bool = False

    def __str__(self) -> str:
        return f"{100 * self.value:g}%" if self.relative else f"{self.value:g}"

    def floor(self, baseline: float) -> float:
        """The lowest mean that passes."""
        return baseline * (1 - self.value) if self.relative else baseline - self.value


@dataclass(frozen=True)
class Check:
    """One metric of one system, against the baseline."""

    system: str
    metric: str
    before: float
    after: float
    """NaN where the report has no such system or no figure."""
    limit: Limit

    @property
    def passed(self) -> bool:
        """Whether the mean is at or above the floor; no figure never passes."""
        return self.after >= self.limit.floor(self.before) - _ROUNDING

    def describe(self) -> str:
        """`FAIL base nDCG@10: 0.640 -> 0.620, −0.020; the limit is a drop of 0.5%`."""
        word = "ok  " if self.passed else "FAIL"
        name = f"{word} {self.system} {metric_label(self.metric)}"
        if math.isnan(self.after):
            return f"{name}: {figure(self.before)} in the baseline, absent from the report"
        drop = f"the limit is a drop of {self.limit} (to {figure(self.limit.floor(self.before))})"
        return f"{name}: {figure(self.before)} -> {figure(self.after)}, {signed(self.after - self.before)}; {drop}"


@dataclass(frozen=True)
class GateResult:
    """Every check that was made, and on how many queries."""

    checks: tuple[Check, ...]
    n: int
    left_out: int
    """Queries that only one of the two reports judged."""

    @property
    def failures(self) -> tuple[Check, ...]:
        return tuple(check for check in self.checks if not check.passed)

    @property
    def passed(self) -> bool:
        return not self.failures

    @property
    def exit_code(self) -> int:
        """0 where everything passed, otherwise 1."""
        return int(not self.passed)

    def describe(self) -> list[str]:
        """What was found in a sentence, then every check, failures first."""
        on = queries(self.n, "common") if self.left_out else queries(self.n)
        rest = f" ({queries(self.left_out)} that only one report judged left out)" if self.left_out else ""
        failed = len(self.failures)
        head = f"Gate failed: {failed} of {len(self.checks)} figures fell" if failed else "Gate passed: no figure fell"
        ordered = sorted(self.checks, key=lambda check: check.passed)
        return [f"{head} by more than its limit, on {on}{rest}.", *(check.describe() for check in ordered)]


def gate(
    report: Report,
    baseline: Report,
    limits: Mapping[str, Limit | float | str],
    *,
    systems: Sequence[str] | None = None,
    common: bool = False,
) -> GateResult:
    """Compare the means of a report with those of an accepted one, for every metric that has a limit.

    `systems` are those to check, by default all of the baseline: one that the report lacks fails. With `common`, only
    queries that both judged count; a report that is too old to keep a metric by query is refused where others drop out.

    Raises:
        ConfigError: no limit, a limit that cannot be read, or a metric or system that the baseline lacks.
        DataError: the reports judged other queries or collections and `common` is false, or share no query.
    """
    read = {str(parse_metric(metric)): _limit(value, metric) for metric, value in limits.items()}
    if not read:
        raise ConfigError("a gate without limits checks nothing; give one, for instance ndcg@10=0.5%")
    names = list(baseline.systems) if systems is None else list(systems)
    for name in names:
        if name not in baseline.systems:
            raise ConfigError(f"the baseline has no system {name!r}{did_you_mean(name, baseline.systems)}")
    ids, left_out = shared_queries([report, baseline], ["the report", "the baseline"], common=common)
    _check_metrics(read, report, baseline)
    checks = tuple(
        Check(
            name,
            metric,
            _mean(baseline, name, metric, ids, left_out),
            _mean(report, name, metric, ids, left_out),
            limit,
        )
        for metric, limit in read.items()
        for name in names
    )
    return GateResult(checks, len(ids), left_out)


def parse_limit(text: str) -> tuple[str, Limit]:
    """Metric and limit from `ndcg@10=0.5%` (of the baseline's mean) or `ndcg@10=0.005` (in the metric's unit).

    >>> parse_limit("ndcg@10=0.5%")
    ('ndcg@10', Limit(value=0.005, relative=True))
    """
    metric, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"limit {text!r}: write METRIC=DROP, for instance ndcg@10=0.5% or ndcg@10=0.005")
    return str(parse_metric(metric)), _limit(value, metric)


def _limit(value: Limit | float | str, metric: str) -> Limit:
    if isinstance(value, Limit):
        return value
    relative = isinstance(value, str) and value.strip().endswith("%")
    try:
        number = float(value.strip().removesuffix("%") if isinstance(value, str) else value)
    except ValueError:
        number = math.nan
    if not (0 <= number <= (100 if relative else 1)):
        raise ConfigError(f"limit {value!r} of {metric}: a drop from 0 to 1, or from 0% to 100%")
    return Limit(number / 100 if relative else number, relative)


def _check_metrics(limits: Mapping[str, Limit], report: Report, baseline: Report) -> None:
    for metric in limits:
        for name, one in (("report", report), ("baseline", baseline)):
            if metric not in one.metrics:
                raise ConfigError(f"the {name} has no metric {metric!r}{did_you_mean(metric, one.metrics)}")


def _mean(report: Report, system: str, metric: str, ids: Sequence[str], left_out: int) -> float:
    """The mean over all queries, or over the common ones where others are left out; NaN without such a system."""
    if system not in report.systems:
        return math.nan
    if left_out:
        return float(scores_of(report, system, ids, metric).mean())
    return report.estimate(system, metric).mean
