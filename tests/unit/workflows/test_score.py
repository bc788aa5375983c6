"""Run files scored and compared."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from searchtune.data.named import NamedQrels, NamedRun, align
from searchtune.data.trec import write_qrels_file, write_trec_run
from searchtune.errors import ConfigError, DataError
from searchtune.evaluation.figures import figures
from searchtune.metrics import holm, score
from searchtune.workflows.score import score_files

QUERIES = [f"q{i}" for i in range(30)]
LABELS = NamedQrels.from_dicts({query: {"d1": 2, "d2": 1, "d3": 0} for query in QUERIES})


def run_with_ranks(tag: str, lift: int, queries: list[str] = QUERIES) -> NamedRun:
    """A run that ranks ten documents by chance, save that `d1` is `lift` standard deviations above the others."""
    rng = np.random.default_rng(5)
    return NamedRun.from_dicts(
        tag, {query: {f"d{doc}": float(rng.normal(lift * (doc == 1))) for doc in range(10)} for query in queries}
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, list[Path]]:
    qrels, runs = tmp_path / "test.qrels", [tmp_path / name for name in ("base.run", "worse.run.gz", "same.trec")]
    write_qrels_file(qrels, LABELS)
    for path, named in zip(
        runs, (run_with_ranks("t", 1), run_with_ranks("t", -1), run_with_ranks("t", 1)), strict=True
    ):
        write_trec_run(path, named)
    return qrels, runs


def test_figures_and_comparisons_of_three_runs(files: tuple[Path, list[Path]]) -> None:
    qrels, runs = files
    found = score_files(qrels, runs, ["NDCG@10", "mrr"], rounds=2000)
    assert [system.name for system in found.systems] == ["base", "worse", "same"]
    assert (list(found.query_ids), list(found.metrics)) == (sorted(QUERIES), ["ndcg@10", "mrr"])
    base, worse, same = found.systems
    aligned = align(LABELS, {"worse": run_with_ranks("t", -1)})
    assert worse.values["mrr"].tolist() == score(aligned.runs["worse"], aligned.qrels, ["mrr"])["mrr"].tolist()
    assert worse.estimates["mrr"].mean == pytest.approx(worse.values["mrr"].mean())
    assert worse.estimates["mrr"].low < worse.estimates["mrr"].mean < worse.estimates["mrr"].high
    assert [(it.a, it.b, it.metric) for it in found.comparisons] == [
        ("base", "worse", "ndcg@10"),
        ("base", "same", "ndcg@10"),
        ("base", "worse", "mrr"),
        ("base", "same", "mrr"),
    ]
    first, second = found.comparisons[:2]
    assert first.delta == pytest.approx(worse.values["ndcg@10"].mean() - base.values["ndcg@10"].mean())
    assert [first.p_holm, second.p_holm] == holm([first.p_value, second.p_value])
    assert first.high < 0 < first.losses
    assert (first.effect_size < 0, first.p_t < 0.05, first.p_holm < 0.05) == (True, True, True)
    assert (second.p_value, second.p_holm, second.p_t, second.effect_size) == (1, 1, 1, 0)
    assert (second.wins, second.ties, second.losses) == (0, 30, 0)
    assert same.values["mrr"].tolist() == base.values["mrr"].tolist()


def test_figures_are_those_that_a_report_would_hold(files: tuple[Path, list[Path]]) -> None:
    qrels, runs = files
    found = score_files(qrels, runs, ["mrr", "map"], rounds=500)
    values = {system.name: system.values for system in found.systems}
    pairs = [("base", "worse"), ("base", "same")]
    expected = figures(values, systems=values, pairs=pairs, metrics=["mrr", "map"], seed=13, rounds=500)
    assert sorted(found.comparisons, key=str) == sorted(expected.comparisons, key=str)
    assert {it.name: it.estimates for it in found.systems} == {
        name: it.metrics for name, it in expected.systems.items()
    }


def test_repeats_under_a_seed(files: tuple[Path, list[Path]]) -> None:
    qrels, runs = files
    first, again = (score_files(qrels, runs[:2], ["mrr"], rounds=500) for _ in range(2))
    assert first.comparisons == again.comparisons
    assert first.comparisons != score_files(qrels, runs[:2], ["mrr"], rounds=500, seed=1).comparisons


def test_one_run_is_compared_with_nothing(files: tuple[Path, list[Path]]) -> None:
    qrels, runs = files
    found = score_files(qrels, runs[:1], ["ndcg@10"], rounds=200)
    assert (len(found.systems), list(found.comparisons)) == (1, [])


def test_missing_and_unknown_queries_are_counted(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    qrels, runs = files
    write_trec_run(tmp_path / "part.run", run_with_ranks("t", 1, [*QUERIES[:10], "else1", "else2"]))
    part = score_files(qrels, [runs[0], tmp_path / "part.run"], ["hit@10"], rounds=200).systems[1]
    assert (part.missing, part.ignored) == (20, 2)
    assert part.values["hit@10"].mean() == pytest.approx(1 / 3)


def test_one_judged_query_gives_figures_without_intervals(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    write_qrels_file(tmp_path / "one.qrels", NamedQrels.from_dicts({"q0": {"d1": 1}}))
    found = score_files(tmp_path / "one.qrels", files[1], ["recall@10"], rounds=200)
    assert found.systems[0].estimates["recall@10"].mean == 1.0
    assert math.isnan(found.comparisons[0].low)
    assert math.isnan(found.comparisons[0].p_t)


def test_min_grade_reaches_the_metrics_and_odd_things_are_passed_on(tmp_path: Path) -> None:
    (tmp_path / "q").write_text("q 0 d 1\nq 0 e 2\nq 0 e 2\n")
    (tmp_path / "r").write_text("q Q0 d 2 2 t\nq Q0 e 1 1 t\n")
    found = score_files(tmp_path / "q", [tmp_path / "r"], ["mrr"], min_grade=2)
    assert found.systems[0].values["mrr"].tolist() == [0.5]
    assert "rank column contradicts" in found.systems[0].warnings[0]
    assert "label repeated" in found.warnings[0]


def test_names_tell_runs_apart(files: tuple[Path, list[Path]], tmp_path: Path) -> None:
    qrels, runs = files
    other = tmp_path / "other" / "base.run"
    write_trec_run(other, run_with_ranks("t", 2))
    names = [system.name for system in score_files(qrels, [*runs[:2], other], ["mrr"], rounds=200).systems]
    assert names == [str(runs[0]), "worse", str(other)]


def test_mistakes_are_told_before_files_are_read(tmp_path: Path) -> None:
    nothing = tmp_path / "nothing"
    with pytest.raises(ConfigError, match="no run to score"):
        score_files(nothing, [], ["mrr"])
    with pytest.raises(ConfigError, match="nothing is given twice"):
        score_files(nothing, [nothing, nothing], ["mrr"])
    with pytest.raises(ConfigError, match="no metric to score"):
        score_files(nothing, [nothing], [])
    with pytest.raises(ConfigError, match="unknown metric 'mmr'; did you mean 'mrr'"):
        score_files(nothing, [nothing], ["mmr"])
    with pytest.raises(DataError, match="nothing: cannot be read"):
        score_files(nothing, [nothing], ["mrr"])
