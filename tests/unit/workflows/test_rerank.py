"""A reranker's whole story on the tiny collection: train, verify, score, put behind a retriever in a suite."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial

import numpy as np
import pytest

import support
from searchtune.data.named import NamedRun
from searchtune.data.tasks import load_task, open_collection
from searchtune.data.trec import read_trec_run, write_trec_run
from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.evaluation import build_report, read_report
from searchtune.models.cards import read_card, read_reranker_card
from searchtune.prompts.rubrics import find_rubric
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.rerank import RerankRecipe
from searchtune.specs.suite import SuiteSpec
from searchtune.types import Run
from searchtune.workflows import rerank_finish, rerank_measure
from searchtune.workflows.adapter import merge_adapter, verify_adapter
from searchtune.workflows.evaluate import run_suite
from searchtune.workflows.judge_job import JobPlan, run_job
from searchtune.workflows.open_judge import open_judge
from searchtune.workflows.open_reranker import open_reranker
from searchtune.workflows.pipeline import open_search
from searchtune.workflows.plan import plan_reranker
from searchtune.workflows.progress import SILENT
from searchtune.workflows.rerank import train_reranker
from searchtune.workflows.rerank_score import score_pairs, score_run
from searchtune.workflows.systems import Request, WordRanker
from unit.workflows.judging import some_pairs

SMALL = {
    "max_tokens": 64,
    "precision": "fp32",
    "first_stage": {"bm25": {"kind": "bm25"}},
    "depth": 10,
    "sweep": [5, 10],
    "method": {"rank": 4, "alpha": 8},
    "objective": {"name": "softmax", "negatives": {"per_query": 3, "last_rank": 15}},
    "optim": {"lr": 1e-2, "epochs": 5, "min_steps": 0, "batch_size": 16, "checkpoint_every": 4},
    "dev": {"times": 2},
}


def small_recipe(task, base, **changes):
    return RerankRecipe.model_validate({**SMALL, "task": str(task), "base": str(base), **changes})


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return support.write_collection(tmp_path_factory.mktemp("world") / "tiny")


@pytest.fixture(autouse=True, scope="module")
def quick_rerank():
    """Verify in this process, resample little and draw no page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rerank_finish, "verify_in_fresh_process", verify_adapter)
        patch.setattr(rerank_measure, "build_report", partial(build_report, rounds=200))
        patch.setattr(rerank_measure, "write_page", lambda report, file: None)
        yield


@pytest.fixture(scope="module")
def finished(world, tiny_model, tmp_path_factory):
    """A finished run. Read only."""
    result = train_reranker(small_recipe(world, tiny_model), tmp_path_factory.mktemp("rerank") / "run")
    assert result is not None
    return result


def test_a_run_leaves_an_adapter_with_its_head_and_a_report(finished):
    card = read_reranker_card(finished.adapter)
    assert card.head == "classifier" and card.depth == 10 and card.blend is not None
    assert verify_adapter(finished.folder).sentence_transformers <= 1e-5
    report = read_report(finished.folder / "report.json")
    assert {"bm25", "reranked", "blended", "early-exit"} <= report.systems.keys()
    assert "base-reranker" not in report.systems, "the base has no head: its scores mean nothing"
    assert [point.depth for point in report.trade_offs["blended"].points] == [5, 10]
    assert report.slices.keys() == {"unseen", "seen", "residual"}
    assert set(report.calibration) == {"before", "after"}
    assert report.provenance["milliseconds_to_rerank_one_query_alone"] > 0


def test_training_learns(finished):
    losses = [step.loss for step in finished.log.steps]
    assert np.mean(losses[-4:]) < np.mean(losses[:4])


def test_reranking_keeps_the_first_stages_documents(finished):
    report = read_report(finished.folder / "report.json")
    for name in ("reranked", "blended"):
        assert report.estimate(name, "recall@100").mean == report.estimate("bm25", "recall@100").mean


@pytest.mark.parametrize("name", ["bce", "regression", "margin", "lambda"])
def test_every_objective_trains(world, tiny_model, tmp_path, name):
    recipe = small_recipe(world, tiny_model, objective={"name": name, "negatives": {"per_query": 3}})
    result = train_reranker(recipe, tmp_path / name)
    assert result is not None and all(np.isfinite(step.loss) for step in result.log.steps)


def test_distillation_needs_every_pair_of_the_teacher(world, tiny_model, tmp_path):
    collection = open_collection(load_task(str(world)))
    train = collection.qrels["train"].queries
    docs = np.tile(np.arange(len(collection.doc_ids)), (len(train), 1))
    run = Run.ranked(train, docs, np.random.default_rng(0).random(docs.shape).astype(np.float32))
    file = tmp_path / "teacher.run"
    write_trec_run(file, NamedRun("teacher", collection.query_ids, collection.doc_ids, run))
    objective = {"name": "margin-mse", "teacher": str(file), "negatives": {"per_query": 2, "last_rank": 5}}
    recipe = small_recipe(world, tiny_model, objective=objective)
    result = train_reranker(recipe, tmp_path / "run")
    assert result is not None and result.log.steps
    shallow = type(run)(run.queries, run.docs[:, :1], run.scores[:, :1])
    write_trec_run(file, NamedRun("teacher", collection.query_ids, collection.doc_ids, shallow))
    with pytest.raises(DataError, match="the teacher has no score for"):
        train_reranker(recipe, tmp_path / "again")


def test_a_resumed_run_ends_in_the_same_weights(finished, world, tiny_model, tmp_path):
    recipe = small_recipe(world, tiny_model)
    folder = tmp_path / "run"
    shutil.copytree(finished.folder, folder)
    *_, last = sorted((folder / "checkpoints").glob("step-*"))
    shutil.rmtree(last)
    shutil.rmtree(folder / "adapter")
    resumed = train_reranker(recipe, folder, policy="resume")
    assert resumed is not None
    name = "adapter_model.safetensors"
    assert (resumed.adapter / name).read_bytes() == (finished.adapter / name).read_bytes()


def test_a_base_with_a_head_is_measured_before_training(finished, world, tmp_path):
    merged = tmp_path / "merged"
    assert merge_adapter(finished.adapter, merged).difference <= 1e-5
    result = train_reranker(small_recipe(world, merged), tmp_path / "run")
    assert result is not None and result.report is not None
    assert {"base-reranker", "reranked"} <= result.report.systems.keys()


def test_an_adapter_of_another_kind_is_refused(finished):
    with pytest.raises(ArtifactError, match="of kind 'rerank', and an embedding adapter is needed"):
        read_card(finished.adapter)


def test_a_run_file_is_reranked_and_scores_come_from_the_cache_next_time(finished, world, tmp_path):
    collection = open_collection(load_task(str(world)))
    queries = collection.qrels["test"].queries
    run = WordRanker(collection).rank(Request(queries, 12), {})
    file = tmp_path / "bm25.run.gz"
    write_trec_run(file, NamedRun("bm25", collection.query_ids, collection.doc_ids, run))
    cache = EmbeddingCache(tmp_path / "cache")
    opened = open_reranker(str(finished.folder))
    done = score_run(opened, file, str(world), tmp_path / "out.run", cache=cache)
    assert done.by_model == done.pairs > 0
    again = score_run(open_reranker(str(finished.folder)), file, str(world), tmp_path / "again.run", cache=cache)
    assert again.by_model == 0 and again.pairs == done.pairs
    assert (tmp_path / "out.run").read_bytes() == (tmp_path / "again.run").read_bytes()
    kept = read_trec_run(tmp_path / "out.run")
    assert kept.run.docs.shape == run.docs.shape
    early = score_run(opened, file, str(world), tmp_path / "early.run", early_exit=True, cache=cache)
    assert early.pairs <= done.pairs


def test_documents_are_read_as_in_training(finished, world, tmp_path):
    """A run file, pairs with titles, a suite and a search from Python give the scores of the template on the card."""
    opened = open_reranker(str(finished.folder), precision="fp32")
    assert opened.card.doc_template == "{title} {text}", "that of the task it was trained on"
    own = replace(opened, card=opened.card.model_copy(update={"doc_template": "{text} ({title})", "blend": None}))
    query, (name, (title, text)) = "harbour tide", next(iter(support.documents().items()))
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": query, "document": f"{text} ({title})"}, {"query": query, "title": title, "text": text}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = support.Notes()
    whole, parts = score_pairs(own, file, progress=said)
    assert whole["score"] == parts["score"]
    assert "documents are read as they stand" in said.notes[0]
    collection = open_collection(load_task(str(world)))
    (tmp_path / "one.run").write_text(f"q48 Q0 {name} 1 1.0 x\n", encoding="utf-8")
    asked = collection.query_texts[collection.query_index["q48"]]
    file.write_text(json.dumps({"query": asked, "title": title, "text": text}) + "\n", encoding="utf-8")
    done = score_run(own, tmp_path / "one.run", str(world), tmp_path / "out.run")
    assert "documents are read as '{text} ({title})', as in training, not '{title} {text}'" in done.warnings[0]
    scores = read_trec_run(tmp_path / "out.run").run.scores
    assert scores[0, 0] == pytest.approx(next(score_pairs(own, file))["score"], abs=1e-5)
    assert own.reads(collection).documents[collection.doc_index[name]] == f"{text} ({title})"


def test_cut_pairs_are_told(finished, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": "a", "document": "e " * 200}, {"query": "a", "document": "b"}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    said = support.Notes()
    opened = open_reranker(str(finished.folder))
    list(score_pairs(opened, file, progress=said))
    limit = opened.card.max_tokens
    assert f"1 of 2 pairs (50 %) are cut at {limit} tokens: split long documents, or train with" in said.notes[-1]


def test_a_run_with_unknown_documents_is_refused(finished, world, tmp_path):
    file = tmp_path / "other.run"
    file.write_text("q00 Q0 nowhere 1 1.0 x\n", encoding="utf-8")
    with pytest.raises(DataError, match="documents that .* lacks: 'nowhere'"):
        score_run(open_reranker(str(finished.folder)), file, str(world), tmp_path / "out.run")


def test_pairs_of_a_jsonl_file_get_scores_and_probabilities(finished, tmp_path):
    file = tmp_path / "pairs.jsonl"
    rows = [{"query": "a b", "document": "c d", "id": 7}, {"query": "a b", "document": "e " * 200}]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scored = list(score_pairs(open_reranker(str(finished.folder)), file))
    assert [row.get("id") for row in scored] == [7, None]
    assert all(0 <= row["probability"] <= 1 and np.isfinite(row["score"]) for row in scored)


@pytest.mark.parametrize(
    ("line", "said"),
    [("", "no pair in it"), ("{", "pairs.jsonl:1: not JSON"), ('{"query": "a"}', "key 'document' is missing")],
)
def test_bad_pairs_name_the_line(finished, tmp_path, line, said):
    file = tmp_path / "pairs.jsonl"
    file.write_text(line + "\n", encoding="utf-8")
    with pytest.raises(DataError, match=said):
        list(score_pairs(open_reranker(str(finished.folder)), file))


def test_a_base_without_a_head_cannot_score(tiny_model, tmp_path):
    file = tmp_path / "pairs.jsonl"
    file.write_text('{"query": "a", "document": "b"}\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="no head for ranking"):
        list(score_pairs(open_reranker(str(tiny_model)), file))


def test_a_reranker_is_a_system_of_a_suite(finished, world, tmp_path):
    suite = SuiteSpec.model_validate(
        {
            "name": "s",
            "tasks": [str(world)],
            "depth": 20,
            "systems": {
                "bm25": {"kind": "bm25"},
                "reranked": {
                    "kind": "rerank",
                    "of": "bm25",
                    "model": str(finished.folder),
                    "depth": 10,
                    "sweep": [5],
                    "precision": "fp32",
                },
            },
        }
    )
    (result,) = run_suite(suite, tmp_path / "out", cache=EmbeddingCache(tmp_path / "cache"))
    trained = read_report(finished.folder / "report.json")
    assert result.report.estimate("reranked").mean == pytest.approx(trained.estimate("blended").mean, abs=1e-6)
    assert [point.depth for point in result.report.trade_offs["reranked"].points] == [5, 10]
    assert result.report.tuned == ["reranked"]


def test_a_suite_refuses_what_is_not_before_the_reranker():
    systems = {"r": {"kind": "rerank", "of": "bm25", "model": "m"}, "bm25": {"kind": "bm25"}}
    with pytest.raises(ValueError, match="reranks 'bm25', which is not among the systems before it"):
        SuiteSpec.model_validate({"name": "s", "tasks": ["t"], "systems": systems})


def test_the_plan_says_what_would_be_trained(world, tiny_model):
    plan = plan_reranker(small_recipe(world, tiny_model), "fail", SILENT)
    assert plan["fresh_head"] and plan["head"] == "classifier"
    assert plan["trainable_parameters"] > 0 and plan["test_pairs"] > 0


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"objective": {"name": "kl"}}, "learns from a teacher"),
        ({"objective": {"name": "bce", "teacher": "x"}}, "does not use a teacher"),
        ({"sweep": [5, 20]}, "must rise"),
        ({"objective": {"negatives": {"system": "nobody"}}}, "names 'nobody'"),
        ({"first_stage": {"x": {"kind": "run", "file": "f"}}}, "must be bm25, dense or fusion"),
    ],
)
def test_a_recipe_that_cannot_work_is_refused(changes, said):
    with pytest.raises(ValueError, match=said):
        small_recipe("t", "b", **changes)


def test_a_search_retrieves_and_reranks(finished, world):
    collection = open_collection(load_task(str(world)))
    queries = collection.qrels["test"].queries
    texts = [collection.query_texts[int(query)] for query in queries]
    search = open_search(str(world), words=True, reranker=str(finished.folder))
    hits = search.search(texts, top=10)
    run = WordRanker(collection).rank(Request(queries, 100), {})
    scores = search.reranker.rerank(texts, Run(np.arange(len(queries)), run.docs, run.scores))
    assert [[hit.document for hit in row] for row in hits] == [
        [int(doc) for doc in row if doc >= 0] for row in scores.docs[:, :10]
    ]
    assert set(search.timings) == {"retrieve", "rerank"}
    with pytest.raises(ConfigError, match="needs a retriever"):
        open_search(str(world))


def test_a_reranker_judges_relevant_or_not(finished, tmp_path):
    pairs = some_pairs(tmp_path, queries=2)
    opened = open_judge(str(finished.folder), precision="fp32")
    assert (opened.rubric.name, opened.style) == ("binary", None)
    job = run_job(opened, pairs, tmp_path / "job", JobPlan(canaries=2))
    asked = [{"query": query, "document": passage} for query, passage in map(pairs.texts, range(len(pairs)))]
    (tmp_path / "asked.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    scored = score_pairs(open_reranker(str(finished.folder), precision="fp32"), tmp_path / "asked.jsonl")
    assert np.allclose(job.probabilities[:, 1], [row["probability"] for row in scored], atol=1e-5)
    assert job.probabilities.shape == (16, 2) and np.allclose(job.probabilities.sum(axis=1), 1)
    assert job.facts["tokens"] > 0 and job.planted
    with pytest.raises(ConfigError, match="is a reranker: it is asked under no rubric"):
        opened.under(find_rubric("umbrela"), None)
