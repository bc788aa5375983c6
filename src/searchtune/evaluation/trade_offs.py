"""What a reranker gains by depth, and what each depth costs: figures, intervals and paired tests.

Every depth is compared with the ranking that is reranked, and every shallower one with the deepest.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from searchtune.errors import ConfigError
from searchtune.evaluation.figures import compared, corrected, figures
from searchtune.evaluation.report import TradeOff, TradePoint
from searchtune.metrics.significance import ROUNDS
from searchtune.types import FloatArray64, Run


@dataclass(frozen=True, eq=False)
class CostedRun:
    """What a reranker ranked at one depth, and what that cost."""

    run: Run
    depth: int
    """Documents of each query that were reranked, at most."""
    ms_per_query: float
    """Milliseconds per query, measured alike for all points; NaN where nobody measured."""
    pairs_per_query: float | None = None
    """Pairs of query and document that were scored, on average; None: as many as `depth`."""
    name: str = ""
    """What the point is called; by default `top 20` for a depth of 20."""
    chosen: bool = False
    """Whether this is the depth that the system is used at."""

    @property
    def label(self) -> str:
        return self.name or f"top {self.depth}"


def measure_trade_off(
    system: str,
    points: Sequence[CostedRun],
    *,
    reference: tuple[str, FloatArray64],
    metric: str,
    score_of: Callable[[Run], FloatArray64],
    seed: int,
    rounds: int = ROUNDS,
) -> TradeOff:
    """Score every point of one reranker and compare it, query by query, with the reference and with the deepest point.

    P-values are corrected with Holm's method over the points. `reference` is the name of retrieval alone with its
    values, `score_of` the metric of a run. Shape of values: (judged,).

    Raises:
        ConfigError: no point, two of one name, two that are chosen, a depth below 1, or a cost that is no
            number from 0 on.
    """
    _check(system, points)
    ordered = sorted(points, key=lambda point: point.depth)
    names = [f"{system}, {point.label}" for point in ordered]
    start, deepest = reference[0], names[-1]
    if start in names:
        raise ConfigError(f"a point of {system} bears the name of the reference, {start!r}: give it another one")
    values = {start: {metric: reference[1]}}
    values |= {name: {metric: score_of(point.run)} for name, point in zip(names, ordered, strict=True)}
    gains = [(start, name) for name in names]
    shortfalls = [(deepest, name) for name in names[:-1]]
    found = figures(values, systems=names, pairs=[], metrics=(metric,), seed=seed, rounds=rounds)
    tested = compared(values, pairs=[*gains, *shortfalls], metrics=(metric,), seed=seed, rounds=rounds)
    against_start = corrected(tested[: len(gains)])
    against_deepest = [*corrected(tested[len(gains) :]), None]
    return TradeOff(
        reference=start,
        points=[
            TradePoint(
                name=point.label,
                depth=point.depth,
                pairs_per_query=point.depth if point.pairs_per_query is None else point.pairs_per_query,
                ms_per_query=point.ms_per_query,
                estimate=found.estimate(name, metric),
                gain=gain,
                shortfall=shortfall,
                chosen=point.chosen,
            )
            for name, point, gain, shortfall in zip(names, ordered, against_start, against_deepest, strict=True)
        ],
    )


def _check(system: str, points: Sequence[CostedRun]) -> None:
    if not points:
        raise ConfigError(f"the trade-off of {system} has no point: give a run for at least one depth")
    labels = [point.label for point in points]
    for label in labels:
        if labels.count(label) > 1:
            raise ConfigError(f"the trade-off of {system} has two points {label!r}: give each its own name")
    if sum(point.chosen for point in points) > 1:
        raise ConfigError(f"the trade-off of {system} has several chosen points: a system is used at one depth")
    for point in points:
        if point.depth < 1:
            raise ConfigError(f"{system}, {point.label}: depth {point.depth}, but at least 1 document is reranked")
        for name, cost in (("ms_per_query", point.ms_per_query), ("pairs_per_query", point.pairs_per_query)):
            if cost is not None and (cost < 0 or math.isinf(cost)):
                raise ConfigError(f"{system}, {point.label}: {name} is {cost}, but a cost is a number from 0 on")
