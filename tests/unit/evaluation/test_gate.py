"""The gate lets through what may pass, and says what fell."""

from __future__ import annotations

import math

import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation import Report, build_report
from searchtune.evaluation.gate import Limit, gate, parse_limit
from searchtune.evaluation.report import SystemScores
from searchtune.metrics import Estimate

REPORT = build_report(made_up_evidence(queries=20, docs=40), rounds=50)


def shifted(drop: float, *, metric: str = "ndcg@10", system: str = "tuned") -> Report:
    """The report with one mean lower by `drop`."""
    old = REPORT.estimate(system, metric)
    metrics = {**REPORT.systems[system].metrics, metric: Estimate(old.mean - drop, old.low, old.high, old.n)}
    return REPORT.model_copy(update={"systems": {**REPORT.systems, system: SystemScores(metrics=metrics)}})


def fewer(count: int) -> Report:
    return REPORT.model_copy(update={"per_query": REPORT.per_query[count:]})


@pytest.mark.parametrize(
    ("text", "metric", "limit"),
    [
        ("ndcg@10=0.5%", "ndcg@10", Limit(0.005, relative=True)),
        ("nDCG@10=0.005", "ndcg@10", Limit(0.005)),
        ("mrr@10= 0", "mrr@10", Limit(0.0)),
    ],
)
def test_limits_are_read(text: str, metric: str, limit: Limit) -> None:
    assert parse_limit(text) == (metric, limit)


@pytest.mark.parametrize("text", ["ndcg@10", "ndcg@10=", "ndcg@10=-1%", "ndcg@10=2", "ndcg@10=nan", "ndgc@10=1%", "ndcg@10=x%"])  # fmt: skip
def test_bad_limits_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"limit|unknown metric 'ndgc@10'; did you mean 'ndcg'"):
        parse_limit(text)


def test_a_drop_passes_up_to_the_limit() -> None:
    limits = {"ndcg@10": 0.02}
    assert gate(shifted(0.02), REPORT, limits).passed
    assert gate(REPORT, REPORT, {"ndcg@10": 0.0}).exit_code == 0
    failed = gate(shifted(0.0201), REPORT, limits)
    assert (failed.exit_code, [(it.system, it.metric) for it in failed.failures]) == (1, [("tuned", "ndcg@10")])
    head, first, *_ = failed.describe()
    assert head == "Gate failed: 1 of 5 figures fell by more than its limit, on 20 queries."
    assert first.startswith("FAIL tuned nDCG@10: 0.")
    assert "−0.020; the limit is a drop of 0.02 (to 0." in first


def test_relative_limits_are_of_the_baseline() -> None:
    mean = REPORT.estimate("tuned").mean
    assert gate(shifted(0.049 * mean), REPORT, {"ndcg@10": "5%"}).passed
    assert not gate(shifted(0.051 * mean), REPORT, {"ndcg@10": "5%"}).passed


def test_a_system_that_vanished_fails() -> None:
    left = {name: item for name, item in REPORT.systems.items() if name != "tuned"}
    found = gate(REPORT.model_copy(update={"systems": left}), REPORT, {"recall@10": 0.5})
    assert math.isnan(found.failures[0].after)
    assert "absent from the report" in found.describe()[1]
    assert gate(REPORT.model_copy(update={"systems": left}), REPORT, {"recall@10": 0.5}, systems=["base"]).passed


def test_other_queries_or_data_are_refused() -> None:
    with pytest.raises(
        DataError, match=r"different queries: 0 only in the report, 4 only in the baseline, 16 in both; .* \(--common\)"
    ):
        gate(fewer(4), REPORT, {"ndcg@10": "1%"})
    with pytest.raises(DataError, match="other documents, texts or labels"):
        gate(REPORT.model_copy(update={"fingerprint": "f" * 64}), REPORT, {"ndcg@10": "1%"})
    with pytest.raises(DataError, match="about different data: help-desk dev, the other help-desk test"):
        gate(REPORT.model_copy(update={"split": "dev"}), REPORT, {"ndcg@10": "1%"})


def test_common_queries_are_counted() -> None:
    found = gate(fewer(4), REPORT, {"ndcg@10": 0.0}, common=True)
    assert found.passed
    assert (found.n, found.left_out) == (16, 4)
    assert "on 16 common queries (4 queries that only one report judged left out)" in found.describe()[0]
    with pytest.raises(DataError, match="no judged query in common"):
        gate(fewer(20), REPORT, {"ndcg@10": 0.0}, common=True)


@pytest.mark.parametrize("metric", ["mrr@10", "recall@10", "recall@100"])
def test_any_metric_can_be_gated_on_common_queries(metric: str) -> None:
    found = gate(fewer(4), REPORT, {metric: 0.0}, common=True)
    assert found.passed
    wanted = list(REPORT.by_query(metric, "tuned").values())[4:]
    after = {(it.system, it.metric): it.after for it in found.checks}
    assert after["tuned", metric] == pytest.approx(sum(wanted) / 16)
    assert (
        after["tuned", metric] != pytest.approx(REPORT.estimate("tuned", metric).mean, abs=1e-9)
        or len(set(wanted)) == 1
    )


def test_older_reports_keep_the_headline_by_query_alone() -> None:
    rows = [row.model_copy(update={"others": {}}) for row in REPORT.per_query]
    old = REPORT.model_copy(update={"per_query": rows})
    assert gate(fewer(4), old, {"ndcg@10": 0.0}, common=True).passed
    assert gate(REPORT, old, {"mrr@10": 0.0}).passed
    with pytest.raises(DataError, match=r"keeps ndcg@10 by query, but not mrr@10; evaluate again"):
        gate(fewer(4), old, {"mrr@10": 0.0}, common=True)


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match="no system 'tuend'; did you mean 'tuned'"):
        gate(REPORT, REPORT, {"ndcg@10": 0.0}, systems=["tuend"])
    with pytest.raises(ConfigError, match="no metric 'map@10'"):
        gate(REPORT, REPORT, {"map@10": 0.0})
    with pytest.raises(ConfigError, match="checks nothing"):
        gate(REPORT, REPORT, {})
