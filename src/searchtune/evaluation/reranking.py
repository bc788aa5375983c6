"""Whether reranking pays, and how deep it has to go: in words.

Both are judged by intervals that are widened for the number of depths, as the test is. A gain counts where the interval
of the difference to retrieval alone lies above 0. That reranking does not pay is said only where that lies below 0, or
where nothing changed. A shallower depth is as good as the deepest where the interval of their difference does not lie
below 0.
"""

from __future__ import annotations

import math

from searchtune.evaluation.report import Report, TradeOff, TradePoint
from searchtune.evaluation.wording import cannot_show, change, figure, milliseconds, percent, queries

NO_PAY = "Reranking does not pay here"
NOT_SHOWN = "Reranking is not shown to pay here"


def reranking_words(report: Report) -> list[str]:
    """Warnings first, then what each reranker gains at its depth, then how much a shallower one keeps."""
    measured = [(name, it) for name, it in report.trade_offs.items() if not _doubtful(it)]
    return [
        *reranking_warnings(report),
        *(_gain(name, it) for name, it in measured if not math.isnan(it.chosen.gain.low)),
        *(sentence for name, it in measured for sentence in _shallower(name, it)),
    ]


def reranking_warnings(report: Report) -> list[str]:
    """One sentence for each reranker whose gain over retrieval alone was not shown: the tuned ones, if any is tuned."""
    tuned = [name for name in report.trade_offs if name in report.candidates]
    return [
        f"{_head(it.chosen)}: {_described(name, it)} against {it.reference} alone is {_finding(it.chosen)}: "
        f"{change(it.chosen.gain)}{_price(it.chosen)}."
        for name in tuned or report.trade_offs
        if _doubtful(it := report.trade_offs[name])
    ]


def as_good(trade_off: TradeOff) -> TradePoint | None:
    """The shallowest cheaper depth that gains and cannot be told from the deepest; None where there is none."""
    deepest = trade_off.deepest
    if not deepest.gain.low > 0:
        return None
    return next(
        (
            point
            for point in trade_off.points
            if point.shortfall is not None
            and point.gain.low > 0
            and point.shortfall.high >= 0
            and not point.ms_per_query >= deepest.ms_per_query  # NaN where nobody measured
            and point.pairs_per_query < deepest.pairs_per_query
        ),
        None,
    )


def _doubtful(trade_off: TradeOff) -> bool:
    """Whether no gain was shown; of a single query nothing is said."""
    gain = trade_off.chosen.gain
    return gain.n > 1 and not gain.low > 0


def _head(point: TradePoint) -> str:
    return NO_PAY if point.gain.high < 0 or point.gain.ties == point.gain.n else NOT_SHOWN


def _described(name: str, trade_off: TradeOff) -> str:
    return f"{name} at {trade_off.chosen.name}"


def _finding(point: TradePoint) -> str:
    if point.gain.high < 0:
        return "worse beyond chance"
    if point.gain.ties == point.gain.n:
        return "the same on every query"
    if not point.gain.testable:
        return f"nothing that {queries(point.gain.n)} could tell ({cannot_show(point.gain)})"
    if math.isnan(point.gain.mde):
        return "within chance"
    return f"within chance (a true difference below about {figure(point.gain.mde)} would stay hidden)"


def _price(point: TradePoint) -> str:
    """`, for 50 pairs and 12.3 ms a query`."""
    cost = f", for {point.pairs_per_query:.4g} pairs"
    return (
        f"{cost} a query"
        if math.isnan(point.ms_per_query)
        else f"{cost} and {milliseconds(point.ms_per_query)} a query"
    )


def _gain(name: str, trade_off: TradeOff) -> str:
    it = trade_off.chosen
    which = f"{_described(name, trade_off)} against {trade_off.reference} alone"
    found = "Reranking pays" if it.gain.significant else "Reranking may pay, but not once all depths are counted"
    return f"{found}: {which} {change(it.gain)}{_price(it)}."


def _shallower(name: str, trade_off: TradeOff) -> list[str]:
    point, deepest = as_good(trade_off), trade_off.deepest
    if point is None or point.shortfall is None:
        return []
    cost = f"{percent(point.pairs_per_query / deepest.pairs_per_query)} of its pairs"
    if point.ms_per_query < deepest.ms_per_query:  # not where nobody measured
        times = f"{milliseconds(point.ms_per_query)} instead of {milliseconds(deepest.ms_per_query)} a query"
        cost = f"{percent(point.ms_per_query / deepest.ms_per_query)} of its cost ({times})"
    kept = percent(point.gain.delta / deepest.gain.delta)
    return [
        f"{name} at {point.name} gives {kept} of the gain of {deepest.name} at {cost} and cannot be told apart from "
        f"it: {change(point.shortfall)}."
    ]
