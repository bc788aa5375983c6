"""`Report`: what an evaluation found, as frozen models that are written to and read from `report.json`.

A comparison always goes from `a`, the reference, to `b`, the candidate: `delta` is b minus a, and `wins` counts the
queries on which b is better. A figure that cannot be had (no query, no interval from one query) is NaN here and null
in JSON.

This module does not know how figures are computed or shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Field, PlainSerializer

from searchtune.errors import DataError
from searchtune.metrics.power import least_p
from searchtune.metrics.significance import Estimate
from searchtune.reading import user_path
from searchtune.specs.base import Spec, read_spec
from searchtune.storage.atomic import write_json

HEADLINE = "ndcg@10"
"""The headline metric where none is named."""
ALL = "all"  # the slice of all judged queries
METRICS = ("ndcg@10", "recall@10", "recall@100", "mrr@10")
"""The metrics of a report where none are named."""


def plain(value: Any) -> Any:
    """`value` as JSON can hold it: NaN and infinities become null, numpy scalars numbers, anything unknown its text."""
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        value = value.tolist()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [plain(item) for item in value]
    return str(value)


def _estimate(value: Any) -> Any:
    if isinstance(value, Mapping):
        mean, low, high = (math.nan if value.get(key) is None else value[key] for key in ("mean", "low", "high"))
        return Estimate(mean, low, high, value.get("n", 0))
    return value


Figure = Annotated[float, BeforeValidator(lambda value: math.nan if value is None else value), PlainSerializer(plain)]
"""A float that may be NaN, which JSON writes as null."""
JsonEstimate = Annotated[Estimate, BeforeValidator(_estimate), PlainSerializer(lambda it: plain(it._asdict()))]
SliceName = Literal["unseen", "seen", "unknown"]


class Part(Spec):
    """A piece of a report, where a figure may be NaN."""

    model_config = ConfigDict(allow_inf_nan=True)


class SystemScores(Part):
    """How one system did on one set of queries."""

    metrics: dict[str, JsonEstimate]
    missing: int = 0
    """Judged queries for which the system returned nothing at all; each counts 0."""


class Comparison(Part):
    """A paired comparison of two systems on the same queries."""

    a: str
    b: str
    metric: str
    delta: Figure
    low: Figure
    high: Figure
    n: int
    p_value: Figure
    wins: int
    ties: int
    losses: int
    mde: Figure
    """The smallest true difference that the test would show with 80% power; NaN where it cannot be said."""
    p_holm: Figure = math.nan
    """`p_value` corrected for the number of comparisons made at once (Holm); NaN in reports that did not correct."""
    p_t: Figure = math.nan
    """Two-sided p-value of the paired t-test."""
    effect_size: Figure = math.nan
    """Cohen's d_z: the mean difference in standard deviations of the differences."""
    alpha: float = 0.05
    """The level at which this was decided, Holm's share of 0.05. `low` and `high` have the confidence 1 - alpha: 0 lies
    outside exactly where the difference counts. Reports that do not keep it have intervals of 95%."""

    @property
    def untied(self) -> int:
        """The queries on which the two differ: all that a test can go by."""
        return self.wins + self.losses

    @property
    def testable(self) -> bool:
        """Whether so many untied queries could show any difference at all, were it ever so large."""
        return least_p(self.untied) < self.alpha

    @property
    def leaves_out_zero(self) -> bool:
        """Whether the interval does; not where there is none."""
        return self.low > 0 or self.high < 0

    @property
    def significant(self) -> bool:
        """Whether the difference is beyond chance at 5%, by the corrected p-value and never against the interval."""
        tested = (self.p_value if math.isnan(self.p_holm) else self.p_holm) < 0.05
        return tested and (math.isnan(self.low) or self.leaves_out_zero)

    def flipped(self) -> Comparison:
        """The same comparison told from `b` to `a`."""
        return self.model_copy(
            update={
                "a": self.b,
                "b": self.a,
                "delta": -self.delta,
                "low": -self.high,
                "high": -self.low,
                "wins": self.losses,
                "losses": self.wins,
                "effect_size": -self.effect_size,
            }
        )


class Slice(Part):
    """Figures of all systems over one set of queries."""

    n: int
    systems: dict[str, SystemScores]
    comparisons: list[Comparison]
    headline_metric: str = HEADLINE
    """The metric that verdict, pictures, gains by query and examples speak of; meant where none is named."""

    def estimate(self, system: str, metric: str | None = None) -> Estimate:
        return self.systems[system].metrics[metric or self.headline_metric]

    def best(self, metric: str) -> float:
        """The highest mean that any system has here; NaN where none has any."""
        means = (item.metrics[metric].mean for item in self.systems.values())
        return max((mean for mean in means if not math.isnan(mean)), default=math.nan)

    def comparison(self, a: str, b: str, metric: str | None = None) -> Comparison | None:
        """The comparison from `a` to `b`, turned round where it was made from `b` to `a`, None where not made."""
        wanted = metric or self.headline_metric
        found = {(item.a, item.b): item for item in self.comparisons if item.metric == wanted}
        if (a, b) in found:
            return found[a, b]
        return found[b, a].flipped() if (b, a) in found else None

    def ranked(self) -> list[str]:
        """The systems that have a mean of the headline metric here, best first; of equal ones the first shown."""
        named = {name: self.estimate(name).mean for name in self.systems}
        return sorted((name for name in named if not math.isnan(named[name])), key=lambda name: -named[name])


class QueryScores(Part):
    """One judged query: its text, which slice it is in, and every metric of every system."""

    id: str
    text: str
    slice: SliceName
    scores: dict[str, float]
    """The headline metric by system."""
    others: dict[str, list[float]] = {}
    """Every other metric, one value a system in the order of `scores`; absent from older reports."""
    bins: dict[str, list[str]] = {}
    """By kind of the breakdown: the bins that hold the query, several only for tags."""


class TradePoint(Part):
    """One depth of a reranker: what it reaches, and at what cost."""

    name: str
    depth: int
    """Documents of each query that were reranked, at most."""
    pairs_per_query: Figure
    """Pairs of query and document that were scored."""
    ms_per_query: Figure
    """Milliseconds per query."""
    estimate: JsonEstimate
    """The headline metric."""
    gain: Comparison
    """From the reference to this point, corrected for the number of points."""
    shortfall: Comparison | None = None
    """From the deepest point to this one; None for the deepest itself."""
    chosen: bool = False
    """Whether this is the depth that the system is used at."""


class TradeOff(Part):
    """What a reranker gains over the ranking that it starts from, by depth."""

    reference: str
    """The system whose ranking is reranked: retrieval alone."""
    points: Annotated[list[TradePoint], Field(min_length=1)]
    """From the shallowest to the deepest."""

    @property
    def deepest(self) -> TradePoint:
        return self.points[-1]

    @property
    def chosen(self) -> TradePoint:
        """The point that the system is used at; the deepest where none was chosen."""
        return next((point for point in self.points if point.chosen), self.deepest)


class ReliabilityBin(Part):
    """The pairs whose predicted probability of being relevant lies from `low` to `high`."""

    low: float
    high: float
    predicted: float
    """Their mean predicted probability."""
    relevant: JsonEstimate
    """The share of them that is relevant, with Wilson's interval."""


class Reliability(Part):
    """How far predicted probabilities can be taken at their word."""

    n: int
    """Labelled pairs."""
    bins: list[ReliabilityBin]
    """Those that hold any pair."""
    error: Figure
    """Expected calibration error: the mean distance of a bin's prediction from its share, weighted by its pairs."""
    brier: Figure
    """Mean squared distance of a prediction from 0 or 1."""


class Card(Part):
    """A document as rankings show it."""

    id: str
    title: str
    snippet: str


class RankedQuery(Part):
    """What every system ranked on top for one query; documents are positions into `Rankings.cards`."""

    top: dict[str, list[int]]
    """System -> its first documents, best first."""
    grades: dict[int, int]
    """The labels of the documents shown; one without a label was not judged."""
    relevant: list[int]
    """The first relevant documents, highest grade first."""
    ranks: dict[str, list[int | None]]
    """System -> the rank it gave each of `relevant`, counted from 1; None where it is not in the run."""


class Rankings(Part):
    """The top of every system's ranking for the judged queries, those that differ most between systems first."""

    min_grade: int
    snippet: int
    """Characters to which snippets were cut."""
    left_out: int
    """Judged queries whose rankings found no room."""
    cards: list[Card]
    queries: dict[str, RankedQuery]
    """By query id."""


class Hit(Part):
    """One document of a ranking, cut short for showing."""

    id: str
    title: str
    snippet: str
    grade: int | None
    """The label, or None where nobody judged the document."""
    relevant: bool


class Wanted(Part):
    """A relevant document and the rank, counted from 1, that each system gave it; None where it is not in the run."""

    id: str
    title: str
    rank_a: int | None
    rank_b: int | None


class Example(Part):
    """A query that gained or lost much, with the top documents of both systems."""

    id: str
    text: str
    slice: SliceName
    gain: float
    wanted: list[Wanted]
    top_a: list[Hit]
    top_b: list[Hit]


class Examples(Part):
    """The queries with the largest gains and losses of `b` over `a`."""

    a: str
    b: str
    best: list[Example]
    worst: list[Example]


class Report(Slice):
    """The figures over all judged queries, the same by slice, and all that explains them."""

    format: Literal[1] = 1
    collection: str
    split: str
    reference: str
    tuned: list[str]
    metrics: list[str]
    overlap_measured: bool
    """Whether it is known which queries share a relevant document with training."""
    slices: dict[str, Slice]
    """`unseen`, `seen` and `residual`; one that is absent has n 0."""
    per_query: list[QueryScores]
    examples: Examples | None
    training: dict[str, Any]
    costs: dict[str, dict[str, Any]]
    provenance: dict[str, Any]
    documents: int = 0
    """In the collection; 0 in reports that did not count them."""
    fingerprint: str = ""
    """SHA-256 of the collection; empty in reports that did not keep it."""
    breakdown: dict[str, dict[str, Slice]] = {}
    """The headline metric by kind of slice and bin: what queries gain, and which lose (see `evaluation.slices`)."""
    recall_curve: dict[str, list[float]] = {}
    """System -> mean recall at rank 1, 2, ..., as deep as its run goes."""
    precision_curve: dict[str, list[float]] = {}
    """System -> mean interpolated precision at recall 0, 0.1, ..., 1."""
    trade_offs: dict[str, TradeOff] = {}
    """Reranker -> quality and cost by depth."""
    calibration: dict[str, Reliability] = {}
    """What gave the probabilities (such as `before` and `after` they were calibrated) -> how good they are."""
    rankings: Rankings | None = None
    fusions: dict[str, list[Comparison]] = {}
    """Fusion -> the comparison from each of its parts to it, by the headline metric, corrected for all of them."""
    notes: tuple[str, ...] = ()
    """Warnings given while training or measuring, in order."""

    @property
    def candidates(self) -> set[str]:
        """The systems that hold something tuned: those that are compared with a reference."""
        return {it.b for it in self.comparisons} if self.tuned else set()

    @property
    def headline(self) -> Comparison | None:
        """The reference against the first tuned system on the headline metric over all queries."""
        return self.comparison(self.reference, self.tuned[0]) if self.tuned else None

    def by_query(self, metric: str, system: str) -> dict[str, float]:
        """One metric of one system by query id. A `DataError` where the report does not keep that metric by query."""
        if metric == self.headline_metric:
            return {row.id: row.scores[system] for row in self.per_query}
        if any(metric not in row.others for row in self.per_query):
            raise DataError(
                f"this report of {self.collection} keeps {self.headline_metric} by query, but not {metric}; evaluate "
                "again to have every metric by query"
            )
        return {row.id: row.others[metric][list(row.scores).index(system)] for row in self.per_query}

    @property
    def pair(self) -> tuple[str, str] | None:
        """The two systems that charts set against each other; None where there is one system only.

        The reference and the first tuned system. Where nothing was tuned: the reference and the best other system.
        """
        if self.tuned:
            return self.reference, self.tuned[0]
        others = [name for name in self.ranked() if name != self.reference]
        return (self.reference, others[0]) if others else None


def write_report(report: Report, path: Path) -> None:
    """Write `report.json`, whole or not at all."""
    write_json(path, report.model_dump(mode="json"))


def read_report(path: Path | str) -> Report:
    """Read what `write_report` wrote; a `DataError` says what is wrong with the file."""
    return read_spec(user_path(path, DataError), Report, "a report")
