"""The lean pass for training LoRA on a BERT against the library's: states, gradients, and when it steps aside."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from searchtune.models.adapters import add_lora, copied_weights, without_adapter
from searchtune.models.encoder import load_encoder
from searchtune.models.inputs import tokenise
from searchtune.models.layers import compute_states, room_for_states, without_prefix
from searchtune.models.lean_bert import LeanBert, TrainingPass, _Linears
from searchtune.specs.recipe import LoraMethod
from unit.models.test_fast_bert import SHAPES, bert, inputs, largest

CPU = torch.device("cpu")


class Holder(nn.Module):
    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


def trained(backbone, **method):
    """LoRA on `backbone`, its B no longer zero."""
    adapter = add_lora(Holder(backbone), LoraMethod(**{"rank": 4, "alpha": 8, **method}), seed=1)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in adapter.parameters.values():
            parameter.normal_(std=0.2)
    return adapter


def lean_pass(backbone):
    return TrainingPass().of(backbone, torch.ones((1, 3), dtype=torch.int64))


def compared(backbone, lean, parameters, lengths):
    """Largest difference of states, and of gradients relative to the largest."""
    mask, ids, types = inputs(lengths)
    weights = torch.randn((*mask.shape, 48), generator=torch.Generator().manual_seed(2)) * mask[..., None]
    found = lean(mask, ids=ids, types=types)
    expected = backbone(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
    ours, theirs = (torch.autograd.grad((x.float() * weights).sum(), parameters) for x in (found, expected))
    largest_gradient = max(float(grad.abs().max()) for grad in theirs)
    assert all(grad.dtype == parameter.dtype for grad, parameter in zip(ours, parameters, strict=True))
    apart = max(float((a - b).abs().max()) for a, b in zip(ours, theirs, strict=True))
    return largest(found.detach(), expected.detach(), mask), apart / largest_gradient


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize(
    "method", [{}, {"top_layers": 1}, {"target_modules": ["query", "output.dense"], "rslora": True}], ids=str
)
def test_states_and_gradients_are_the_librarys(lengths, method):
    backbone = bert(num_hidden_layers=2)
    adapter = trained(backbone, **method)
    states, gradients = compared(backbone, lean_pass(backbone), list(adapter.parameters.values()), lengths)
    assert states < 2e-5
    assert gradients < 2e-5


def test_in_bf16_gradients_are_as_near_the_exact_ones_as_the_librarys():
    mask, ids, _ = inputs(SHAPES["sorted"])
    found = {}
    for name, dtype in (("exact", torch.float32), ("theirs", torch.bfloat16), ("ours", torch.bfloat16)):
        backbone = bert(dtype)
        parameters = list(trained(backbone).parameters.values())
        forward = lean_pass(backbone) if name == "ours" else None
        states = forward(mask, ids=ids) if forward else backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        loss = (states.float() * mask[..., None]).pow(3).sum()
        found[name] = torch.cat([grad.float().flatten() for grad in torch.autograd.grad(loss, parameters)])
    error, theirs = ((found[name] - found["exact"]).norm() for name in ("ours", "theirs"))
    assert error < 1.25 * theirs


def test_padding_is_never_read():
    backbone = bert()
    trained(backbone)
    lean = lean_pass(backbone)
    mask, ids, _ = inputs(SHAPES["sorted"])
    assert torch.equal(lean(mask, ids=ids), lean(mask, ids=torch.where(mask.bool(), ids, 89 - ids)))


def _hooked(backbone):
    backbone.encoder.layer[1].register_forward_hook(lambda *_: None)


UNFIT = {
    "dropout": lambda backbone: trained(backbone, dropout=0.1),
    "DoRA": lambda backbone: trained(backbone, dora=True),
    "nothing is trained": lambda backbone: None,
    "a norm is trained": lambda backbone: trained(backbone) and backbone.encoder.layer[0].output.LayerNorm.train()
    and backbone.encoder.layer[0].output.LayerNorm.requires_grad_(True),
    "A is frozen": lambda backbone: [
        p.requires_grad_(False) for n, p in trained(backbone).parameters.items() if "lora_A" in n
    ],
    "merged": lambda backbone: trained(backbone).peft_model.merge_adapter(),
    "a hook": lambda backbone: trained(backbone) and _hooked(backbone),
}  # fmt: skip


@pytest.mark.parametrize("change", UNFIT.values(), ids=UNFIT.keys())
def test_what_it_does_not_serve(change):
    backbone = bert()
    change(backbone)
    assert lean_pass(backbone) is None


def test_a_library_that_computes_something_else_is_noticed(monkeypatch):
    backbone = bert()
    trained(backbone)
    whole = type(backbone.encoder.layer[0]).forward
    monkeypatch.setattr(type(backbone.encoder.layer[0]), "forward", lambda *a, **k: whole(*a, **k) * 1.01)
    assert lean_pass(backbone) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("factor", [0.0, 0.5])
def test_gradients_that_are_not_the_librarys_are_noticed(monkeypatch, dtype, factor):
    backbone = bert(dtype)
    trained(backbone)
    whole = _Linears.gradients
    monkeypatch.setattr(_Linears, "gradients", lambda *args: [factor * grad for grad in whole(*args)])
    assert lean_pass(backbone) is None


def test_merged_weights_are_held_once():
    backbone = bert()
    trained(backbone)
    assert lean_pass(backbone) is not None
    weights, copies = copied_weights(backbone)
    assert weights and not copies


def test_switching_the_adapter_off_is_followed():
    backbone = bert()
    adapter = trained(backbone)
    made, mask = TrainingPass(), torch.ones((1, 3), dtype=torch.int64)
    first = made.of(backbone, mask)
    assert first is not None
    with without_adapter(adapter):
        assert made.of(backbone, mask) is None
    assert made.of(backbone, mask) is not None
    with torch.no_grad():
        assert made.of(backbone, mask) is None
    assert copy.deepcopy(made)._made is None


@pytest.fixture
def passes(monkeypatch):
    """How often an encoder under training took the lean pass."""
    seen = []
    whole = LeanBert.__call__
    monkeypatch.setattr(LeanBert, "__call__", lambda self, *a, **k: seen.append(1) or whole(self, *a, **k))
    return seen


@pytest.mark.parametrize("top", [None, 2])
def test_an_encoder_trains_by_it(tiny_model, texts, passes, monkeypatch, top):
    """Two steps from the same start, with it and without it, from tokens or from cached states."""
    found = []
    for lean in (True, False):
        if not lean:
            monkeypatch.setattr(TrainingPass, "of", lambda *_: None)
        encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU, attention="eager")
        adapter = add_lora(encoder, LoraMethod(rank=4, alpha=8, top_layers=top), seed=1)
        store = tokenise(encoder.tokenizer, texts, 64)
        if top:
            hidden = room_for_states(encoder, store)
            compute_states(encoder, store, hidden, np.arange(len(texts)), top)
            store = hidden
        optimiser = torch.optim.SGD(adapter.parameters.values(), lr=0.5)
        with without_prefix(encoder, top) if top else torch.enable_grad():
            encoder.train()
            for _ in range(2):
                encoder([store.chunk(np.arange(9), CPU)], recompute=not top).square()[:, :7].sum().backward()
                optimiser.step()
                optimiser.zero_grad()
        found.append(adapter.state())
    assert passes
    for name, weights in found[0].items():
        assert torch.allclose(weights, found[1][name], atol=1e-4), name
        assert "lora_B" not in name or weights.abs().max() > 0
