"""`searchtune eval`: what is printed, exit codes, and what is refused."""

import json

import pytest
from tests.unit.evaluation.made_up import made_up_evidence
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.cli.tables import render_scores
from searchtune.evaluation import build_report, render_report, write_report
from searchtune.evaluation.report import SystemScores
from searchtune.evaluation.wording import metric_label
from searchtune.workflows.score import score_files

QRELS = "q1 0 a 1\nq1 0 b 0\nq2 0 c 2\nq3 0 d 1\n"
GOOD = "q1 Q0 a 1 3 good\nq1 Q0 b 2 2 good\nq2 Q0 c 1 3 good\nq3 Q0 d 1 1 good\n"
BAD = "q1 Q0 b 1 3 bad\nq1 Q0 a 2 2 bad\nq2 Q0 x 1 3 bad\n"


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in (("qrels", QRELS), ("good.run", GOOD), ("bad.run", BAD)):
        (tmp_path / name).write_text(text, encoding="utf-8")
    return lambda *args: CliRunner().invoke(app, list(map(str, args)), prog_name="searchtune")


def test_scores_of_files(run):
    done = run("eval", "score", "qrels", "good.run", "bad.run", "-m", "ndcg@10", "-m", "map")
    assert done.exit_code == 0, done.output
    assert "3 queries" in done.stdout
    assert "against good" in done.stdout
    assert "bad lacks 1 query" in done.stdout


def test_scores_for_machines(run):
    found = json.loads(run("eval", "score", "qrels", "good.run", "bad.run", "--json").stdout)
    assert found["systems"]["good"]["metrics"]["ndcg@10"]["mean"] == 1.0
    assert found["systems"]["bad"]["missing"] == 1
    assert {(it["a"], it["b"]) for it in found["comparisons"]} == {("good", "bad")}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("score", "qrels", "none.run"), "none.run"),
        (("score", "qrels", "qrels"), "qrels:1"),
        (("score", "qrels", "good.run", "-m", "ndgc@10"), "did you mean 'ndcg'"),
        (("run", "pystdlb"), "did you mean 'pystdlib'"),
        (("compare", "good.run"), "good.run: not a report"),
        (("gate", "good.run", "--baseline", "good.run", "--max-drop", "ndcg@10"), "ndcg@10"),
        (("table", "good.run"), "not a report"),
    ],
)
def test_what_is_refused(run, args, words):
    done = run("eval", *args)
    assert done.exit_code == 2
    assert words in done.stderr
    assert "Traceback" not in done.stderr


@pytest.fixture
def reports(tmp_path):
    """Two reports over the same twenty queries, the second one with a worse tuned system."""
    report = build_report(made_up_evidence(queries=20, docs=40), rounds=50)
    old = report.systems["tuned"].metrics["ndcg@10"]
    worse = {**report.systems["tuned"].metrics, "ndcg@10": old._replace(mean=old.mean - 0.05)}
    changed = report.model_copy(update={"systems": {**report.systems, "tuned": SystemScores(metrics=worse)}})
    for name, it in (("before", report), ("after", changed)):
        (tmp_path / name).mkdir()
        write_report(it, tmp_path / name / "report.json")
    return "before/report.json", "after/report.json"


def test_the_gate(run, reports):
    before, after = reports
    gate = ("eval", "gate", "--baseline", before, "--max-drop", "ndcg@10=0.5%")
    assert run(*gate, before).exit_code == 0
    failed = run(*gate, after)
    assert failed.exit_code == 1
    assert "FAIL tuned" in failed.stdout
    assert run(*gate, after, "--system", "base").exit_code == 0
    assert json.loads(run(*gate, after, "--json").stdout)["passed"] is False


def test_a_comparison(run, reports):
    done = run("eval", "compare", *reports)
    assert done.exit_code == 0, done.output
    assert "before" in done.stdout
    assert "20 queries" in done.stdout
    assert json.loads(run("eval", "compare", *reports, "--json").stdout)["n"] == 20
    other = run("eval", "compare", *reports, "--metric", "mrr@10")
    assert (other.exit_code, "MRR@10 on 20 queries" in other.stdout) == (0, True)
    wrong = run("eval", "compare", *reports, "--metric", "mrr@11")
    assert (wrong.exit_code, "did you mean 'mrr@10'" in wrong.stderr) == (2, True)


def test_tables(run, reports):
    assert "| tuned" in run("eval", "table", reports[0], "--format", "markdown").stdout
    assert "\\toprule" in run("eval", "table", reports[0], "--format", "latex", "--slice", "unseen").stdout
    wrong = run("eval", "table", reports[0], "--format", "markdwn")
    assert (wrong.exit_code, "did you mean 'markdown'" in wrong.stderr) == (2, True)


SEVEN = ("ndcg@10", "recall@10", "recall@100", "mrr@10", "map", "precision@5", "hit@1")


def test_nothing_is_cut_where_output_is_no_terminal(run):
    """Seven metrics left no column for the names, and intervals ended in dots."""
    shown = run("eval", "score", "qrels", "good.run", "bad.run", *(word for it in SEVEN for word in ("-m", it))).stdout
    assert "…" not in shown and "..." not in shown
    head, row = (next(line for line in shown.splitlines() if name in line) for name in ("nDCG@10", "good"))
    assert all(metric_label(it) in head for it in SEVEN) and row.count("–") == 7


@pytest.mark.parametrize("width", [80, 40])
def test_a_terminal_without_room_gets_several_tables(run, tmp_path, width):
    scores = score_files(tmp_path / "qrels", [tmp_path / "good.run", tmp_path / "bad.run"], SEVEN)
    shown = render_scores(scores, width)
    assert max(map(len, shown.splitlines())) <= width
    assert "…" not in shown and all(metric_label(it) in shown for it in SEVEN)
    report = build_report(made_up_evidence(queries=30, docs=60, metrics=SEVEN), rounds=50)
    for text in (render_report(report, width=width), render_report(report)):
        assert "…" not in text and all(metric_label(it) in text for it in SEVEN)
        assert text.count("★") == render_report(report, width=1000).count("★")
    assert max(map(len, render_report(report, width=width).splitlines())) <= width


def test_reports_behind_links_in_a_circle(run, reports, tmp_path):
    (tmp_path / "round").symlink_to("around")
    (tmp_path / "around").symlink_to("round")
    done = run("eval", "compare", reports[0], "round")
    assert (done.exit_code, "Traceback" in done.stderr, "round" in done.stderr) == (2, False, True)
