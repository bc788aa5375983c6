"""`JudgeReport`: how far a relevance judge agrees with people, as frozen models written to and read from JSON.

A figure that cannot be had is NaN here and null in JSON, and `undefined` says why. This module does not know how
figures are computed or shown.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any, Literal

from searchtune.errors import DataError
from searchtune.evaluation.report import Figure, JsonEstimate, Part, Reliability
from searchtune.metrics.significance import Estimate
from searchtune.reading import user_path
from searchtune.specs.base import read_spec
from searchtune.storage.atomic import write_json

FIGURES = (
    "kappa",
    "precision",
    "recall",
    "accuracy",
    "kappa_graded",
    "kappa_linear",
    "kappa_quadratic",
    "alpha",
    "exact",
)
"""Figures of agreement, in the order in which they are shown."""


class JobFacts(Part):
    """What the judging took; None where nobody measured."""

    seconds: float | None = None
    cost: float | None = None
    """In US dollars."""
    labels_per_second: float | None = None


class BiasBin(Part):
    """Pairs whose feature lies from `low` to `high`."""

    low: float
    high: float
    pairs: int
    error: Figure
    """Mean of judge minus human, in grades."""
    adjusted: JsonEstimate
    """The same, less the mean of all pairs of the same human grade."""


class Bias(Part):
    """How the judge's error moves with one feature of the pair, among pairs of one human grade."""

    feature: str
    unit: str
    """What one unit of the feature is: `doubling`."""
    pairs: int
    slope: JsonEstimate
    """Grades for one unit."""
    bins: list[BiasBin]

    @property
    def found(self) -> bool:
        """Whether the interval of the slope leaves out 0."""
        return not math.isnan(self.slope.low) and (self.slope.low > 0 or self.slope.high < 0)


class Canary(Part):
    """What one kind of planted text does to the grades of the same pairs."""

    pairs: int
    rises: JsonEstimate
    falls: JsonEstimate
    rise: JsonEstimate
    """Mean change, in grades."""


class SystemMeans(Part):
    """One search system, measured with people's labels and with the judge's."""

    human: JsonEstimate
    judge: JsonEstimate
    corrected: JsonEstimate | None = None
    """The judge's mean corrected by the queries that people labelled; None where people labelled them all."""
    effective: Figure = math.nan
    """How many queries labelled by people alone would be as sure as `corrected`."""


class Ranking(Part):
    """Whether a judge puts search systems into the order that people do, by one metric."""

    metric: str
    queries: int
    systems: dict[str, SystemMeans]
    tau: JsonEstimate
    """Kendall's tau-b."""
    tau_ap: JsonEstimate
    """AP correlation: the top of the order weighs more."""


class JudgeFigures(Part):
    """One judge against people."""

    kind: str
    """What sort of judge it is: `tuned`, `base`, `cross-encoder`, `average`, `published`."""
    min_grade: int
    """From this grade on the judge calls a pair relevant."""
    graded: bool
    """Whether it uses the person's scale, so that grades can be compared one by one."""
    judged: int
    """Pairs with a grade."""
    unreadable: dict[str, int]
    """Why there is no grade -> pairs."""
    figures: dict[str, JsonEstimate]
    undefined: dict[str, str] = {}
    """Figure -> why it has no value."""
    confusion: list[list[int]]
    """Pairs by human grade (rows) and judged grade (columns), as many of each."""
    calibration: dict[str, Reliability] = {}
    """`before` and `after` -> how far the probability of being relevant can be believed."""
    bias: list[Bias] = []
    canaries: dict[str, Canary] = {}
    ranking: Ranking | None = None
    job: JobFacts | None = None

    @property
    def pairs(self) -> int:
        """Pairs that were to be judged."""
        return self.judged + sum(self.unreadable.values())

    def figure(self, name: str) -> Estimate:
        """A figure of agreement; NaN with n 0 where it was not measured."""
        return self.figures.get(name, Estimate(math.nan, math.nan, math.nan, 0))


class KappaDifference(Part):
    """Kappa of `b` minus kappa of `a` on the pairs that both graded."""

    a: str
    b: str
    pairs: int
    estimate: JsonEstimate
    p_value: Figure
    p_holm: Figure
    """Corrected for the number of comparisons."""

    @property
    def significant(self) -> bool:
        """Whether the corrected test says so, and the interval, where there is one, does not say otherwise."""
        return self.p_holm < 0.05 and not self.estimate.low <= 0 <= self.estimate.high


class JudgeReport(Part):
    """Judges against people on one set of pairs."""

    format: Literal[1] = 1
    collection: str
    pairs: int
    """Pairs with a human grade."""
    queries: int
    min_grade: int
    """From this grade on a person calls a pair relevant."""
    grades: list[str]
    """What each grade of the person's scale means, lowest first."""
    headline: str
    """The judge that the verdict speaks of."""
    reference: str | None
    """The judge that it is compared with first."""
    judges: dict[str, JudgeFigures]
    comparisons: list[KappaDifference]
    provenance: dict[str, Any]
    notes: tuple[str, ...] = ()
    """Warnings given while training or judging, in order."""

    @property
    def lead(self) -> JudgeFigures:
        return self.judges[self.headline]

    def comparison(self, a: str, b: str) -> KappaDifference | None:
        """The comparison from `a` to `b`; None where it was not made."""
        return next((it for it in self.comparisons if (it.a, it.b) == (a, b)), None)


def write_judge_report(report: JudgeReport, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    write_json(path, report.model_dump(mode="json"))


def read_judge_report(path: Path | str) -> JudgeReport:
    """Read what `write_judge_report` wrote; a `DataError` says what is wrong with the file."""
    return read_spec(user_path(path, DataError), JudgeReport, "a report of judges")
