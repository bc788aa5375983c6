"""What a reranker gains by depth, at what cost, and the words for it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.made_up import made_up_evidence, reranked, with_reranking

from searchtune.errors import ConfigError
from searchtune.evaluation import CostedRun, Report, build_report, read_report, verdict, write_report
from searchtune.evaluation.reranking import as_good, reranking_warnings, reranking_words
from searchtune.metrics import holm, score

EVIDENCE = with_reranking(made_up_evidence(queries=80, docs=120))


@pytest.fixture(scope="module")
def report() -> Report:
    return build_report(EVIDENCE, rounds=300)


def rerun(*points: CostedRun, **changes) -> Report:
    """A report on `base`, reranked by `ce` at some depths."""
    runs = {name: EVIDENCE.runs[name] for name in ("bm25", "base")}
    usual = {"tuned": (), "pairs": (), "seen": None, "calibration": {}, "trade_offs": {"ce": points}}
    return build_report(replace(EVIDENCE, runs=runs, **{**usual, **changes}), rounds=300)


def point(depth: int, ability: float = 4.0, **changes) -> CostedRun:
    run = reranked(EVIDENCE.runs["base"], EVIDENCE.qrels, ability, depth=depth)
    return CostedRun(run, depth, **{"ms_per_query": 2.0 * depth, **changes})


def test_figures_are_those_of_the_metric_and_pairs(report: Report, tmp_path) -> None:
    base, *found = (
        score(run, EVIDENCE.qrels, ["ndcg@10"])["ndcg@10"]
        for run in (EVIDENCE.runs["base"], *(it.run for it in EVIDENCE.trade_offs["tuned-ce"]))
    )
    trade_off = report.trade_offs["tuned-ce"]
    assert trade_off.reference == "base"
    assert [(it.name, it.depth, it.pairs_per_query, it.ms_per_query) for it in trade_off.points] == [
        (f"top {depth}", depth, depth, 0.8 * depth) for depth in (5, 10, 20, 50)
    ]
    for it, values in zip(trade_off.points, found, strict=True):
        assert it.estimate.mean == pytest.approx(values.mean())
        assert it.estimate.n == 80
        assert it.gain.delta == pytest.approx((values - base).mean())
        assert it.gain.low < it.gain.delta < it.gain.high
        assert (it.gain.a, it.gain.b) == ("base", f"tuned-ce, {it.name}")
        if it.shortfall is not None:
            assert it.shortfall.delta == pytest.approx((values - found[-1]).mean())
    assert [it.shortfall is None for it in trade_off.points] == [False, False, False, True]
    gains = [it.gain for it in trade_off.points]
    assert [it.p_holm for it in gains] == holm([it.p_value for it in gains])
    assert trade_off.chosen.depth == 20
    write_report(report, tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert (again.trade_offs, again.calibration) == (report.trade_offs, report.calibration)


def test_the_start_may_be_another_system_than_the_reference() -> None:
    found = rerun(point(20), retrieval="bm25").trade_offs["ce"]
    assert found.reference == "bm25"
    assert found.points[0].gain.a == "bm25"


def test_points_are_sorted_and_the_deepest_is_in_use_where_none_was_chosen() -> None:
    found = rerun(point(50), point(5), point(20)).trade_offs["ce"]
    assert [it.depth for it in found.points] == [5, 20, 50]
    assert found.chosen == found.deepest == found.points[-1]


def test_a_gain_is_told_with_its_price() -> None:
    words = reranking_words(rerun(point(20)))
    assert len(words) == 1
    assert words[0].startswith("Reranking pays: ce at top 20 against base alone +0.")
    assert words[0].endswith(", for 20 pairs and 40 ms a query.")


def test_no_gain_is_a_warning() -> None:
    same = CostedRun(EVIDENCE.runs["base"], 20, 12.0)
    report = rerun(same)
    (warning,) = reranking_warnings(report)
    assert warning.startswith(
        "Reranking does not pay here: ce at top 20 against base alone is the same on every query: 0.000"
    )
    assert warning in verdict(report)
    (worse,) = reranking_warnings(rerun(point(50, -3.0)))
    assert "is worse beyond chance: −0." in worse
    (chance,) = reranking_warnings(rerun(point(20, 1.4)))
    assert "is within chance (a true difference below about 0." in chance


def test_only_the_tuned_reranker_is_warned_of_where_there_is_one(report: Report) -> None:
    assert reranking_warnings(report) == []
    plain = {**EVIDENCE.trade_offs, "plain-ce": [point(20, -3.0)]}
    assert reranking_warnings(build_report(replace(EVIDENCE, trade_offs=plain), rounds=100)) == []
    untuned = replace(EVIDENCE, trade_offs=plain, tuned=("tuned",))
    assert "plain-ce" in reranking_warnings(build_report(untuned, rounds=100))[0]


def test_a_shallower_depth_that_is_as_good_is_named() -> None:
    deep = point(20)
    report = rerun(point(5), deep, CostedRun(deep.run, 50, 100.0))
    (sentence,) = reranking_words(report)[1:]
    assert sentence.startswith(
        "ce at top 20 gives 100% of the gain of top 50 at 40% of its cost (40 ms instead of 100 ms a query) and cannot "
        "be told apart from it: 0.000"
    )
    kept = as_good(report.trade_offs["ce"])
    assert kept is not None
    assert kept.depth == 20  # 5 is worse beyond chance
    unmeasured = rerun(replace(deep, ms_per_query=math.nan), CostedRun(deep.run, 50, math.nan))
    assert "at 40% of its pairs and cannot" in reranking_words(unmeasured)[1]
    assert as_good(rerun(point(5), point(50)).trade_offs["ce"]) is None
    assert as_good(rerun(CostedRun(deep.run, 20, 100.0), CostedRun(deep.run, 50, 100.0)).trade_offs["ce"]) is None


def test_a_gain_by_its_interval_alone_is_told_with_a_reserve(report: Report) -> None:
    it = report.trade_offs["tuned-ce"]
    points = [it.model_copy(update={"gain": it.gain.model_copy(update={"p_holm": 0.2})}) for it in it.points]
    changed = {"tuned-ce": it.model_copy(update={"points": points})}
    assert reranking_words(report.model_copy(update={"trade_offs": changed}))[0].startswith(
        "Reranking may pay, but not once all depths are counted: tuned-ce"
    )


def test_one_query_says_nothing() -> None:
    one = EVIDENCE.qrels.select(np.arange(80) == 7)
    base = EVIDENCE.runs["base"].select(np.arange(80) == 7)
    evidence = replace(EVIDENCE, qrels=one, runs={"base": base}, tuned=(), pairs=(), seen=None, calibration={})
    report = build_report(
        replace(evidence, trade_offs={"ce": [CostedRun(base, 5, 1.0), CostedRun(base, 9, 1.0)]}), rounds=50
    )
    assert math.isnan(report.trade_offs["ce"].chosen.gain.low)
    assert reranking_words(report) == []


def test_a_run_that_lacks_queries_counts_zero() -> None:
    short = replace(point(20), run=point(20).run.select(np.arange(80) < 40))
    found = rerun(short).trade_offs["ce"].points[0]
    assert found.estimate.n == 80
    assert found.estimate.mean < rerun(point(20)).trade_offs["ce"].points[0].estimate.mean


@pytest.mark.parametrize(
    ("points", "message"),
    [
        ([], "the trade-off of ce has no point"),
        ([point(5), point(5)], "two points 'top 5'"),
        ([point(5, chosen=True), point(9, chosen=True)], "several chosen points"),
        ([point(5, name="x"), point(9, name="x")], "two points 'x'"),
        ([replace(point(5), depth=0)], "top 0: depth 0, but at least 1"),
        ([point(5, ms_per_query=-1.0)], "ms_per_query is -1.0"),
        ([point(5, pairs_per_query=math.inf)], "pairs_per_query is inf"),
    ],
)
def test_bad_points_are_refused(points: list[CostedRun], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        rerun(*points)
