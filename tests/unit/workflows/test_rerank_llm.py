"""Rerankers that are language models or read by one's layers: trained, reloaded, merged and exported, tiny."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

import support
from searchtune.cli.main import app
from searchtune.errors import ArtifactError
from searchtune.evaluation import build_report
from searchtune.models.base_facts import base_facts
from searchtune.models.cards import read_reranker_card
from searchtune.models.quantisation import quantised_layers
from searchtune.models.reranker_artifact import load_reranker_artifact, probe_scores
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.rerank import RerankRecipe
from searchtune.workflows import adapter as adapter_module
from searchtune.workflows import finish, measure, rerank, rerank_finish, rerank_measure
from searchtune.workflows.adapter import export_gguf, merge_adapter, verify_adapter
from searchtune.workflows.embed import train_embedding
from searchtune.workflows.progress import SILENT
from searchtune.workflows.rerank import train_reranker
from searchtune.workflows.training_set import open_training_set
from unit.models.causal import write_byte_causal

SMALL = {
    "max_tokens": 96,
    "precision": "fp32",
    "first_stage": {"bm25": {"kind": "bm25"}},
    "depth": 4,
    "sweep": [2, 4],
    "max_train_queries": 12,
    "max_test_queries": 5,
    "method": {"rank": 4, "alpha": 8},
    "objective": {"name": "softmax", "negatives": {"per_query": 2, "last_rank": 10}},
    "optim": {"lr": 1e-2, "epochs": 1, "min_steps": 0, "batch_size": 6},
    "dev": {"times": 1, "max_queries": 4, "fit_queries": 4},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    return support.write_collection(tmp_path_factory.mktemp("world") / "tiny")


@pytest.fixture(scope="module")
def byte_causal(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=512)


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        for module in (finish, rerank_finish):
            patch.setattr(module, "verify_in_fresh_process", verify_adapter)
        for module in (measure, rerank_measure):
            patch.setattr(module, "build_report", partial(build_report, rounds=200))
            patch.setattr(module, "write_page", lambda report, file: None)
        yield


def recipe(task, base, **changes):
    return RerankRecipe.model_validate({**SMALL, "task": str(task), "base": str(base), **changes})


@pytest.fixture(scope="module")
def trained(world, byte_causal, tiny_llama_model, tiny_model, tmp_path_factory):
    """Train a head with a quantisation, once each; the finished run."""
    runs = {}

    def run(head, quantise, base=None):
        if quantise == "nf4":
            pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")
        base = base or {"yes-no": byte_causal, "classifier": tiny_llama_model}[head]
        key = (head, quantise, str(base))
        if key not in runs:
            limit = 96 if head == "yes-no" else 64
            settled = recipe(world, base, head=head, quantise=quantise, max_tokens=limit)
            runs[key] = train_reranker(settled, tmp_path_factory.mktemp("run") / "out")
        return runs[key]

    return run


@pytest.mark.parametrize("quantise", ["none", "nf4"])
@pytest.mark.parametrize("head", ["yes-no", "classifier"])
def test_what_was_trained_reloads(trained, head, quantise):
    result = trained(head, quantise)
    card = read_reranker_card(result.adapter)
    assert (card.head, card.quantise) == (head, quantise)
    found = verify_adapter(result.folder)
    scale = max(1.0, float(np.abs(np.load(result.adapter / card.probe.scores_file)).max()))
    assert max(found.peft, found.sentence_transformers) <= 1e-5 * scale == found.tolerance
    assert result.report is not None
    assert result.report.estimate("reranked").n == 5, "max_test_queries"
    assert ("CrossEncoder" in (result.adapter / "README.md").read_text()) == (head == "classifier")


def test_a_base_whose_config_names_bf16_reloads_too(trained, tiny_llama_model, tmp_path):
    base = shutil.copytree(tiny_llama_model, tmp_path / "base")
    settings = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**settings, "dtype": "bfloat16"}), encoding="utf-8")
    found = verify_adapter(trained("classifier", "none", base).folder)
    assert max(found.peft, found.sentence_transformers) <= found.tolerance


def test_a_bert_in_4_bits_is_trained_and_reloads(trained, tiny_model):
    result = trained("classifier", "nf4", tiny_model)
    found = verify_adapter(result.folder)
    assert max(found.peft, found.sentence_transformers) <= found.tolerance


@pytest.mark.parametrize("head", ["yes-no", "classifier"])
def test_a_base_in_4_bits_stays_so_and_takes_the_wanted_type(trained, head):
    adapter = trained(head, "nf4").adapter
    reranker, card = load_reranker_artifact(adapter, dtype=torch.bfloat16, device=torch.device("cpu"))
    assert quantised_layers(reranker.backbone)
    assert reranker.dtype == torch.bfloat16
    exact, _ = load_reranker_artifact(adapter, dtype=torch.float32, device=torch.device("cpu"))
    assert np.abs(probe_scores(reranker, card) - probe_scores(exact, card)).max() < 0.5


@pytest.mark.slow
@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_merged_it_is_a_plain_language_model(trained, byte_causal, tmp_path, quantise):
    adapter = trained("yes-no", quantise).adapter
    merged = merge_adapter(adapter, tmp_path / "merged")
    assert merged.difference <= merged.tolerance and merged.four_bits == (quantise == "nf4")
    if quantise == "nf4":
        assert merged.from_trained > 10 * merged.difference, "rounding to 4 bits is seen"
    else:
        assert merged.from_trained == pytest.approx(merged.difference, abs=1e-5)
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "chat_template.jinja"} <= names
    assert "generation_config.json" in names and not any("adapter" in name for name in names)
    settings = json.loads((tmp_path / "merged" / "config.json").read_text())
    assert settings["dtype"] == "float16", "the type of its base"
    assert "quantization_config" not in settings
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "merged")
    base = AutoModelForCausalLM.from_pretrained(byte_causal)
    moved = [n for (n, a), b in zip(model.named_parameters(), base.parameters(), strict=True) if not torch.equal(a, b)]
    assert moved and all(".layers." in name for name in moved)
    chat = AutoTokenizer.from_pretrained(tmp_path / "merged").apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False
    )
    assert chat == "<|im_start|>user hi<|im_end|>"


def test_a_merge_that_went_wrong_is_not_written(trained, tmp_path, monkeypatch):
    adapter = trained("yes-no", "none").adapter
    monkeypatch.setattr(adapter_module, "score_in_fresh_process", lambda *_, **__: (np.zeros(8), [1, 2, 3]))
    with pytest.raises(ArtifactError, match="tokenizer cuts text otherwise"):
        merge_adapter(adapter, tmp_path / "merged")
    for wrong in (99.0, np.nan):
        scores = np.full(8, wrong, dtype=np.float32)
        monkeypatch.setattr(adapter_module._Folded, "scores", lambda *_, scores=scores, **__: scores)
        with pytest.raises(ArtifactError, match="after merging: the probe differs by"):
            merge_adapter(adapter, tmp_path / "merged")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_a_merged_classifier_is_measured_against_its_16_bit_base(trained, tmp_path, quantise):
    merged = merge_adapter(trained("classifier", quantise).adapter, tmp_path / "merged")
    assert merged.difference <= merged.tolerance < 1e-3
    assert (merged.from_trained > merged.tolerance) == (quantise == "nf4")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["f16", "q8_0"])
def test_exported_as_gguf_it_gives_its_scores(trained, tmp_path, kind):
    gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'searchtune[llm]'")
    adapter = trained("yes-no", "none").adapter
    done = CliRunner().invoke(
        app, ["adapter", "export", str(adapter), "--format", "gguf", "--type", kind, "--out", str(tmp_path / "out")]
    )
    assert done.exit_code == 0, done.output
    assert "the probe differs from the adapter's by" in done.stdout
    fields = gguf.GGUFReader(tmp_path / "out" / f"model-{kind}.gguf").fields
    card = read_reranker_card(adapter)
    assert fields["general.base_model.0.name"].contents() == base_facts(Path(card.base), card.base).name
    assert fields["general.name"].contents().endswith(card.name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"], "nothing else is left"


def test_a_classifier_is_no_gguf(trained, tmp_path):
    with pytest.raises(ArtifactError, match="GGUF is for language models, and this adapts a classifier"):
        export_gguf(trained("classifier", "none").adapter, tmp_path / "out")


def test_limits_take_the_same_queries_every_time(world, byte_causal):
    first, again, other = (
        open_training_set(recipe(world, byte_causal, max_train_queries=most), "fail", SILENT) for most in (7, 7, 8)
    )
    assert len(first.train) == 7 and len(first.collection.qrels["test"]) == 5
    assert first.train.queries.tolist() == again.train.queries.tolist()
    assert set(first.train.queries) < set(other.train.queries)
    everything = open_training_set(recipe(world, byte_causal, max_train_queries=None), "fail", SILENT)
    assert len(everything.train) == 36


def test_negatives_are_mined_again_with_a_tuned_retriever(world, tiny_model, tmp_path, monkeypatch):
    """`objective.negatives.system` may name a dense system whose model is an adapter: its ranking is what is mined."""
    from unit.workflows.conftest import small_recipe

    embedding = train_embedding(small_recipe(world, tiny_model), tmp_path / "embed")
    first_stage = {"tuned": {"kind": "dense", "model": str(embedding.adapter)}, "bm25": {"kind": "bm25"}}
    mined = []
    mine = rerank.mine_ranking_negatives
    monkeypatch.setattr(rerank, "mine_ranking_negatives", lambda run, *rest: (mined.append(run), mine(run, *rest))[1])
    cache = EmbeddingCache(tmp_path / "cache")
    runs = {}
    for system in ("tuned", None):
        objective = {**SMALL["objective"], "negatives": {"per_query": 2, "last_rank": 10, "system": system}}
        settled = recipe(world, tiny_model, first_stage=first_stage, objective=objective, max_tokens=64)
        assert train_reranker(settled, tmp_path / f"run-{system}", cache=cache) is not None
        runs[system] = mined.pop()
    assert settled.reranked == "bm25"
    assert not np.array_equal(runs["tuned"].docs, runs[None].docs)
    first = rerank.FirstStage(settled.first_stage, *_all_of(world), cache)
    expected = first.runs(runs["tuned"].queries, runs["tuned"].depth)
    assert np.array_equal(runs["tuned"].docs, expected["tuned"].docs)


def _all_of(world):
    from searchtune.data.tasks import load_task, open_collection

    collection = open_collection(load_task(str(world)))
    return collection, list(collection.qrels)


def test_a_limit_of_nothing_is_refused(world, byte_causal):
    with pytest.raises(ValueError, match="greater than 0"):
        recipe(world, byte_causal, max_train_queries=0)
    with pytest.raises(ValueError, match="greater than 0"):
        recipe(world, byte_causal, max_test_queries=-1)
