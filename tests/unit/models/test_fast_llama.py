"""The rearranged decoder against the library's, alone, behind prefixes, adapted, and where it must not be used."""

import numpy as np
import pytest
import torch

from searchtune.models import fast_llama
from searchtune.models.adapters import add_lora
from searchtune.models.fast_llama import LlamaShortcut
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import TokenStore
from searchtune.specs.recipe import LoraMethod
from unit.models.causal import write_causal

pytestmark = pytest.mark.processor

ENTRIES = [7, 90, 3]
CPU = torch.device("cpu")


def load(folder, kind="llama", dtype=torch.float32, **settings) -> CausalLM:
    return load_causal_lm(write_causal(folder, kind, **settings), dtype=dtype, device=CPU)


def texts_of(count=11, top=7, head=24, seed=0) -> tuple[TokenStore, np.ndarray]:
    """Texts that share a beginning, and those of a group a longer one; the last stands alone in its group."""
    rng = np.random.default_rng(seed)
    groups = np.append(rng.integers(0, 3, size=count - 1), 9)
    beginning, heads = rng.integers(5, 100, size=top), rng.integers(5, 100, size=(10, head))
    rows = [
        np.concatenate([beginning, heads[group][: head - group], rng.integers(5, 100, size=length)])
        for group, length in zip(groups, rng.integers(1, 40, size=count), strict=True)
    ]
    return TokenStore(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), 0), groups


@torch.no_grad()
def library(model, store) -> np.ndarray:
    rows = np.split(store.ids, store.offsets[1:-1])
    return torch.cat(
        [model.backbone(torch.from_numpy(row)[None]).logits[:, -1, ENTRIES].float() for row in rows]
    ).numpy()


@pytest.fixture
def used(monkeypatch):
    """How often the fast pass has been asked for tokens."""
    calls = []
    states = fast_llama.FastLlama._states
    monkeypatch.setattr(fast_llama.FastLlama, "_states", lambda *given: calls.append(1) or states(*given))
    return calls


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {}),
        ("llama", {"attention_bias": True, "mlp_bias": True, "num_key_value_heads": 4}),
        ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}}),
        ("mistral", {"sliding_window": None, "num_key_value_heads": 1}),
        ("qwen2", {}),
        ("qwen3", {"head_dim": 32}),
    ],
)
@pytest.mark.parametrize("limit", [30, 8192])
def test_logits_are_the_librarys(tmp_path, used, kind, settings, limit):
    model = load(tmp_path, kind, **settings)
    for parameter in model.backbone.parameters():  # norms that are not all 1, biases that are not 0
        parameter.data += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    store, groups = texts_of()
    expected = library(model, store)
    for given in (None, groups, np.zeros_like(groups), np.arange(len(groups))):
        found = model.score_store(store, ENTRIES, groups=given, tokens_per_chunk=limit)
        assert np.abs(found - expected).max() < 2e-5
    assert used
    assert np.ptp(expected, axis=0).min() > 0.01


def test_some_texts_in_any_order_with_repeats_and_one_or_none(tmp_path, used):
    model = load(tmp_path)
    store, groups = texts_of()
    expected = library(model, store)
    for texts in ([5, 2, 2, 9, 0], [3], []):
        found = model.score_store(store, ENTRIES, np.array(texts, dtype=np.int64), groups=groups[texts])
        assert found.shape == (len(texts), 3)
        assert np.abs(found - expected[texts]).max(initial=0) < 2e-5


def test_bf16_is_as_near_to_float32_as_the_librarys(tmp_path, used):
    store, groups = texts_of(40)
    exact = library(load(tmp_path), store)
    model = load_causal_lm(tmp_path, dtype=torch.bfloat16, device=CPU)
    ours = np.abs(model.score_store(store, ENTRIES, groups=groups) - exact).mean()
    theirs = np.abs(library(model, store) - exact).mean()
    assert used
    assert ours < 1.3 * theirs


def test_adapters_and_weights_are_followed_as_they_change(tmp_path, used):
    model = load(tmp_path)
    store, groups = texts_of()
    before = model.score_store(store, ENTRIES, groups=groups)
    adapter = add_lora(model, LoraMethod(rank=4, alpha=8), seed=0, task_type="CAUSAL_LM")
    for step in range(2):
        with torch.no_grad():
            for name, parameter in adapter.parameters.items():
                parameter += 0.1 * (step + 1) * (".lora_B." in name)
        found = model.score_store(store, ENTRIES, groups=groups)
        assert np.abs(found - library(model, store)).max() < 5e-5
        assert np.abs(found - before).max() > 0.01
        before = found
    with adapter.peft_model.disable_adapter():
        assert np.abs(model.score_store(store, ENTRIES, groups=groups) - library(model, store)).max() < 5e-5
    with torch.no_grad():
        model.backbone.get_decoder().layers[1].mlp.down_proj.base_layer.weight.mul_(2)
        model.backbone.get_decoder().layers[1].mlp.down_proj._searchtune_merged = None
    assert np.abs(model.score_store(store, ENTRIES, groups=groups) - library(model, store)).max() < 5e-5


def test_a_broken_text_breaks_no_other(tmp_path, used):
    model = load(tmp_path)
    store, groups = texts_of()
    ids = np.where(store.ids == 101, 5, store.ids)
    ids[store.offsets[4] - 1] = 101  # the last token of text 3
    expected = library(model, TokenStore(ids, store.offsets, 0))
    shortcut = model._fast.of(model.backbone)  # proved before a weight is broken
    assert shortcut is not None
    model.backbone.get_input_embeddings().weight.data[101] = torch.nan
    found = model.score_store(TokenStore(ids, store.offsets, 0), ENTRIES, groups=groups)
    assert np.isnan(found[3]).all()
    whole = np.delete(np.arange(len(groups)), 3)
    assert np.abs(found[whole] - expected[whole]).max() < 2e-5


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"hidden_act": "gelu"}),
        ("mistral", {"sliding_window": 8}),
        ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 10000.0}}),
        ("gpt_neox", {}),
    ],
)
def test_what_it_does_not_serve(tmp_path, kind, settings):
    assert LlamaShortcut().of(load(tmp_path, kind, **settings).backbone) is None


@pytest.mark.parametrize("path", ["layers.1", "layers.0.self_attn", "layers.2.mlp", "norm"])
def test_hooks_are_heard(tmp_path, path):
    model = load(tmp_path)
    shortcut = LlamaShortcut()
    assert shortcut.of(model.backbone) is not None
    handle = model.backbone.get_decoder().get_submodule(path).register_forward_hook(lambda *_: None)
    assert shortcut.of(model.backbone) is None
    handle.remove()
    assert shortcut.of(model.backbone) is not None


@pytest.mark.parametrize("name", ["_norm", "_turned", "_attend"])
def test_a_library_that_computes_something_else_is_noticed(tmp_path, monkeypatch, name):
    model = load(tmp_path)
    right = getattr(fast_llama, name)
    monkeypatch.setattr(fast_llama, name, lambda *given: right(*given) * 1.02)
    if name == "_turned":
        monkeypatch.setattr(fast_llama, name, lambda heads, cos, sin: right(heads, cos, -sin))
    assert LlamaShortcut().of(model.backbone) is None
    store, groups = texts_of()
    assert np.abs(model.score_store(store, ENTRIES, groups=groups) - library(model, store)).max() < 2e-5


def test_a_prefix_left_out_is_noticed(tmp_path, monkeypatch):
    attend = fast_llama._attend
    monkeypatch.setattr(
        fast_llama, "_attend", lambda layout, own, before, past, scale: attend(layout, own, None, None, scale)
    )
    assert LlamaShortcut().of(load(tmp_path).backbone) is None
