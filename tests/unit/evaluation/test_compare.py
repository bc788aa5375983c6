"""Reports side by side: paired, corrected, and refused where they are about different queries."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation import Report, build_report
from searchtune.evaluation.compare import compare_reports

EVIDENCE = made_up_evidence(queries=60, docs=90, seen_gain=1.5, unseen_gain=1.5)


def report(tuned: str) -> Report:
    return build_report(replace(EVIDENCE, tuned=[tuned], pairs=[]), rounds=50)


BASE, TUNED = report("bm25"), report("tuned")


def test_two_reports_are_compared_by_query() -> None:
    found = compare_reports([BASE, TUNED], labels=["before", "after"], rounds=500)
    assert dict(found.systems) == {"before": "bm25", "after": "tuned"}
    assert found.figures.estimate("after").mean == pytest.approx(TUNED.estimate("tuned").mean, abs=1e-6)
    it = found.figures.comparison("before", "after")
    assert it is not None
    assert it.delta == pytest.approx(TUNED.estimate("tuned").mean - BASE.estimate("bm25").mean, abs=1e-6)
    assert found.words[0] == "after is best, beyond chance."
    assert found.words[1].startswith("nDCG@10 on 60 queries: after 0.")
    assert "a difference to believe" in found.words[2]


def test_three_reports_are_corrected() -> None:
    found = compare_reports([BASE, TUNED, TUNED], rounds=500)
    assert list(found.systems) == ["A", "B", "C"]
    p_values = {(it.a, it.b): (it.p_value, it.p_holm) for it in found.figures.comparisons}
    assert p_values["A", "B"][1] == pytest.approx(3 * p_values["A", "B"][0])
    assert p_values["B", "C"] == (1.0, 1.0)
    assert found.words[0] == "B is ahead, but cannot be told apart from C."


def test_level_reports_and_chosen_systems() -> None:
    found = compare_reports([BASE, TUNED], systems=["base", "base"], rounds=200)
    assert found.words[0] == "No report can be told apart from the best, A: the differences are within chance."
    with pytest.raises(ConfigError, match="no system 'bas'; did you mean 'base'"):
        compare_reports([BASE, TUNED], systems=["bas", "base"])


def test_different_queries_need_leave() -> None:
    part = TUNED.model_copy(update={"per_query": TUNED.per_query[10:]})
    with pytest.raises(
        DataError, match=r"A and B judged different queries: 10 only in A, 0 only in B, 50 in both; .* \(--common\)"
    ):
        compare_reports([BASE, part])
    found = compare_reports([BASE, part], common=True, rounds=200)
    assert (found.figures.n, found.left_out) == (50, 10)
    assert "on 50 common queries; 10 queries that only some of them judged are left out" in found.words[1]


def test_any_metric_is_compared_by_query() -> None:
    part = TUNED.model_copy(update={"per_query": TUNED.per_query[10:]})
    found = compare_reports([BASE, part], metric="MRR@10", common=True, rounds=200)
    assert (found.metric, found.figures.headline_metric) == ("mrr@10", "mrr@10")
    kept = list(TUNED.by_query("mrr@10", "tuned").values())[10:]
    assert found.figures.estimate("B").mean == pytest.approx(sum(kept) / 50)
    assert found.words[1].startswith("MRR@10 on 50 common queries")
    with pytest.raises(ConfigError, match="A has no metric 'mrr@5'; did you mean 'mrr@10'"):
        compare_reports([BASE, TUNED], metric="mrr@5")
    rows = [row.model_copy(update={"others": {}}) for row in TUNED.per_query]
    with pytest.raises(DataError, match="but not recall@10"):
        compare_reports([BASE, TUNED.model_copy(update={"per_query": rows})], metric="recall@10")


def test_the_headline_of_the_first_report_is_compared() -> None:
    other = build_report(replace(EVIDENCE, tuned=["tuned"], pairs=[], headline="recall@10"), rounds=50)
    assert compare_reports([other, BASE], rounds=50).metric == "recall@10"
    assert compare_reports([BASE, other], rounds=50).metric == "ndcg@10"


def test_bad_requests() -> None:
    with pytest.raises(ConfigError, match="1 of the two or more reports"):
        compare_reports([BASE])
    with pytest.raises(ConfigError, match="each its own label"):
        compare_reports([BASE, TUNED], labels=["x", "x"])
