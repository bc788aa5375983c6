"""NF4 bases: which layers are in 4 bits, that LoRA on them trains whatever ran before, and what they give.

Skipped without bitsandbytes.
"""

import importlib.util
import logging
import warnings

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.generator import load_causal_lm
from searchtune.models.inputs import tokenise
from searchtune.models.quantisation import keep_trainable, quantised_layers
from searchtune.models.stack import layer_stack

pytestmark = pytest.mark.processor

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")

CPU = torch.device("cpu")
ENTRIES = [7, 90]


def load(folder, dtype=torch.bfloat16, quantise="nf4"):
    return load_causal_lm(folder, dtype=dtype, device=CPU, quantise=quantise)


def gradients_after_scoring(model, store):
    """Score, as an evaluation between two steps does, then take the gradients of every LoRA matrix."""
    model.score_store(store, ENTRIES)
    model.train()
    logits = model([store.chunk(np.arange(8), CPU)], ENTRIES)
    (logits[:, 0] - logits[:, 1]).square().sum().backward()
    return {name: p.grad for name, p in model.named_parameters() if p.requires_grad}


def test_the_layers_of_the_stack_and_no_others_are_in_4_bits(tiny_causal):
    model = load(tiny_causal)
    name, _ = layer_stack(model.backbone)
    layers = quantised_layers(model.backbone)
    assert len(layers) == 7 * 3 and all(layer.startswith(f"{name}.") for layer in layers)
    assert {layer.weight.quant_type for layer in layers.values()} == {"nf4"}
    assert all(layer.weight.quant_state.nested for layer in layers.values())
    assert {layer.compute_dtype for layer in layers.values()} == {torch.bfloat16}
    assert model.backbone.lm_head.weight.dtype == model.dtype == torch.bfloat16
    assert not any(p.requires_grad for p in model.parameters())


def test_scores_are_those_of_the_dequantised_weights(tiny_causal, texts):
    from bitsandbytes.functional import dequantize_4bit

    model, plain = load(tiny_causal, torch.float32), load(tiny_causal, torch.float32, "none")
    store = tokenise(model.tokenizer, texts[:12], 64)
    before = plain.score_store(store, ENTRIES)
    for name, layer in quantised_layers(model.backbone).items():
        with torch.no_grad():
            weight = plain.backbone.get_submodule(name).weight
            assert (
                0.05 < (dequantize_4bit(layer.weight, layer.weight.quant_state) - weight).norm() / weight.norm() < 0.15
            )
            weight.copy_(dequantize_4bit(layer.weight, layer.weight.quant_state))
    scores = model.score_store(store, ENTRIES, groups=np.zeros(12, dtype=np.int64))
    assert np.abs(scores - plain.score_store(store, ENTRIES)).max() < 1e-4
    assert np.abs(scores - before).max() > 1e-3


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_every_lora_matrix_has_a_gradient_after_an_evaluation(tiny_causal, texts, dtype):
    model = load(tiny_causal, dtype)
    get_peft_model(model.backbone, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    store = tokenise(model.tokenizer, texts[:12], 64)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*packing.*|.*requires_grad.*")
        gradients = gradients_after_scoring(model, store)
    assert len(gradients) == 2 * 7 * 3
    dead = [name for name, gradient in gradients.items() if gradient is None or not gradient.abs().max() > 0]
    assert not dead


def adapted(model):
    torch.manual_seed(3)
    get_peft_model(model.backbone, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    return model


def test_gradients_are_those_of_the_plain_model(tiny_causal, texts):
    """Two models with one set of dequantised weights and one set of LoRA weights give one set of gradients.

    Repacked weights leave the gradients of LoRA above zero, but wrong: what passes through the base is lost.
    """
    from bitsandbytes.functional import dequantize_4bit

    model, plain = load(tiny_causal, torch.float32), load(tiny_causal, torch.float32, "none")
    for name, layer in quantised_layers(model.backbone).items():
        plain.backbone.get_submodule(name).weight.data.copy_(dequantize_4bit(layer.weight, layer.weight.quant_state))
    store = tokenise(model.tokenizer, texts[:8], 64)
    found, expected = (gradients_after_scoring(adapted(one), store) for one in (model, plain))
    assert found.keys() == expected.keys()
    for name, gradient in found.items():
        torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4)


@pytest.mark.filterwarnings("ignore:bitsandbytes.*autograd kernel")
def test_the_repacking_that_this_guards_against_is_still_there(tiny_causal, texts):
    """Without the switch, scoring leaves weights that hand on no gradient. If this fails, the guard may go."""
    from bitsandbytes.functional import has_avx512bf16

    if not has_avx512bf16():
        pytest.skip("bitsandbytes repacks weights on CPUs with AVX512-BF16 only")
    guarded, bare = adapted(load(tiny_causal)), adapted(load(tiny_causal))
    for layer in quantised_layers(bare.backbone).values():
        layer.support_avx512bf16_for_cpu = True
    store = tokenise(bare.tokenizer, texts[:8], 64)
    right, wrong = gradients_after_scoring(guarded, store), gradients_after_scoring(bare, store)
    first = next(name for name in right if "layers.0" in name)
    assert (right[first] - wrong[first]).norm() > 0.5 * right[first].norm()
    with pytest.raises(ModelError, match="already packed for inference; open the base anew"):
        keep_trainable(bare.backbone)


def test_a_model_without_4_bit_layers(tiny_causal):
    with pytest.raises(ModelError, match="no layer in 4 bits"):
        keep_trainable(load(tiny_causal, quantise="none").backbone)


def test_without_bitsandbytes(tiny_causal, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "bitsandbytes" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[llm\]'"):
        load(tiny_causal)


def test_the_advice_to_install_kernels_is_dropped(caplog):
    logger = logging.getLogger("bitsandbytes.backends.cpu.ops")
    with caplog.at_level(logging.WARNING):
        logger.warning("Failed to load: %s. Please make sure you already `pip install kernels`", "No module")
        logger.warning("something else")
    assert [record.getMessage() for record in caplog.records] == ["something else"]
