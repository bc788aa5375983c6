"""The queries that a compared system hurts most."""

from __future__ import annotations

from dataclasses import dataclass

from searchtune.evaluation.report import QueryScores, RankedQuery, Report, SliceName
from searchtune.metrics.significance import SAME

SHOWN = 10
"""Queries that are shown of each comparison."""


@dataclass(frozen=True)
class HurtQuery:
    """A query on which a candidate is worse than its reference, by the headline metric."""

    id: str
    text: str
    slice: SliceName
    before: float
    after: float
    ranks: tuple[int | None, int | None] | None
    """Of the first relevant document, before and after; None in place of a rank where none of the first ones is in the
    run, and for both where the report holds no rankings of the query."""

    @property
    def change(self) -> float:
        return self.after - self.before


@dataclass(frozen=True)
class Hurt:
    """How many queries lose from `a` to `b`, and those that lose most."""

    a: str
    b: str
    losses: int
    worst: list[HurtQuery]


def hurt_most(report: Report, shown: int = SHOWN) -> list[Hurt]:
    """Every pair that was compared, in the report's order, with the queries that lose most, the largest loss first.

    Of equal losses the first query counts. Pairs by which no query loses are left out.
    """
    pairs = dict.fromkeys((it.a, it.b) for it in report.comparisons if it.metric == report.headline_metric)
    found = [_of_pair(report, a, b, shown) for a, b in pairs]
    return [it for it in found if it.losses]


def _of_pair(report: Report, a: str, b: str, shown: int) -> Hurt:
    lost = [row for row in report.per_query if row.scores[b] - row.scores[a] < -SAME]
    lost.sort(key=lambda row: row.scores[b] - row.scores[a])
    ranked = report.rankings.queries if report.rankings is not None else {}
    return Hurt(a, b, len(lost), [_hurt(row, ranked.get(row.id), a, b) for row in lost[:shown]])


def _hurt(row: QueryScores, ranked: RankedQuery | None, a: str, b: str) -> HurtQuery:
    ranks = None if ranked is None else (_first(ranked, a), _first(ranked, b))
    return HurtQuery(row.id, row.text, row.slice, row.scores[a], row.scores[b], ranks)


def _first(ranked: RankedQuery, system: str) -> int | None:
    return min((rank for rank in ranked.ranks.get(system, []) if rank is not None), default=None)
