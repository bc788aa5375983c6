"""`AttributionReport`: which stage of a pipeline earned what, from the on/off grid over its stages.

Frozen models written to and read from JSON; `build_attribution` makes one from the grid's values. A figure that cannot
be had is NaN here and null in JSON.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from searchtune.errors import DataError
from searchtune.evaluation.report import Figure, JsonEstimate, Part
from searchtune.evaluation.wording import figure, queries, signed, spread
from searchtune.metrics.shapley import Share, attribute, members
from searchtune.metrics.significance import Estimate, bootstrap_columns
from searchtune.reading import user_path
from searchtune.specs.base import read_spec
from searchtune.storage.atomic import write_json
from searchtune.types import FloatArray64


class Verdict(StrEnum):
    """What is to be done about a stage."""

    EARNS = "earns"
    """Its interval is above 0."""
    IDLE = "not shown"
    """Its interval spans 0."""
    HARMS = "harms"
    """Its interval is below 0."""
    TOO_FEW = "too few queries"


class Grid(NamedTuple):
    """The values of one metric."""

    stages: tuple[str, ...]
    """Those that can move the metric."""
    values: FloatArray64
    """Column m has stage i on where bit i of m is set. Shape: (queries, 2^stages)."""
    label: str
    """How the metric is called."""


class StageShare(Part):
    """What one stage earned by one metric."""

    share: JsonEstimate
    """Its Shapley value: the mean of what it adds, over all orders of switching stages on."""
    p_value: Figure
    p_holm: Figure
    """Corrected for the number of stages."""
    alone: JsonEstimate
    """What it adds where everything else is off."""
    last: JsonEstimate
    """What it adds where everything else is on."""

    @property
    def verdict(self) -> Verdict:
        if math.isnan(self.share.low):
            return Verdict.TOO_FEW
        if self.share.low > 0:
            return Verdict.EARNS
        return Verdict.HARMS if self.share.high < 0 else Verdict.IDLE


class Interplay(Part):
    """Whether two stages are worth more together than apart (above 0), or do the same work (below 0)."""

    a: str
    b: str
    index: JsonEstimate
    """The Shapley interaction index."""
    p_value: Figure
    p_holm: Figure


class Selection(Part):
    """One row of the grid."""

    on: list[str]
    value: JsonEstimate


class MetricAttribution(Part):
    """One metric taken apart."""

    label: str
    queries: int
    stages: dict[str, StageShare]
    interplay: list[Interplay]
    grid: list[Selection]
    """Every selection of stages, from none to all."""

    @property
    def nothing(self) -> Selection:
        return self.grid[0]

    @property
    def everything(self) -> Selection:
        return self.grid[-1]

    @property
    def best(self) -> Selection:
        """The selection with the highest mean; of equal ones, the one with the fewest stages."""
        return max(self.grid, key=lambda it: (round(it.value.mean, 9), -len(it.on)))


class StageFacts(Part):
    """What a stage is and what it takes in the whole pipeline."""

    adapter: str
    """What runs when it is on."""
    off: str
    """What stands in for it when it is off."""
    seconds_per_query: Figure
    tokens_per_query: Figure


class WorkDone(Part):
    """Pieces of work of one stage in one setting."""

    kind: str
    asked: int
    """What so many runs of the pipeline ask for, repeats counted."""
    distinct: int
    """What was worked on."""
    seconds: float


class AttributionReport(Part):
    """A pipeline taken apart on the queries of one split."""

    format: Literal[1] = 1
    pipeline: str
    collection: str
    split: str
    queries: int
    headline: str
    """The metric that the verdict is about."""
    stages: dict[str, StageFacts]
    """Those that are switched, in the order in which they run."""
    metrics: dict[str, MetricAttribution]
    work: list[WorkDone]
    full_seconds: float
    """What the full pipeline took alone, with models and indexes open."""
    seconds: float
    """What all selections together took, the full pipeline included."""
    provenance: dict[str, Any]

    @property
    def ratio(self) -> float:
        """All selections' time over the full pipeline's own."""
        return self.seconds / self.full_seconds if self.full_seconds else math.nan

    @property
    def lead(self) -> MetricAttribution:
        return self.metrics[self.headline]


def attributed(grid: Grid, *, seed: int) -> MetricAttribution:
    """One metric's grid taken apart, with intervals over queries.

    Raises:
        DataError: values that are no grid over the stages.
    """
    found = attribute(grid.values, seed=seed)
    if len(found.shares) != len(grid.stages):
        raise DataError(f"{grid.label}: values for {len(found.shares)} stages, and {len(grid.stages)} are named")
    means = bootstrap_columns(grid.values, seed=seed)
    return MetricAttribution(
        label=grid.label,
        queries=len(grid.values),
        stages={
            name: StageShare(**_share("share", share), alone=found.alone[place], last=found.last[place])
            for place, (name, share) in enumerate(zip(grid.stages, found.shares, strict=True))
        },
        interplay=[
            Interplay(a=grid.stages[a], b=grid.stages[b], **_share("index", share))
            for (a, b), share in found.pairs.items()
        ],
        grid=[
            Selection(on=list(members(column, grid.stages)), value=means[column])
            for column in sorted(range(len(means)), key=lambda column: (column.bit_count(), column))
        ],
    )


def narrowed(stages: Sequence[str], values: FloatArray64, keep: Sequence[str]) -> FloatArray64:
    """The grid over some of the stages, the others being off.

    For stages that cannot move a metric this leaves out nothing: the others' shares stay as they are. Shape: (queries,
    2^stages) -> (queries, 2^keep).
    """
    bits = [stages.index(name) for name in keep]
    columns = [
        sum(1 << bit for place, bit in enumerate(bits) if column >> place & 1) for column in range(1 << len(bits))
    ]
    return np.asarray(values[:, columns], dtype=np.float64)


def attribution_verdict(report: AttributionReport) -> list[str]:
    """What to make of it, the headline first, then a sentence a stage."""
    lead = report.lead
    gained = lead.everything.value.mean - lead.nothing.value.mean
    by_worth = sorted(lead.stages.items(), key=lambda item: -item[1].share.mean)
    said = []
    earning = [name for name, it in by_worth if it.verdict is Verdict.EARNS]
    harming = [name for name, it in by_worth if it.verdict is Verdict.HARMS]
    if harming:
        said.append(f"Switch off {' and '.join(harming)}: it costs quality" + _gain(gained, lead.label))
    elif earning:
        said.append(f"{earning[0].capitalize()} earned the most" + _gain(gained, lead.label))
    elif all(it.verdict is Verdict.TOO_FEW for it in lead.stages.values()):
        said.append(f"{queries(lead.queries)} cannot show what a stage earns" + _gain(gained, lead.label))
    else:
        said.append("No stage is shown to earn anything" + _gain(gained, lead.label))
    for name, it in by_worth:
        said.append(_stage_sentence(report, name, it))
    best = lead.best
    if best.on != lead.everything.on:
        told = " + ".join(best.on) or "everything off"
        said.append(
            f"The best of the {len(lead.grid)} selections on these queries is {told} ({figure(best.value.mean)}, the "
            f"full pipeline {figure(lead.everything.value.mean)}); it was chosen after the fact, so confirm it on "
            "other queries."
        )
    return said


def _gain(gained: float, label: str) -> str:
    return f"; the whole pipeline moves {label} by {signed(gained)}"


def _stage_sentence(report: AttributionReport, name: str, it: StageShare) -> str:
    share = it.share
    told = f"{signed(share.mean)} (95% interval {spread(share)})"
    facts = report.stages[name]
    cost = "" if math.isnan(facts.seconds_per_query) else f" It takes {_seconds(facts.seconds_per_query)} a query."
    match it.verdict:
        case Verdict.EARNS:
            return f"{name}: earns {told}. Keep it on.{cost}"
        case Verdict.HARMS:
            return f"{name}: costs {told}. Switch it off.{cost}"
        case Verdict.IDLE:
            return f"{name}: {told}, within chance: {_open(share)}.{cost}"
        case Verdict.TOO_FEW:
            return f"{name}: {signed(share.mean)}; too few queries ({share.n:,}) to show what it earns.{cost}"


def _open(share: Estimate) -> str:
    """What an interval around 0 leaves open."""
    if not share.low and not share.high:
        return "it changes nothing, so off is cheaper"
    if share.high <= 0:
        return "it is not shown to help, so off is cheaper"
    return f"it is not shown to help, and these queries do not rule out that it earns up to {figure(share.high)}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


def _share(name: str, share: Share) -> dict[str, Any]:
    return {name: share.estimate, "p_value": share.p_value, "p_holm": share.p_holm}


def grid_rows(metric: MetricAttribution, stages: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The grid for a table: for each selection whether each stage is on, and how far it is from everything on."""
    full = metric.everything.value.mean
    return [
        {
            "on": {name: name in row.on for name in stages if name in metric.stages},
            "value": row.value,
            "behind": row.value.mean - full,
            "best": row.on == metric.best.on,
        }
        for row in metric.grid
    ]


def write_attribution(report: AttributionReport, path: Path) -> None:
    """Write the report as JSON, whole or not at all."""
    write_json(path, report.model_dump(mode="json"))


def read_attribution(path: Path | str) -> AttributionReport:
    """Read what `write_attribution` wrote; a `DataError` says what is wrong with the file."""
    return read_spec(user_path(path, DataError), AttributionReport, "an attribution")
