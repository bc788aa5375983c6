"""Reports as they are built, written and read: shape, figures, slices and ugly inputs."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tests.unit.evaluation.made_up import made_up_collection, made_up_evidence, made_up_run

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation import Evidence, Report, build_report, read_report, write_report
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
    assert report.comparisons == []
    assert report.headline is None
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
    with pytest.raises(DataError, match="not a report: the file"):
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
