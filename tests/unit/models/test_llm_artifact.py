"""Adapter folders of language models: reload is what was trained, wrong bases and templates are refused."""

import importlib.util
import json
import shutil

import numpy as np
import pytest
import torch

import support
from searchtune.errors import ArtifactError
from searchtune.models.adapters import add_lora
from searchtune.models.cards import read_any_card, read_card, read_llm_card, score_difference
from searchtune.models.chat import chat_store
from searchtune.models.generator import load_causal_lm
from searchtune.models.llm_artifact import (
    chat_probe,
    llm_probe_scores,
    load_llm_adapter,
    open_llm_with_transformers,
    save_llm_adapter,
)
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.chat import ChatExample, Message, Passage
from searchtune.specs.card import LlmCard
from searchtune.specs.recipe import LoraMethod
from unit.models.causal import write_causal
from unit.training.tiny import shake

CPU = torch.device("cpu")
TEMPLATE = "{% for m in messages %}{{ '[MASK]' + m['role'] + ' ' + m['content'] + '[SEP]' }}{% endfor %}"
DOCUMENTS = [f"{title} {text}" for title, text in support.documents().values()][:4]
EXAMPLES = [
    ChatExample((Message("system", ("judge",)), Message("user", ("rain ", Passage(document)))), f"tide {i}")
    for i, document in enumerate(DOCUMENTS)
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_causal(tmp_path_factory.mktemp("chat-base"), tie_word_embeddings=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def card_of(root, **changes) -> LlmCard:
    return LlmCard(**{
        "kind": "judge", "name": "small-judge", "base": str(root), "revision": None,
        "base_weights_sha256": weights_sha256(root), "tokenizer_sha256": tokenizer_sha256(root),
        "chat_template_sha256": chat_template_sha256(root), "max_tokens": 60, "trainable_parameters": 1,
        "recipe_sha256": "r", "data_fingerprint": "d", "train_positives_sha256": "p", "metrics": {"dev loss": 0.5},
        "versions": {}, "created": "2026-01-01T00:00:00Z", "prompt": "relevance", "prompt_version": "1",
        "labels": ["rain", "tide"], "rubric": ["off topic", "on topic"], "probe": chat_probe(EXAMPLES), **changes,
    })  # fmt: skip


def trained(root, quantise="none", **method):
    model = load_causal_lm(root, dtype=torch.float32, device=CPU, quantise=quantise)
    adapter = add_lora(model, LoraMethod(rank=4, alpha=8, **method), seed=1, task_type="CAUSAL_LM")
    shake(adapter)
    return model, adapter


def saved(folder, root, quantise="none", method=None, **changes):
    model, adapter = trained(root, quantise, **(method or {}))
    card = card_of(root, quantise=quantise, **changes)
    return save_llm_adapter(folder, model, adapter, card, train_positives=["d1"])


@pytest.mark.parametrize("labels", [["rain", "tide"], []])
@pytest.mark.parametrize("method", [{}, {"dora": True}, {"rslora": True, "top_layers": 1}])
def test_what_reloads_is_what_was_trained(base, tmp_path, labels, method):
    folder = tmp_path / "adapter"
    card = saved(folder, base, method=method, labels=labels)
    model, read = load_llm_adapter(folder, dtype=torch.float32, device=CPU)
    assert read == card == read_any_card(folder)
    scores = np.load(folder / "probe_scores.npy")
    assert scores.shape == (4, len(labels) or 1)
    assert score_difference(folder, card.probe, llm_probe_scores(model, card)) <= card.probe.tolerance
    assert score_difference(folder, card.probe, open_llm_with_transformers(folder, card, model)) <= card.probe.tolerance
    plain = load_causal_lm(base, dtype=torch.float32, device=CPU)
    assert score_difference(folder, card.probe, llm_probe_scores(plain, card)) > 100 * card.probe.tolerance
    config = json.loads((folder / "adapter_config.json").read_text())
    assert config["task_type"] == "CAUSAL_LM"
    assert not any("lm_head" in target for target in config["target_modules"])


def test_in_4_bits_the_adapter_stays_beside_the_base(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    folder = tmp_path / "adapter"
    card = saved(folder, base, "nf4")
    model, _ = load_llm_adapter(folder, dtype=torch.float32, device=CPU)
    names = [name for name, _ in model.backbone.named_parameters() if "lora_" in name]
    assert len(names) == 2 * 7 * 3 and not any("lm_head" in name for name in names)
    assert score_difference(folder, card.probe, llm_probe_scores(model, card)) <= card.probe.tolerance
    assert score_difference(folder, card.probe, open_llm_with_transformers(folder, card, model)) <= card.probe.tolerance


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_all_linear_layers_but_the_output_layer_are_adapted(base, quantise):
    if quantise == "nf4" and importlib.util.find_spec("bitsandbytes") is None:
        pytest.skip("bitsandbytes is not installed")
    _, adapter = trained(base, quantise)
    assert len(adapter.parameters) == 2 * 7 * 3
    assert all(".layers." in name for name in adapter.parameters)


def test_another_base_tokenizer_or_template_is_refused(base, tmp_path):
    folder = tmp_path / "adapter"
    saved(folder, base)
    for what, file in (
        ("weights", "model.safetensors"),
        ("tokenizer", "tokenizer.json"),
        ("chat template", "chat_template.jinja"),
    ):
        other = tmp_path / what
        shutil.copytree(base, other)
        if what == "weights":
            write_causal(other, tie_word_embeddings=False)
            (other / "chat_template.jinja").write_text(TEMPLATE)
        else:
            (other / file).write_text((other / file).read_text() + " ")
        with pytest.raises(ArtifactError, match=f"the sha256 of its {what} is"):
            load_llm_adapter(folder, dtype=torch.float32, device=CPU, base=str(other))


def test_cards_of_other_kinds_and_damaged_folders(base, tmp_path):
    folder = tmp_path / "adapter"
    saved(folder, base)
    assert read_llm_card(folder).kind == "judge"
    with pytest.raises(ArtifactError, match="of kind 'judge', and an embedding adapter is needed"):
        read_card(folder)
    (folder / "probe_scores.npy").write_bytes(b"x")
    with pytest.raises(ArtifactError):
        load_llm_adapter(folder, dtype=torch.float32, device=CPU)


def test_the_template_is_hashed_where_transformers_finds_it(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": TEMPLATE}))
    inside = chat_template_sha256(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    assert chat_template_sha256(tmp_path) == inside
    (tmp_path / "chat_template.jinja").write_text("another")
    assert chat_template_sha256(tmp_path) != inside
    assert chat_template_sha256(tmp_path / "none") != inside


def test_the_probe_is_cut_as_prompts_are(base):
    card = card_of(base, max_tokens=20)
    model = load_causal_lm(base, dtype=torch.float32, device=CPU)
    assert chat_store(model.tokenizer, [example.messages for example in EXAMPLES], 20).truncated == 4
    assert llm_probe_scores(model, card).shape == (4, 2)
