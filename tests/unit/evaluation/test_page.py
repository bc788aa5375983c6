"""The page as text: escaped, offline, complete. How it looks in a browser is in tests/e2e/test_report_page.py."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from markupsafe import Markup
from tests.unit.evaluation.drawable import colours_of, undrawn
from tests.unit.evaluation.made_up import (
    made_up_collection,
    made_up_evidence,
    made_up_run,
    with_reranking,
    with_two_relevant,
)

from searchtune.evaluation import Evidence, build_report, explorer, page, read_report, write_report
from searchtune.evaluation.charts import MOST_BARS, gain_rows, page_charts
from searchtune.evaluation.report import QueryScores
from searchtune.evaluation.table import markdown_table, render_report

EVIL = "<script>alert('x')</script> & \"more\" \u2028 </script>"


@pytest.fixture(autouse=True, scope="module")
def no_bundle() -> Iterator[None]:
    """Vega takes seconds to bundle and says nothing here."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "vega_script", lambda: Markup("/* vega */"))
        yield


@pytest.fixture(scope="module")
def html(no_bundle: None) -> str:
    return page.render_page(build_report(made_up_evidence(queries=30, docs=60), rounds=100))


def evil_evidence() -> Evidence:
    evidence = made_up_evidence(queries=30, docs=40)
    old = evidence.collection
    collection = replace(
        old,
        name=EVIL,
        titles=[EVIL] * 40,
        texts=[EVIL] * 40,
        query_texts=[f"{text} {EVIL}" for text in old.query_texts],
        doc_ids=[f"{i:03}{EVIL}" for i in range(40)],
    )
    runs = {f"{name}{EVIL}": run for name, run in evidence.runs.items()}
    return replace(
        evidence, collection=collection, runs=runs, reference=f"base{EVIL}", tuned=[f"tuned{EVIL}"], pairs=[], residual=None,
        provenance={EVIL: {EVIL: EVIL}}, training={EVIL: EVIL, "curve": [{"step": 1, "loss": 1.0, "lr": 0.1}]}, costs={EVIL: {EVIL: EVIL}},
    )  # fmt: skip


def charts_of(html: str) -> dict:
    return data_of(html, "charts")


def data_of(html: str, name: str) -> dict:
    found = re.search(rf'<script type="application/json" id="{name}">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_everything_from_data_is_escaped() -> None:
    html = page.render_page(build_report(evil_evidence(), rounds=100))
    assert "<script>alert" not in html
    assert html.count("<script") == html.count("</script>") == 6
    assert "&lt;script&gt;alert" in html
    assert all("<script>alert('x')</script>" in row["query"] for row in charts_of(html)["gains"]["data"]["values"])


def test_page_needs_no_network(html: str) -> None:
    assert "default-src 'none'" in html
    assert "unsafe-eval" not in html
    assert not re.search(r"(?:src|href)\s*=|@import|url\(", html)


def test_every_chart_has_its_place_and_vega_stands_once(html: str) -> None:
    charts = charts_of(html)
    slices = {"slice-all", "slice-unseen", "slice-seen", "slice-residual"}
    assert set(charts) == {*slices, "gains", "loss", "dev", "recall", "kind-0"}
    assert all(html.count(f'id="{name}"') == 1 for name in charts)
    assert html.count("/* vega */") == 1
    assert all(chart["description"] for chart in charts.values())
    assert len(re.findall(r"<h1", html)) == 1


def test_small_reports_render() -> None:
    collection = made_up_collection(docs=1, queries=1)
    run = made_up_run(collection, collection.qrels["test"], 0.0, seed=1)
    nothing_tuned = Evidence(collection, "test", collection.qrels["test"], {"base": run})
    tuned = replace(nothing_tuned, runs={"base": run, "tuned": run}, tuned=["tuned"], seen=np.array([True]))
    for evidence in (nothing_tuned, tuned):
        html = page.render_page(build_report(evidence, rounds=50))
        assert not re.search(r"\bnan\b", html, re.IGNORECASE)
        assert "NaN" not in json.dumps(charts_of(html))
    assert "1 query cannot show whether tuning helped." in html


def test_seen_only_is_the_headline() -> None:
    html = page.render_page(
        build_report(made_up_evidence(queries=200, docs=300, unseen_gain=-0.3, seen_gain=1.5), rounds=200)
    )
    assert '<span class="badge bad">Gain lives only in seen queries</span>' in html
    assert "<h1>The headline gain lives only in seen queries" in html


def test_many_queries_are_thinned_but_keep_their_ends() -> None:
    report = build_report(made_up_evidence(queries=30, docs=60), rounds=50)
    rows = [
        QueryScores(id=f"q{i}", text="t", slice="seen", scores={"base": 0.5, "tuned": i / 5000}) for i in range(5000)
    ]
    shown = gain_rows(report.model_copy(update={"per_query": rows}))
    assert len(shown) == MOST_BARS
    assert (shown[0]["id"], shown[-1]["id"]) == ("q4999", "q0")
    assert [row["rank"] for row in shown] == list(range(1, MOST_BARS + 1))


def test_curve_without_dev_or_with_lost_loss() -> None:
    evidence = made_up_evidence(queries=30, docs=60, training={"curve": [{"step": 1, "loss": float("nan"), "lr": 0.1}]})
    assert {"loss", "dev"}.isdisjoint(page_charts(build_report(evidence, rounds=50)))


def test_every_query_and_its_rankings_are_there() -> None:
    evidence = made_up_evidence(queries=30, docs=60)
    report = build_report(evidence, rounds=50)
    html = page.render_page(report)
    table, rankings = data_of(html, "queries"), data_of(html, "rankings")
    assert [row["id"] for row in table["rows"]] == evidence.collection.query_ids
    assert set(rankings["queries"]) == set(evidence.collection.query_ids)
    assert (table["a"], table["b"], table["left_out"]) == ("base", "tuned", 0)
    row = table["rows"][3]
    assert {table["bins"][i][0] for i in row["bins"]} == set(report.breakdown)
    first = rankings["queries"]["q0003"]
    top = [rankings["cards"][card]["id"] for card in first["top"]["tuned"]]
    assert top == [evidence.collection.doc_ids[doc] for doc in evidence.runs["tuned"].docs[3][:10]]
    assert rankings["cards"][first["relevant"][0]]["id"] == "doc-0003"


def test_a_large_page_is_cut_to_its_limit_and_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    report = build_report(made_up_evidence(queries=40, docs=60), rounds=50)
    bare = len(page.render_page(report.model_copy(update={"rankings": None, "examples": None})).encode())
    monkeypatch.setattr(page, "LIMIT", bare + 6_000)
    html = page.render_page(report)
    assert len(html.encode()) <= bare + 6_000
    rankings = data_of(html, "rankings")
    assert rankings["snippet"] == 0
    assert 0 < rankings["left_out"] == 40 - len(rankings["queries"])
    monkeypatch.setattr(explorer, "MOST_ROWS", 7)
    html = page.render_page(report)
    assert len(data_of(html, "queries")["rows"]) == 7
    assert "The 7 queries that differ most between systems are listed; 33 queries are left out for size." in html


def test_old_reports_show_their_examples() -> None:
    report = build_report(made_up_evidence(queries=30, docs=60), rounds=50)
    old = {"rankings": None, "breakdown": {}, "recall_curve": {}, "precision_curve": {}, "fingerprint": ""}
    html = page.render_page(report.model_copy(update=old))
    assert "Gained most" in html
    assert data_of(html, "rankings") is None


def test_untuned_suites_have_a_page_of_their_own() -> None:
    evidence = made_up_evidence(queries=30, docs=60)
    runs = {name: evidence.runs[name] for name in ("bm25", "base", "hybrid")}
    bare = replace(evidence, runs=runs, reference="bm25", tuned=(), pairs=(), seen=None, residual=None, training={})
    html = page.render_page(build_report(bare, rounds=50))
    assert "Side by side" in html
    assert "training never saw" not in html
    assert "gains" in charts_of(html)
    assert html.count('class="tile"') == 3


def test_losses_against_exact_search_are_shown() -> None:
    costs = {"hnsw": {"index_mb": 3.5, "exact_loss": {"ndcg@10": 0.0125}}}
    html = page.render_page(build_report(made_up_evidence(queries=30, docs=60, costs=costs), rounds=50))
    assert "Lost against exact search" in html
    assert "ndcg@10 <b>0.0125</b>" in html
    assert "exact loss" not in html


def test_the_headline_is_what_the_page_is_about() -> None:
    report = build_report(made_up_evidence(queries=30, docs=60, headline="mrr@10"), rounds=50)
    html = page.render_page(report)
    assert '<div class="tile"><dt>MRR@10</dt>' in html
    assert '<option value="mrr@10" selected>' in html
    assert "MRR@10 went from" in html
    charts = charts_of(html)
    assert "MRR@10" in charts["gains"]["description"]
    assert "MRR@10" in charts["kind-0"]["description"]
    assert {"name": "metric", "value": "mrr@10"} in charts["slice-all"]["params"]
    assert data_of(html, "queries")["rows"][3]["scores"] == list(report.per_query[3].scores.values())


def test_charts_follow_the_schema_of_vega_lite() -> None:
    charts = page_charts(build_report(with_reranking(made_up_evidence(queries=30, docs=60)), rounds=50))
    for chart in (charts[name] for name in set(charts) - {"slice-unseen", "slice-seen", "slice-residual"}):
        alt.Chart.from_dict({**chart, "data": {"values": chart["data"]["values"][:1]}}, validate=True)
        assert '"name": "rows"' not in json.dumps(chart), "a layer that looks for its rows where there are none"


def test_rerankers_have_their_sections() -> None:
    html = page.render_page(build_report(with_reranking(made_up_evidence(queries=30, docs=60)), rounds=50))
    charts = charts_of(html)
    assert [row["depth"] for row in charts["trade-off"]["data"]["values"]] == [5, 10, 20, 50] * 2
    assert {row["name"] for row in charts["reliability"]["data"]["values"]} == {"before", "after"}
    assert all(html.count(f'id="{name}"') == 1 for name in ("trade-off", "reliability"))
    assert html.count('<span class="chip">in use</span>') == 2
    assert "does not pay" not in html
    plain = page.render_page(build_report(made_up_evidence(queries=30, docs=60), rounds=50))
    assert 'id="h-trade"' not in plain
    assert 'id="h-calibration"' not in plain


def test_a_warning_stands_in_a_box_of_its_own_and_once() -> None:
    report = build_report(with_reranking(made_up_evidence(queries=60, docs=90), ability=0.0), rounds=200)
    html = page.render_page(report)
    assert html.count("Reranking does not pay here") == 1
    assert '<p class="callout caution" role="note"><b>Reranking does not pay here:</b> tuned-ce at top 20' in html


def test_times_that_nobody_measured_leave_the_chart_out() -> None:
    evidence = with_reranking(made_up_evidence(queries=30, docs=60))
    unmeasured = {
        name: [replace(it, ms_per_query=math.nan) for it in points] for name, points in evidence.trade_offs.items()
    }
    html = page.render_page(build_report(replace(evidence, trade_offs=unmeasured, calibration={}), rounds=50))
    assert "trade-off" not in charts_of(html)
    assert "Quality against cost" in html


def test_what_gets_worse_is_told_for_every_comparison() -> None:
    evidence = made_up_evidence(queries=60, docs=90, seen_gain=-1.0, unseen_gain=-1.0)
    html = page.render_page(build_report(evidence, rounds=50))
    part = html[html.index('id="h-hurt"') : html.index('id="explore"')]
    assert re.findall(r'<span class="versus">(.*?)</span>', part) == ["base → tuned", "hybrid → tuned+bm25"]
    assert part.count("<tr>") == 2 * (1 + 10)
    assert "the worst 10 shown" in part


def test_warnings_given_on_the_way_are_told_wherever_the_report_is_read(tmp_path: Path) -> None:
    notes = (f"12 training pairs {EVIL}", "9 of 10 texts are cut")
    report = build_report(made_up_evidence(queries=30, docs=60, notes=notes), rounds=50)
    write_report(report, tmp_path / "report.json")
    again = read_report(tmp_path / "report.json")
    assert again.notes == notes
    html = page.render_page(again)
    assert "<li>9 of 10 texts are cut</li>" in html and "12 training pairs &lt;script&gt;" in html
    assert "warning: 9 of 10 texts are cut" in render_report(again)
    assert "Warned on the way" not in page.render_page(report.model_copy(update={"notes": ()}))


def test_every_chart_has_something_to_draw() -> None:
    """The chart of the dev split was an empty frame: its rows held all figures of a look where one was drawn."""
    for evidence in (
        with_two_relevant(with_reranking(made_up_evidence(queries=30, docs=60))),
        made_up_evidence(queries=3, docs=9),
    ):
        charts = page_charts(build_report(evidence, rounds=50))
        assert {"dev", "loss", "gains", "slice-all"} <= set(charts)
        assert {name: undrawn(chart) for name, chart in charts.items() if undrawn(chart)} == {}


def test_the_dev_chart_draws_the_metric_that_chose_and_the_step_that_was_kept() -> None:
    report = build_report(made_up_evidence(queries=30, docs=60), rounds=50)
    rows = page_charts(report)["dev"]["data"]["values"]
    assert [(row["step"], row["dev"], row["kept"]) for row in rows] == [
        (30, 0.71, "no"), (60, 0.742, "no"), (90, 0.756, "yes"), (120, 0.753, "no"),
    ]  # fmt: skip
    old = {**report.training, "curve": [{"step": 1, "loss": 1.0, "lr": 0.1, "dev": 0.5}]}
    assert page_charts(report.model_copy(update={"training": old}))["dev"]["data"]["values"][0]["dev"] == 0.5


def test_a_system_has_one_colour_on_every_chart() -> None:
    charts = page_charts(
        build_report(with_two_relevant(with_reranking(made_up_evidence(queries=30, docs=60))), rounds=50)
    )
    found = {name: colours_of(chart) for name, chart in charts.items()}
    assert set(filter(found.get, found)) >= {"slice-all", "recall", "precision", "trade-off"}
    for colours in found.values():
        assert all(found["slice-all"].get(system, colour) == colour for system, colour in colours.items())
        assert len(set(colours.values())) == len(colours)
    assert found["recall"]["base"] == "theme:other"
    assert found["recall"]["tuned-ce"] == found["trade-off"]["tuned-ce"] == "theme:accent"


def test_what_would_only_repeat_is_left_out() -> None:
    evidence = made_up_evidence(queries=30, docs=60, seen_share=0.0)
    html = page.render_page(build_report(replace(evidence, residual=None), rounds=50))
    charts = charts_of(html)
    assert "slice-all" in charts and {"slice-unseen", "slice-seen", "slice-residual"}.isdisjoint(charts)
    assert "There is no such query" not in html and "unseen</b> ·" not in html
    assert html.count('class="tile"') == 2
    assert "Every test query is unseen" in html
    assert "on unseen queries" not in html and "click the legend" not in html


def test_precision_by_recall_is_drawn_only_where_it_falls() -> None:
    flat = page_charts(build_report(made_up_evidence(queries=30, docs=60), rounds=50))
    assert "recall" in flat and "precision" not in flat
    assert "precision" in page_charts(build_report(with_two_relevant(made_up_evidence(queries=30, docs=60)), rounds=50))


def test_no_star_where_the_cutoff_takes_in_every_document() -> None:
    report = build_report(made_up_evidence(queries=30, docs=82), rounds=50)
    html = page.render_page(report)
    whole = "Recall@100 takes in all 82 documents of this collection"
    assert whole in html and whole in render_report(report) and whole in markdown_table(report)
    rows = re.findall(r'<tr><th scope="row" data-v="\d"[^>]*>.*?</tr>', html, re.DOTALL)
    cells = [re.findall(r"<td[^>]*>", row) for row in rows[:5]]
    assert all("best" not in row[2] for row in cells) and any("best" in row[0] for row in cells)
    assert whole not in page.render_page(build_report(made_up_evidence(queries=30, docs=150), rounds=50))


def test_the_first_lines_name_base_and_recipe(html: str) -> None:
    first = html[: html.index("<h1>")]
    assert "base <b>a-small-encoder</b>" in first
    assert "recipe <b>embed: 2 epochs, rate 0.001, seed 13</b>" in first


def test_two_p_values_say_which_is_which(html: str) -> None:
    part = html[html.index('id="h-pairs"') : html.index('id="h-training"')]
    assert re.search(r"<td>[<\d. ]+<small>[<\d. ]+ corrected</small></td>", part)
    read = re.sub(r"<(script|style)[^>]*>.*?</\1>", "", html, flags=re.DOTALL)
    assert "))" not in read and not re.search(r"\([^()]*\(", read), "brackets inside brackets"
