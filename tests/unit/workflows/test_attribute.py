"""Attributing a pipeline: the grid is what single runs give, work is shared, a killed one goes on, pages are whole."""

import json
import math

import numpy as np
import pytest

from searchtune.data.beir import read_beir
from searchtune.data.references import read_references
from searchtune.errors import ConfigError, DataError
from searchtune.evaluation.attribution import Grid, attributed, attribution_verdict, narrowed, read_attribution
from searchtune.evaluation.attribution_page import attribution_charts, render_attribution_page, waterfall_rows
from searchtune.evaluation.attribution_table import render_attribution
from searchtune.metrics.shapley import members
from searchtune.pipeline.chain import Switch, as_run
from searchtune.specs.base import parse_spec
from searchtune.specs.pipeline import PipelineSpec
from searchtune.types import Turn
from searchtune.workflows.attribute import attribute_pipeline
from searchtune.workflows.attribute_grid import AttributionPlan
from searchtune.workflows.open_pipeline import OpenPipeline
from unit.evaluation.drawable import undrawn
from unit.pipeline.stages import Decides, fake_chain

SPEC = {
    "task": "tiny",
    "rewrite": {"adapter": "runs/w"},
    "retrieve": {"adapter": "runs/e", "depth": 12},
    "rerank": {"adapter": "runs/r", "depth": 4},
    "answer": {"adapter": "runs/a", "passages": 2},
    "judge": {"adapter": "runs/j"},
}
STAGES = ("rewrite", "retrieve", "rerank", "answer")


@pytest.fixture
def opened(tiny_collection):
    return pipeline(tiny_collection)


def pipeline(folder, spec=SPEC, **changes):
    collection = read_beir(folder)
    chain = fake_chain(collection.doc_ids, collection.documents, **changes)
    return OpenPipeline("tiny", parse_spec(PipelineSpec, spec, "test"), collection, chain, {"made": 1}, None)


def plan(opened, **changes):
    turns = {
        name: Turn(text, (("user", "before"),))
        for name, text in zip(opened.collection.query_ids, opened.collection.query_texts, strict=True)
    }
    return AttributionPlan(**{"turns": turns, "batch": 5, **changes})


def test_the_grid_is_what_single_runs_give(opened, tiny_collection, tmp_path):
    report = attribute_pipeline(opened, tmp_path / "out", plan(opened))
    assert list(report.stages) == list(STAGES) and report.queries == 12
    rows = [json.loads(line) for line in (tmp_path / "out" / "values.jsonl").read_text().splitlines()]
    bare, turns = pipeline(tiny_collection), plan(opened).turns
    qrels = bare.collection.qrels["test"]
    from searchtune.metrics.ranking import score

    for column in range(16):
        on = members(column, STAGES)
        asked = [turns[row["query_id"]] for row in rows]
        outcomes = bare.chain.ask(asked, stages={name: name in on for name in STAGES})
        name = "+".join(on) or "none"
        expected = score(as_run(outcomes, qrels.queries.tolist()), qrels, ["ndcg@10"])["ndcg@10"]
        assert [row["ndcg@10"][name] for row in rows] == pytest.approx(expected.tolist(), abs=1e-6)
        for row, outcome, place in zip(rows, outcomes, range(len(rows)), strict=True):
            docs, _ = qrels.row(place)
            relevant = {bare.collection.doc_ids[doc] for doc in docs}
            hit = bool(relevant & set(outcome.cited)) and not outcome.answer.abstained
            assert row["citation_hit"][name] == float(hit)


def test_shares_add_up_and_the_answer_is_no_part_of_the_ranking(opened, tmp_path):
    report = attribute_pipeline(opened, tmp_path / "out", plan(opened))
    assert report.headline == "citation_hit" and list(report.metrics["ndcg@10"].stages) == list(STAGES[:3])
    for metric in report.metrics.values():
        gained = metric.everything.value.mean - metric.nothing.value.mean
        assert sum(it.share.mean for it in metric.stages.values()) == pytest.approx(gained)
        assert metric.grid[0].on == [] and metric.grid[-1].on == list(metric.stages)
        assert len(metric.grid) == 2 ** len(metric.stages)
    work = {it.kind: it for it in report.work}
    assert work["rewrite on"].asked == 8 * 12 and work["rewrite on"].distinct == 12
    assert work["retrieve on"].distinct == 24  # as said and rewritten
    assert work["answer on"].distinct == len(opened.chain.answerer.on.asked)
    assert report.stages["answer"].tokens_per_query == pytest.approx(10)
    assert report.full_seconds > 0 and report.ratio > 1


def test_a_stage_that_abstains_everywhere_earns_nothing(tiny_collection, tmp_path):
    both = Switch(Decides(use="never"), Decides(use="never"))
    opened = pipeline(tiny_collection, abstention=both)
    report = attribute_pipeline(opened, tmp_path / "out", plan(opened))
    for metric in report.metrics.values():
        share = metric.stages["rewrite"].share
        assert (share.mean, share.low, share.high) == (0, 0, 0)
    work = {it.kind: it for it in report.work}
    assert "rewrite on" not in work and work["retrieve on"].distinct == 12
    some = pipeline(tiny_collection, abstention=Switch(Decides(), Decides()))
    again = attribute_pipeline(some, tmp_path / "some", plan(some))
    assert again.lead.stages["rewrite"].share.mean == 0
    assert {it.kind: it for it in again.work}["retrieve on"].distinct == 24


class Killed(Exception):
    pass


def test_a_killed_attribution_goes_on(tiny_collection, tmp_path):
    whole = attribute_pipeline(first := pipeline(tiny_collection), tmp_path / "whole", plan(first))
    broken = pipeline(tiny_collection)
    answer, calls = broken.chain.answerer.on.answer, []

    def dies(questions, passages):
        calls.append(1)
        if len(calls) == 6:
            raise Killed
        return answer(questions, passages)

    broken.chain.answerer.on.answer = dies
    with pytest.raises(Killed):
        attribute_pipeline(broken, tmp_path / "out", plan(broken))
    again = pipeline(tiny_collection)
    report = attribute_pipeline(again, tmp_path / "out", plan(again))
    assert report.metrics == whole.metrics
    assert {it.kind: (it.asked, it.distinct) for it in report.work} == {
        it.kind: (it.asked, it.distinct) for it in whole.work
    }
    assert sum(again.chain.rewriter.on.asked.values()) < sum(first.chain.rewriter.on.asked.values())
    third = pipeline(tiny_collection)
    finished = attribute_pipeline(third, tmp_path / "out", plan(third))
    assert not third.chain.answerer.on.asked and finished.metrics == whole.metrics
    assert finished.full_seconds == report.full_seconds


def test_another_job_does_not_share_a_journal(opened, tmp_path):
    attribute_pipeline(opened, tmp_path / "out", plan(opened))
    with pytest.raises(ConfigError, match="another job|differs|queries"):
        attribute_pipeline(opened, tmp_path / "out", plan(opened, max_queries=3))


def test_fewer_queries_and_other_metrics(opened, tmp_path):
    few = attribute_pipeline(opened, tmp_path / "few", plan(opened, max_queries=3))
    assert few.queries == 3 and few.provenance["max_queries"] == 3
    one = attribute_pipeline(opened, tmp_path / "one", plan(opened, max_queries=1))
    assert math.isnan(one.lead.stages["rerank"].share.low)
    assert "too few queries" in " ".join(attribution_verdict(one))
    precise = attribute_pipeline(opened, tmp_path / "p", plan(opened, answer_metric="citation_precision"))
    assert precise.headline == "citation_precision"
    references = {name: ["so it is [1]"] for name in opened.collection.query_ids}
    f1 = attribute_pipeline(opened, tmp_path / "f", plan(opened, answer_metric="token_f1", references=references))
    assert 0 < f1.lead.everything.value.mean <= 1


def test_without_an_answer_the_ranking_is_the_headline(tiny_collection, tmp_path):
    spec = {"task": "tiny", "retrieve": {"adapter": "runs/e", "depth": 12}}
    opened = pipeline(tiny_collection, spec, rewriter=None, reranker=None, answerer=None, judge=None)
    report = attribute_pipeline(opened, tmp_path / "out", AttributionPlan())
    assert report.headline == "ndcg@10" and list(report.metrics) == ["ndcg@10"]
    assert not report.lead.interplay and len(report.lead.grid) == 2


def test_what_cannot_be_attributed(opened, tiny_collection, tmp_path):
    spec = {"task": "tiny", "retrieve": {"words": True}}
    with pytest.raises(ConfigError, match="nothing to switch"):
        attribute_pipeline(pipeline(tiny_collection, spec), tmp_path, AttributionPlan())
    with pytest.raises(ConfigError, match="token_f1 compares with answers by people"):
        attribute_pipeline(opened, tmp_path, plan(opened, answer_metric="token_f1"))
    with pytest.raises(ConfigError, match="did you mean 'citation_hit'"):
        attribute_pipeline(opened, tmp_path, plan(opened, answer_metric="citation_hits"))
    with pytest.raises(DataError, match="no split 'tset'"):
        attribute_pipeline(opened, tmp_path, plan(opened, split="tset"))


def test_reports_are_read_back_and_shown(opened, tmp_path):
    report = attribute_pipeline(opened, tmp_path / "out", plan(opened))
    assert read_attribution(tmp_path / "out" / "attribution.json") == report
    shown = render_attribution(report)
    assert all(name in shown for name in STAGES) and "times what the full pipeline takes alone" in shown
    page = (tmp_path / "out" / "attribution.html").read_text()
    assert "default-src 'none'" in page and "http://" not in page.partition("<script")[0]
    assert page.count('class="switch"') == 16 * 4 + 8 * 3
    (tmp_path / "broken.json").write_text("{}")
    with pytest.raises(DataError, match="not an attribution"):
        read_attribution(tmp_path / "broken.json")


def test_a_stage_that_harms_is_to_be_switched_off(opened, tmp_path):
    rng = np.random.default_rng(0)
    good, bad = 0.3 + 0.05 * rng.standard_normal(40), -0.2 + 0.05 * rng.standard_normal(40)
    values = np.stack([np.zeros(40), good, bad, good + bad], axis=1) + 0.4
    found = attributed(Grid(("retrieve", "rerank"), values, "nDCG@10"), seed=1)
    report = attribute_pipeline(opened, tmp_path / "out", plan(opened))
    report = report.model_copy(update={"headline": "x", "metrics": {"x": found}})
    headline, *reasons = attribution_verdict(report)
    assert headline.startswith("Switch off rerank") and any("retrieve: earns" in line for line in reasons)
    assert any("best of the 4 selections" in line for line in reasons)
    assert "switch it off" in render_attribution_page(report)
    assert all(undrawn(chart) == [] for chart in attribution_charts(report).values())
    bars = waterfall_rows(found)
    assert [bar["finding"] for bar in bars] == ["total", "gain", "loss", "total"]
    assert bars[2]["to"] == pytest.approx(bars[3]["to"])


def test_a_grid_over_fewer_stages():
    values = np.arange(8.0)[None]
    assert narrowed(("a", "b", "c"), values, ("c", "a")).tolist() == [[0, 4, 1, 5]]


def test_references(tmp_path):
    file = tmp_path / "answers.jsonl"
    file.write_text('{"query_id": "q1", "answers": ["a", "b"]}\n\n{"id": 2, "answers": []}\n')
    assert read_references(file) == {"q1": ["a", "b"], "2": []}
    file.write_text('{"query_id": "q1", "answers": "a"}\n')
    with pytest.raises(DataError, match="answers.jsonl:1: answers is"):
        read_references(file)
    with pytest.raises(DataError, match="cannot be read"):
        read_references(tmp_path / "none.jsonl")
