"""Parameters and bytes counted without weights, against shapes worked out by hand and against models that exist."""

import json

import pytest
import torch

from searchtune.errors import ConfigError, ModelError
from searchtune.models.adapters import add_lora
from searchtune.models.footprint import (
    Backbone,
    activations,
    adapted_skeleton,
    kv_cache_bytes,
    logit_bytes,
    nf4_bytes,
    skeleton,
    smallest_device,
    weight_bytes,
)
from searchtune.models.generator import load_causal_lm
from searchtune.specs.recipe import LoraMethod

CPU = torch.device("cpu")
LLAMA_3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "intermediate_size": 14336,
    "vocab_size": 128256,
    "tie_word_embeddings": False,
}
ATTENTION = LoraMethod(rank=16, target_modules=["q_proj", "k_proj", "v_proj", "o_proj"])


@pytest.fixture
def config_folder(tmp_path):
    def write(**changes):
        (tmp_path / "config.json").write_text(json.dumps({**LLAMA_3_8B, **changes}), encoding="utf-8")
        return tmp_path

    return write


def test_llama_3_8b_has_the_parameters_it_is_known_to_have(config_folder):
    found = adapted_skeleton(config_folder(), "causal", ATTENTION, dtype=torch.bfloat16)
    assert found.trainable == 13_631_488
    assert found.total - found.trainable == 8_030_261_248
    assert found.base_bytes == 2 * 8_030_261_248
    kept_twice = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024)
    assert found.copies_bytes == 2 * kept_twice
    assert kv_cache_bytes(found.backbone.config, 1000, 2) == 2 * 32 * 8 * 128 * 1000 * 2


def test_a_70b_in_nf4_is_about_37_gib(config_folder):
    big = {"hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "intermediate_size": 28672}
    size = weight_bytes(skeleton(config_folder(**big), "causal", torch.bfloat16), "nf4")
    assert 36.5 < size / 2**30 < 37.5
    assert smallest_device(size) == 48


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_weights_in_4_bits_are_counted_to_the_byte(tiny_causal, dtype):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")
    model = load_causal_lm(tiny_causal, dtype=dtype, device=CPU, quantise="nf4").backbone
    bytes_there = 0
    for parameter in model.parameters():
        bytes_there += parameter.nbytes
        state = getattr(parameter, "quant_state", None)
        if state is not None:
            inner = state.state2
            bytes_there += sum(t.nbytes for t in (state.absmax, state.code, inner.absmax, inner.code, state.offset))
    assert weight_bytes(skeleton(tiny_causal, "causal", dtype), "nf4") == bytes_there


@pytest.mark.parametrize("quantise", ["none", "nf4"])
def test_parameters_are_those_of_the_model_that_is_trained(tiny_causal, quantise):
    if quantise == "nf4":
        pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")
    method = LoraMethod(rank=4, top_layers=2)
    planned = adapted_skeleton(tiny_causal, "causal", method, dtype=torch.bfloat16, quantise=quantise)
    model = load_causal_lm(tiny_causal, dtype=torch.bfloat16, device=CPU, quantise=quantise)
    trained = add_lora(model, method, seed=0, task_type="CAUSAL_LM")
    assert (planned.trainable, planned.total) == (trained.trainable, trained.total)


def test_odd_sizes_round_up():
    assert nf4_bytes(1) == 1 + 1 + 4 + 1092
    assert nf4_bytes(64 * 256 + 1) == 8193 + 257 + 8 + 1092


@pytest.mark.parametrize("tied", [True, False])
def test_tied_weights_count_once(config_folder, tied):
    small = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2}
    folder = config_folder(**small, head_dim=16, intermediate_size=128, vocab_size=1000, tie_word_embeddings=tied)
    layers = 2 * (2 * 64 * 64 + 2 * 64 * 32 + 3 * 64 * 128 + 2 * 64) + 64
    assert weight_bytes(skeleton(folder, "causal", torch.float32)) == 4 * (layers + (1 if tied else 2) * 64_000)


@pytest.mark.parametrize("fused", [True, False])
def test_activations_are_those_of_a_real_pass(tiny_causal, fused):
    """What autograd saves in a pass with numbers, layer by layer, is what the pass without numbers adds up to."""
    method = LoraMethod(rank=4)
    quantise = "none" if fused else "nf4"  # which also leaves layers unfused
    planned = adapted_skeleton(tiny_causal, "causal", method, dtype=torch.float32, quantise=quantise)
    held = activations(planned, texts=3, width=40)
    model = load_causal_lm(tiny_causal, dtype=torch.float32, device=CPU, attention="eager").backbone
    add_lora(Backbone(model), method, seed=0, task_type="CAUSAL_LM", fused=fused)
    ids = torch.ones(3, 40, dtype=torch.long)
    model.model(input_ids=ids)  # merges
    weights = {tensor.untyped_storage().data_ptr() for tensor in (*model.parameters(), *model.buffers())}
    weights |= {
        module._searchtune_merged[1].untyped_storage().data_ptr()
        for module in model.modules()
        if hasattr(module, "_searchtune_merged")
    }
    saved = {}

    def note(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            saved[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        states = model.model(input_ids=ids).last_hidden_state
    assert states.shape == (3, 40, 64)
    assert 0.9 * sum(saved.values()) < held.kept < 1.1 * sum(saved.values())
    assert held.kept < held.peak < 3 * held.kept


def test_activations_grow_with_tokens_and_adapted_layers(tiny_causal):
    def kept(texts, width, **method):
        found = adapted_skeleton(tiny_causal, "causal", LoraMethod(rank=4, **method), dtype=torch.bfloat16)
        return activations(found, texts=texts, width=width).kept

    assert kept(4, 32) == pytest.approx(2 * kept(2, 32), rel=0.05)
    assert kept(2, 32, top_layers=1) < kept(2, 32, top_layers=2) < kept(2, 32)


@pytest.mark.parametrize(
    ("model", "shape"), [("tiny_model", "encoder"), ("tiny_model", "classifier"), ("tiny_llama_model", "classifier")]
)
def test_encoders_and_classifiers_are_counted_too(request, model, shape):
    found = adapted_skeleton(request.getfixturevalue(model), shape, LoraMethod(rank=2), dtype=torch.float32)
    held = activations(found, texts=2, width=16)
    assert 0 < held.kept <= held.peak
    heads = [name for name, p in found.backbone.named_parameters() if p.requires_grad and "modules_to_save" in name]
    assert bool(heads) == (shape == "classifier")


def test_what_cannot_be_planned_says_why(config_folder):
    with pytest.raises(ConfigError, match="no layer has 'query'"):
        adapted_skeleton(config_folder(), "causal", LoraMethod(target_modules=["query"]), dtype=torch.bfloat16)
    with pytest.raises(ConfigError, match="top_layers is 99, but the base has 32"):
        adapted_skeleton(config_folder(), "causal", LoraMethod(top_layers=99), dtype=torch.bfloat16)
    with pytest.raises(ModelError, match="gives no causal model"):
        skeleton(config_folder(model_type="no-such-model"), "causal", torch.bfloat16)


def test_devices_and_logits():
    assert smallest_device(7 * 2**30) == 8
    assert smallest_device(7.5 * 2**30) == 16
    assert smallest_device(500 * 2**30) is None
    assert logit_bytes(1000, 10, 2) == 10 * 1000 * 10
