"""LoRA on an encoder, and the fused form of it against peft's own."""

import pytest
import torch

from searchtune.errors import ConfigError
from searchtune.models.adapters import add_lora
from searchtune.models.encoder import load_encoder
from searchtune.models.inputs import tokenise
from searchtune.specs.recipe import LoraMethod
from unit.training.tiny import shake

pytestmark = pytest.mark.processor

CPU = torch.device("cpu")


def adapted(folder, dtype=torch.float32, **method):
    encoder = load_encoder(folder, dtype=dtype, device=CPU, attention="eager")
    return encoder, add_lora(encoder, LoraMethod(**{"rank": 4, "alpha": 8, **method}), seed=1)


def lora_layers(encoder):
    return {name: module for name, module in encoder.backbone.named_modules() if hasattr(module, "lora_A")}


def run_layer(layer, forward):
    """Output and gradients of x, A and B for one fixed input."""
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    a.grad = b.grad = None
    x = torch.randn(3, 5, a.shape[1], generator=torch.Generator().manual_seed(0)).requires_grad_()
    out = forward(x)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    (out * weights).sum().backward()
    return out.detach(), x.grad, a.grad.clone(), b.grad.clone()


@pytest.mark.parametrize("rslora", [False, True])
@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama_model"])
def test_the_fused_layer_is_pefts_layer(request, model, rslora):
    encoder, adapter = adapted(request.getfixturevalue(model), rslora=rslora)
    shake(adapter)
    layers = lora_layers(encoder)
    assert len(layers) > 10
    for name, layer in layers.items():
        assert "forward" in vars(layer), f"{name} is not fused"
        fused = run_layer(layer, layer.forward)
        peft = run_layer(layer, lambda x, layer=layer: type(layer).forward(layer, x))
        for what, left, right in zip(("output", "x", "A", "B"), fused, peft, strict=True):
            assert right.abs().max() > 0
            torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5, msg=lambda m, n=name, w=what: f"{n} {w}: {m}")


def test_the_merged_matrix_follows_the_optimiser_and_loading(tiny_model):
    encoder, adapter = adapted(tiny_model)
    shake(adapter)
    layer = next(iter(lora_layers(encoder).values()))
    before = run_layer(layer, layer.forward)[0]
    saved = adapter.state()
    optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=0.1)
    run_layer(layer, layer.forward)
    optimiser.step()
    after = run_layer(layer, layer.forward)[0]
    torch.testing.assert_close(
        after, run_layer(layer, lambda x: type(layer).forward(layer, x))[0], rtol=1e-4, atol=1e-5
    )
    assert (after - before).abs().max() > 1e-3
    adapter.load_state(saved)
    torch.testing.assert_close(run_layer(layer, layer.forward)[0], before, rtol=0, atol=0)


def test_with_dropout_pefts_own_layer_runs_and_drops_only_while_training(tiny_model, texts):
    encoder, adapter = adapted(tiny_model, dropout=0.5)
    shake(adapter)
    assert not any("forward" in vars(layer) for layer in lora_layers(encoder).values())
    store = tokenise(encoder.tokenizer, texts, 64)
    chunk = store.chunk(range_of(8), CPU)
    with torch.no_grad():
        torch.manual_seed(0)
        first, second = encoder.encode_chunk(chunk), encoder.encode_chunk(chunk)
    assert (first - second).abs().max() > 1e-3
    assert (encoder.encode_store(store) == encoder.encode_store(store)).all()
    with torch.no_grad():  # scoring dev leaves dropout on for the next step
        assert (encoder.encode_chunk(chunk) - encoder.encode_chunk(chunk)).abs().max() > 1e-3


def range_of(count):
    return torch.arange(count).numpy()


@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama_model"])
def test_a_fresh_adapter_changes_nothing(request, model, texts):
    folder = request.getfixturevalue(model)
    plain = load_encoder(folder, dtype=torch.float32, device=CPU).encode(texts, max_tokens=64)
    encoder, _ = adapted(folder)
    assert abs(encoder.encode(texts, max_tokens=64) - plain).max() < 1e-5


def test_the_seed_settles_the_adapter_and_leaves_other_generators_alone(tiny_model):
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = adapted(tiny_model)[1].state()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = adapted(tiny_model)[1].state()
    other = add_lora(
        load_encoder(tiny_model, dtype=torch.float32, device=CPU), LoraMethod(rank=4, alpha=8), seed=2
    ).state()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not any(torch.equal(first[name], other[name]) for name in first if "lora_A" in name)
    assert all(not first[name].any() for name in first if "lora_B" in name)


def test_only_the_adapter_trains_and_only_in_the_chosen_layers(tiny_model):
    encoder, adapter = adapted(tiny_model, top_layers=2, target_modules=["query", "value"])
    assert len(adapter.parameters) == 2 * 2 * 2  # layers, modules, A and B
    assert all(".2." in name or ".3." in name for name in adapter.parameters)
    assert adapter.trainable == sum(p.numel() for p in encoder.parameters() if p.requires_grad) == 8 * 4 * 32
    assert adapter.total > adapter.trainable


def test_bf16_weights_keep_a_float32_adapter(tiny_model, texts):
    encoder, adapter = adapted(tiny_model, dtype=torch.bfloat16)
    shake(adapter)
    assert encoder.dtype == torch.bfloat16
    assert {p.dtype for p in adapter.parameters.values()} == {torch.float32}
    whole, exact = encoder.encode(texts, max_tokens=64), adapted(tiny_model)
    shake(exact[1])
    assert (whole * exact[0].encode(texts, max_tokens=64)).sum(1).min() > 0.99


def test_a_target_that_no_layer_has(tiny_model):
    with pytest.raises(ConfigError, match=r"target_modules: no layer has 'q_proj'"):
        adapted(tiny_model, target_modules=["q_proj"])


def test_more_top_layers_than_there_are(tiny_model):
    with pytest.raises(ConfigError, match="top_layers is 5, but the base has 4 layers"):
        adapted(tiny_model, top_layers=5)


def test_weights_of_another_adapter_are_refused(tiny_model):
    adapter = adapted(tiny_model)[1]
    with pytest.raises(ValueError, match="adapter weights differ"):
        adapter.load_state(adapted(tiny_model, top_layers=1)[1].state())
