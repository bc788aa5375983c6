"""Training on a base in 4 bits with evaluations between steps, which on some CPUs used to spoil every later gradient."""

import numpy as np
import pytest
import torch

from searchtune.models.completions import CompletionReader
from searchtune.specs.recipe import LoraMethod
from searchtune.training.generation import CompletionWriting
from unit.training.llm import gradients, open_llm, random_completions

pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")


@pytest.mark.parametrize("method", [{}, {"dora": True}])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_an_evaluation_between_two_steps_changes_no_gradient(tiny_llm, dtype, method):
    store, found = random_completions(10), []
    for evaluates in (False, True):
        model, adapter = open_llm(tiny_llm, LoraMethod(rank=4, alpha=8, **method), dtype=dtype, quantise="nf4")
        objective = CompletionWriting(model, store, batch_size=5, tokens_per_chunk=60, seed=0)
        optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=0.01)
        objective.trainable.train()
        gradients(objective, adapter, np.arange(5))
        optimiser.step()
        if evaluates:
            CompletionReader(model).read_store(store)
            model.score_store(store.tokens, [7, 90], groups=np.zeros(10, dtype=np.int64))
        found.append(gradients(objective, adapter, np.arange(5, 10)))
    assert found[0].keys() == found[1].keys() == adapter.parameters.keys()
    for name, gradient in found[0].items():
        assert gradient.abs().max() > 0, name
        assert torch.equal(gradient, found[1][name]), name


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_fused_layer_is_pefts_layer(tiny_llm, dtype):
    model, _ = open_llm(tiny_llm, LoraMethod(rank=4, alpha=8), dtype=dtype, quantise="nf4")
    layers = [module for module in model.modules() if hasattr(module, "lora_A")]
    assert len(layers) > 10
    for layer in layers:
        assert "forward" in vars(layer)
        found = []
        for forward in (layer.forward, lambda x, layer=layer: type(layer).forward(layer, x)):
            trained = [layer.lora_A["default"].weight, layer.lora_B["default"].weight]
            width = trained[0].shape[1]
            x = torch.randn(3, 5, width, generator=torch.Generator().manual_seed(0)).to(dtype).requires_grad_()
            out = forward(x)
            weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
            found.append((out.detach(), *torch.autograd.grad((out.float() * weights).sum(), [x, *trained])))
        for left, right in zip(*found, strict=True):
            assert left.dtype == right.dtype
            assert (left - right).norm() <= (2e-2 if dtype == torch.bfloat16 else 1e-5) * right.norm()
