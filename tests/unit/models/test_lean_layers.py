"""Lean norms and attention against the library's: states, gradients, and when the library is asked."""

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from searchtune.models.lean_layers import lighten
from unit.models.causal import TINY

pytestmark = pytest.mark.processor

MASK = (torch.arange(17) < torch.tensor([17, 9, 1, 16])[:, None]).long()


def decoder(kind="llama", dtype=torch.float32, attention="eager", **settings):
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**TINY, "vocab_size": 50, **settings})
    model = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention).model
    for parameter in model.parameters():  # norms that are not all 1
        parameter.data += 0.05 * torch.randn(parameter.shape).to(dtype)
        parameter.requires_grad_(False)
    return model.eval()


def run(model, mask=MASK):
    """States and the gradient of what enters."""
    entered = torch.randn((*mask.shape, 64), generator=torch.Generator().manual_seed(1)).to(model.dtype)
    entered.requires_grad_()
    states = model(inputs_embeds=entered, attention_mask=mask, use_cache=False).last_hidden_state
    there = mask.bool()
    weights = torch.randn(states[there].shape, generator=torch.Generator().manual_seed(2))
    (states[there].float() * weights).sum().backward()
    return states[there].detach(), entered.grad[there]


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        ("llama", {"attention_bias": True}),
        ("llama", {"num_key_value_heads": 4}),
        ("mistral", {"sliding_window": 5, "num_key_value_heads": 1}),
        ("qwen2", {}),
    ],
)
def test_states_and_gradients_are_the_librarys(kind, settings, attention):
    model = decoder(kind, attention=attention, **settings)
    expected = run(model)
    assert lighten(model) == 3 * 3 + 1
    for left, right in zip(run(model), expected, strict=True):
        assert right.abs().max() > 0.1
        torch.testing.assert_close(left, right, rtol=2e-4, atol=2e-4)
    assert lighten(model) == 0  # once is enough


def test_bf16_is_as_near_to_float32_as_the_librarys():
    exact, rough = run(decoder()), decoder(dtype=torch.bfloat16)
    theirs = run(rough)
    lighten(rough)
    for ours, library, right in zip(run(rough), theirs, exact, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.float() - right).norm() < 1.2 * (library.float() - right).norm()


def test_gradients_by_differences():
    model = decoder(num_hidden_layers=1).double()
    lighten(model)
    mask = MASK[1:3, :10]

    def states(entered):
        return model(inputs_embeds=entered, attention_mask=mask, use_cache=False).last_hidden_state[mask.bool()]

    model.rotary_emb.inv_freq = model.rotary_emb.inv_freq.double()
    entered = torch.randn((*mask.shape, 64), dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(states, entered, fast_mode=True)


def test_recomputing_gives_the_same_gradients():
    model = decoder()
    lighten(model)
    expected = run(model)
    model.gradient_checkpointing_enable()
    model.train()
    for left, right in zip(run(model), expected, strict=True):
        assert torch.equal(left, right)


@pytest.mark.parametrize("why", ["no gradients", "no padding", "a cache", "dropout"])
def test_when_the_library_is_asked(why, monkeypatch):
    model = decoder(attention_dropout=0.5 if why == "dropout" else 0.0, attention="sdpa")
    lighten(model)
    asked = []
    original = type(model.layers[0].self_attn).forward
    monkeypatch.setattr(
        type(model.layers[0].self_attn), "forward", lambda *given, **named: asked.append(1) or original(*given, **named)
    )
    model.train(why == "dropout")
    with torch.set_grad_enabled(why != "no gradients"):
        mask = torch.ones_like(MASK) if why == "no padding" else MASK
        model(input_ids=MASK, attention_mask=mask, use_cache=why == "a cache")
    assert len(asked) == 3
    assert why != "a cache" or model(input_ids=MASK, attention_mask=MASK, use_cache=True).past_key_values is not None


def test_a_norm_that_is_trained_has_its_gradient():
    model = decoder()
    lighten(model)
    model.norm.weight.requires_grad_()
    run(model)
    assert model.norm.weight.grad.abs().max() > 0
    assert lighten(nn.Linear(2, 2)) == 0
