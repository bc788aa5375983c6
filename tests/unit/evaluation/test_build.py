"""Reports as they are built, written and read: shape, figures, slices and ugly inputs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats
from tests.unit.evaluation.made_up import made_up_collection, made_up_evidence, made_up_run

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation import (
    Evidence,
    Report,
    build_report,
    compare_reports,
    gate,
    read_report,
    verdict,
    write_report,
)
from searchtune.evaluation.report import METRICS, plain
from searchtune.metrics import score, win_tie_loss
from searchtune.types import Qrels

ROUNDS = 300


def build(evidence: Evidence) -> Report:
    return build_report(evidence, rounds=ROUNDS)


@pytest.fixture(scope="module")
def evidence() -> Evidence:
    return made_up_evidence(queries=80, docs=400)


@pytest.fixture(scope="module")
def report(evidence: Evidence) -> Report:
    return build(evidence)


def no_constant(name: str) -> float:
    raise AssertionError(f"{name} is not JSON")


def as_json(report: Report, folder: Path) -> dict:
    write_report(report, folder / "report.json")
    return json.loads((folder / "report.json").read_text(encoding="utf-8"), parse_constant=no_constant)


def test_json_has_the_promised_shape_and_reads_back(report: Report, tmp_path: Path) -> None:
    data = as_json(report, tmp_path)
    assert {"systems", "comparisons", "slices", "provenance", "per_query"} <= set(data)
    assert list(data["systems"]) == ["bm25", "base", "hybrid", "tuned", "tuned+bm25"]
    assert list(data["systems"]["base"]["metrics"]) == list(METRICS)
    assert set(data["systems"]["base"]["metrics"]["ndcg@10"]) == {"mean", "low", "high", "n"}
    keys = {"a", "b", "metric", "delta", "low", "high", "n", "p_value", "wins", "ties", "losses", "mde"}
    keys |= {"p_holm", "p_t", "effect_size", "alpha"}
    assert set(data["per_query"][0]["others"]) == set(METRICS) - {"ndcg@10"}
    assert all(set(item) == keys for item in data["comparisons"])
    assert [(it["a"], it["b"]) for it in data["comparisons"][::4]] == [("base", "tuned"), ("hybrid", "tuned+bm25")]
    assert list(data["slices"]) == ["unseen", "seen", "residual"]
    for part in data["slices"].values():
        assert list(part["systems"]) == list(data["systems"])
        assert len(part["comparisons"]) == len(data["comparisons"])
    assert data["provenance"]["recipe"]["seed"] == 13
    assert read_report(tmp_path / "report.json") == report


def test_figures_are_those_of_the_metrics(evidence: Evidence, report: Report) -> None:
    base, tuned = (score(evidence.runs[name], evidence.qrels, METRICS) for name in ("base", "tuned"))
    for metric in METRICS:
        found = report.comparison("base", "tuned", metric)
        assert found is not None
        assert report.estimate("base", metric).mean == pytest.approx(base[metric].mean())
        assert found.delta == pytest.approx(tuned[metric].mean() - base[metric].mean())
        assert found.low < found.delta < found.high
        assert (found.wins, found.ties, found.losses) == win_tie_loss(base[metric], tuned[metric])
        assert found.p_value <= 0.05
    assert report.per_query[7].scores["tuned"] == pytest.approx(tuned["ndcg@10"][7], abs=1e-6)
    assert report.per_query[7].text == evidence.collection.query_texts[7]


def test_slices_split_the_queries(evidence: Evidence, report: Report) -> None:
    assert evidence.seen is not None
    values = score(evidence.runs["tuned"], evidence.qrels, ["mrr@10"])["mrr@10"]
    unseen, seen = report.slices["unseen"], report.slices["seen"]
    assert (unseen.n, seen.n, report.n) == (32, 48, 80)
    assert unseen.estimate("tuned", "mrr@10").mean == pytest.approx(values[~evidence.seen].mean())
    assert seen.estimate("tuned", "mrr@10").mean == pytest.approx(values[evidence.seen].mean())
    assert [row.slice for row in report.per_query] == ["seen" if seen else "unseen" for seen in evidence.seen]


def test_same_seed_same_report(evidence: Evidence, report: Report) -> None:
    assert build(evidence) == report
    assert build_report(evidence, seed=14, rounds=ROUNDS) != report


def test_absent_slices_are_there_with_n_zero_and_null(evidence: Evidence, tmp_path: Path) -> None:
    report = build(replace(evidence, seen=None, residual=None))
    assert not report.overlap_measured
    assert {row.slice for row in report.per_query} == {"unknown"}
    for part in as_json(report, tmp_path)["slices"].values():
        assert part["n"] == 0
        assert part["systems"]["tuned"]["metrics"]["ndcg@10"] == {"mean": None, "low": None, "high": None, "n": 0}
        assert (part["comparisons"][0]["delta"], part["comparisons"][0]["p_value"], part["comparisons"][0]["n"]) == (
            None,
            None,
            0,
        )
    again = read_report(tmp_path / "report.json")
    assert math.isnan(again.slices["seen"].estimate("base").mean)


def test_no_unseen_query_and_a_residual_without_some_system(evidence: Evidence) -> None:
    assert evidence.residual is not None
    qrels, runs = evidence.residual
    only = {name: runs[name] for name in ("base", "tuned")}
    report = build(replace(evidence, seen=np.ones(80, dtype=bool), residual=(qrels, only)))
    assert (report.slices["unseen"].n, report.slices["seen"].n, report.slices["residual"].n) == (0, 80, 32)
    assert report.slices["residual"].estimate("hybrid").n == 0
    found = report.slices["residual"].comparison("hybrid", "tuned+bm25")
    assert found is not None
    assert found.n == 0


def test_run_that_lacks_queries_counts_zero_and_is_told(evidence: Evidence) -> None:
    keep = np.arange(80) >= 5
    runs = {**evidence.runs, "tuned": evidence.runs["tuned"].select(keep)}
    report = build(replace(evidence, runs=runs))
    assert report.systems["tuned"].missing == 5
    assert report.systems["base"].missing == 0
    assert all(row.scores["tuned"] == 0 for row in report.per_query[:5])
    assert report.estimate("tuned").n == 80


def test_one_query_and_one_document(tmp_path: Path) -> None:
    collection = made_up_collection(docs=1, queries=1)
    run = made_up_run(collection, collection.qrels["test"], 0.0, seed=1)
    report = build(Evidence(collection, "test", collection.qrels["test"], {"base": run, "tuned": run}, tuned=["tuned"]))
    data = as_json(report, tmp_path)
    assert data["systems"]["base"]["metrics"]["ndcg@10"] == {"mean": 1.0, "low": None, "high": None, "n": 1}
    assert (data["comparisons"][0]["ties"], data["comparisons"][0]["p_value"]) == (1, 1.0)
    assert data["examples"] == {"a": "base", "b": "tuned", "best": [], "worst": []}


def test_nothing_tuned(evidence: Evidence) -> None:
    report = build(replace(evidence, tuned=(), pairs=()))
    assert len(report.comparisons) == 10 * len(METRICS)  # every pair of five systems
    assert report.headline is None
    assert report.candidates == set()
    assert report.pair == ("base", max(set(report.systems) - {"base"}, key=lambda it: report.estimate(it).mean))
    assert report.examples is None


def test_min_grade_of_the_collection_counts(evidence: Evidence) -> None:
    report = build(replace(evidence, collection=replace(evidence.collection, min_grade=2)))
    assert report.estimate("base", "recall@100").mean == 0
    assert report.estimate("base", "ndcg@10").mean > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tuned": ("tunde",)}, "no run of a system 'tunde'; did you mean 'tuned'"),
        ({"reference": "zero"}, "'zero'"),
        ({"retrieval": "bm52"}, "no run of a system 'bm52'; did you mean 'bm25'"),
        ({"headline": "map"}, "headline metric 'map' is not among the metrics"),
        ({"pairs": (("hybrid", "tuned+bm52"),)}, "did you mean 'tuned.bm25'"),
    ],
)
def test_unknown_systems_are_named(evidence: Evidence, changes: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(replace(evidence, **changes))


def test_wrong_shapes_and_empty_labels(evidence: Evidence) -> None:
    with pytest.raises(ValueError, match=r"seen has shape \(3,\), expected \(80,\)"):
        build(replace(evidence, seen=np.zeros(3, dtype=bool)))
    none = np.empty(0, dtype=np.int64)
    with pytest.raises(DataError, match="no judged query"):
        build(replace(evidence, qrels=Qrels.from_triples(none, none, none)))


def test_reading_says_what_is_wrong(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    with pytest.raises(DataError, match="cannot be read"):
        read_report(path)
    path.write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match="not a report: n: field required"):
        read_report(path)
    path.write_text("{", encoding="utf-8")
    with pytest.raises(DataError, match="cannot be read as JSON"):
        read_report(path)


def test_plain_takes_what_provenance_may_hold() -> None:
    given = {
        "a": np.float32(0.5),
        1: (np.int64(2), float("nan")),
        "p": Path("x"),
        "t": True,
        "arr": np.arange(2),
        "n": None,
    }
    assert plain(given) == {"a": 0.5, "1": [2, None], "p": "x", "t": True, "arr": [0, 1], "n": None}


def test_p_values_are_corrected_and_seconded(evidence: Evidence, report: Report) -> None:
    base, tuned = (score(evidence.runs[name], evidence.qrels, METRICS)["ndcg@10"] for name in ("base", "tuned"))
    found = report.comparison("base", "tuned")
    assert found is not None
    family = [it.p_value for it in report.comparisons if it.metric == "ndcg@10"]
    assert found.p_holm == pytest.approx(min(2 * min(family), 1) if found.p_value == min(family) else max(family))
    assert found.p_t == pytest.approx(stats.ttest_rel(tuned, base).pvalue)
    assert found.effect_size == pytest.approx((tuned - base).mean() / (tuned - base).std(ddof=1))
    again = report.comparison("tuned", "base")
    assert again is not None
    assert (again.delta, again.low, again.high, again.wins) == (-found.delta, -found.high, -found.low, found.losses)
    assert report.comparison("bm25", "base") is None


def test_breakdown_scores_every_bin(evidence: Evidence, report: Report) -> None:
    assert list(report.breakdown) == ["query length", "relevant documents", "words shared with the answer"]
    lengths = report.breakdown["query length"]
    assert sum(part.n for part in lengths.values()) == report.n
    bins = [part for kind in report.breakdown.values() for part in kind.values()]
    raw = [part.comparisons[0].p_value for part in bins]
    judged = [part.comparisons[0].p_holm for part in bins]
    assert min(judged) == pytest.approx(min(1, min(raw) * len(raw)))  # over all bins of all kinds
    first = next(iter(lengths))
    inside = [i for i, row in enumerate(report.per_query) if first in row.bins["query length"]]
    values = score(evidence.runs["tuned"], evidence.qrels, ["ndcg@10"])["ndcg@10"]
    assert lengths[first].estimate("tuned").mean == pytest.approx(values[inside].mean())


def test_tags_make_slices_of_their_own(evidence: Evidence) -> None:
    report = build(replace(evidence, tags={"q0000": ["urgent"], "q0001": ["urgent", "tax"]}))
    assert {name: part.n for name, part in report.breakdown["tag"].items()} == {
        "urgent": 2,
        "tax": 1,
        "without a tag": 78,
    }
    assert math.isnan(report.breakdown["tag"]["tax"].estimate("tuned").low)


def test_recall_curve_agrees_with_the_metric(report: Report) -> None:
    for name, curve in report.recall_curve.items():
        assert len(curve) == 100
        assert curve[9] == pytest.approx(report.estimate(name, "recall@10").mean, abs=1e-6)
        assert curve == sorted(curve)


def test_reports_of_before_still_load(report: Report, tmp_path: Path) -> None:
    data = as_json(report, tmp_path)
    late = ("breakdown", "recall_curve", "rankings", "fingerprint", "precision_curve", "trade_offs", "calibration")
    for key in late:
        del data[key]
    for row in data["per_query"]:
        del row["bins"], row["others"]
    for part in (data, *data["slices"].values()):
        del part["headline_metric"]
        for item in part["comparisons"]:
            del item["p_holm"], item["p_t"], item["effect_size"]
    (tmp_path / "old.json").write_text(json.dumps(data), encoding="utf-8")
    old = read_report(tmp_path / "old.json")
    assert old.breakdown == {}
    assert old.rankings is None
    assert old.headline_metric == "ndcg@10"
    assert (old.trade_offs, old.calibration, old.precision_curve) == ({}, {}, {})
    assert gate(report, old, {"recall@10": 0.0, "ndcg@10": 0.0}).passed
    assert compare_reports([old, report], rounds=50).metric == "ndcg@10"
    assert old.headline is not None
    assert old.headline.significant == (old.headline.p_value < 0.05)


def test_every_metric_is_kept_by_query(evidence: Evidence, report: Report) -> None:
    for name, run in evidence.runs.items():
        values = score(run, evidence.qrels, METRICS)
        for metric in METRICS:
            kept = report.by_query(metric, name)
            assert list(kept) == [row.id for row in report.per_query]
            assert list(kept.values()) == pytest.approx(values[metric], abs=1e-6)


def test_another_headline_is_what_everything_is_about(evidence: Evidence, tmp_path: Path) -> None:
    report = build(replace(evidence, headline="recall@10"))
    base, tuned = (score(evidence.runs[name], evidence.qrels, ["recall@10"])["recall@10"] for name in ("base", "tuned"))
    assert report.headline is not None
    assert (report.headline.metric, report.estimate("tuned").mean) == ("recall@10", pytest.approx(tuned.mean()))
    assert [row.scores["tuned"] for row in report.per_query] == pytest.approx(tuned.tolist())
    assert set(report.per_query[0].others) == set(METRICS) - {"recall@10"}
    parts = [*report.slices.values(), *(part for bins in report.breakdown.values() for part in bins.values())]
    assert {part.headline_metric for part in parts} == {"recall@10"}
    assert report.examples is not None
    gains = tuned - base
    assert [it.gain for it in report.examples.best] == sorted(gains[gains > 0], reverse=True)[:10]
    assert next(it for it in verdict(report) if " went from " in it).startswith("Recall@10 went from")
    write_report(report, tmp_path / "report.json")
    assert read_report(tmp_path / "report.json") == report


def test_a_report_needs_no_ndcg(evidence: Evidence) -> None:
    report = build(replace(evidence, metrics=["map", "hit@1"], headline="map"))
    assert report.metrics == ["map", "hit@1"]
    assert report.ranked()[0] == "tuned+bm25"
    assert "nDCG" not in " ".join(verdict(report))


def test_precision_curves_fall(report: Report) -> None:
    assert list(report.precision_curve) == list(report.systems)
    for curve in report.precision_curve.values():
        assert len(curve) == 11
        assert curve == sorted(curve, reverse=True)
