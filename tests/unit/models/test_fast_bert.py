"""The fast forward pass of a BERT against the library's, and every case in which it steps aside."""

import copy
import os

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertModel, RobertaConfig, RobertaModel

from searchtune.models.adapters import add_lora
from searchtune.models.encoder import inference, load_encoder
from searchtune.models.fast_bert import fast_bert, fits, state
from searchtune.models.inputs import tokenise
from searchtune.models.layers import compute_states, room_for_states, without_prefix
from searchtune.models.precision import packs
from searchtune.specs.recipe import LoraMethod

pytestmark = pytest.mark.processor

CPU = torch.device("cpu")
WIDTH = 70
SHAPES = {
    "sorted": [70, 64, 33, 32, 32, 17, 17, 16, 15, 2, 1],
    "in any order": [3, 17, 3, 70, 1, 17],
    "one text": [23],
    "one token": [1],
    "no padding": [48, 48],
    "odd": [13, 13, 11],
}


def bert(dtype=torch.float32, **settings):
    torch.manual_seed(3)
    sizes = {
        "vocab_size": 90,
        "hidden_size": 48,
        "num_attention_heads": 3,
        "intermediate_size": 80,
        "num_hidden_layers": 2,
    }
    backbone = BertModel(BertConfig(**{**sizes, "max_position_embeddings": WIDTH, **settings}), add_pooling_layer=False)
    with torch.no_grad():
        for parameter in backbone.parameters():  # norms and biases too: a new model's are all 1 and 0
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return backbone.to(dtype).eval().requires_grad_(False)


def inputs(lengths, width=None):
    width = width or max(lengths)
    mask = (torch.arange(width)[None, :] < torch.tensor(lengths)[:, None]).long()
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(90, mask.shape, generator=generator)
    types = torch.randint(2, mask.shape, generator=generator)
    return mask, ids, types


def library(backbone, mask, ids, types=None):
    with torch.no_grad():
        return backbone(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state


def largest(found, expected, mask):
    return float((found - expected)[mask.bool()].abs().max())


@pytest.mark.parametrize("lengths", SHAPES.values(), ids=SHAPES.keys())
@pytest.mark.parametrize("segments", [False, True], ids=["one segment", "two segments"])
@pytest.mark.parametrize("layers", [1, 3])
def test_states_are_the_librarys(lengths, segments, layers):
    backbone = bert(num_hidden_layers=layers)
    mask, ids, types = inputs(lengths)
    types = types if segments else None
    found = fast_bert(backbone)(mask, ids=ids, types=types)
    assert largest(found, library(backbone, mask, ids, types), mask) < 1e-5
    assert (found[~mask.bool()] == 0).all()


def test_states_in_bf16_are_as_near_as_the_librarys():
    exact, backbone = bert(), bert(torch.bfloat16)
    mask, ids, types = inputs(SHAPES["sorted"])
    truth, theirs = library(exact, mask, ids, types), library(backbone, mask, ids, types)
    ours = fast_bert(backbone)(mask, ids=ids, types=types)
    assert ours.dtype == torch.bfloat16
    there = mask.bool()
    error, their_error = ((x.float() - truth)[there].pow(2).mean().sqrt() for x in (ours, theirs))
    assert error < 1.25 * their_error


def refuse_bf16(monkeypatch):
    """Have torch's matrix kernels refuse bf16, as they do on processors without AVX512."""
    reorder = torch.ops.mkldnn._reorder_linear_weight

    def refusing(weight, rows):
        if weight.dtype == torch.bfloat16:
            raise RuntimeError("mkldnn_reorder_linear_weight: bf16 path needs the cpu support ...")
        return reorder(weight, rows)

    monkeypatch.setattr(torch.ops.mkldnn, "_reorder_linear_weight", refusing)
    packs.cache_clear()


@pytest.fixture
def without_bf16(monkeypatch):
    refuse_bf16(monkeypatch)
    yield
    packs.cache_clear()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_where_the_kernels_have_no_bf16_weights_stay_as_they_are(without_bf16, dtype):
    backbone = bert(dtype)
    mask, ids, types = inputs(SHAPES["sorted"])
    fast = fast_bert(backbone)
    assert {linear.packed for layer in fast._layers for linear in (layer.qkv, layer.up)} == {packs(dtype)}
    assert packs(torch.bfloat16) is False
    found, expected = fast(mask, ids=ids, types=types), library(backbone, mask, ids, types)
    assert largest(found.float(), expected.float(), mask) < (1e-5 if dtype == torch.float32 else 0.1)


def test_a_kernel_that_is_not_there_leaves_the_librarys_pass(monkeypatch):
    def missing(*_, **__):
        raise RuntimeError("not implemented for this processor")

    monkeypatch.setattr("searchtune.models.fast_bert.functional.layer_norm", missing)
    backbone = bert()
    monkeypatch.setattr(type(backbone), "forward", missing)
    assert fast_bert(backbone) is None


@pytest.mark.skipif("ONEDNN_MAX_CPU_ISA" not in os.environ, reason="told apart in `make test-plain-processor`")
def test_the_libraries_are_kept_from_avx512():
    assert not packs(torch.bfloat16)
    assert torch.backends.cpu.get_cpu_capability() == "AVX2"


def test_more_than_a_thousand_tokens_and_padding_beyond_the_longest():
    backbone = bert()
    mask, ids, types = inputs([41] * 30 + [5] * 7, width=48)
    assert largest(fast_bert(backbone)(mask, ids=ids, types=types), library(backbone, mask, ids, types), mask) < 1e-5


def test_without_prepared_kernels(monkeypatch):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    backbone = bert()
    mask, ids, types = inputs(SHAPES["sorted"])
    assert largest(fast_bert(backbone)(mask, ids=ids, types=types), library(backbone, mask, ids, types), mask) < 1e-5


def test_padding_is_never_read():
    """Ids at padded places do not matter, nor do segments."""
    fast = fast_bert(bert())
    mask, ids, types = inputs(SHAPES["sorted"])
    there = mask.bool()
    junk = {"ids": torch.where(there, ids, 89 - ids), "types": torch.where(there, types, 1 - types)}
    assert torch.equal(fast(mask, ids=ids, types=types), fast(mask, **junk))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        ([[1, 1, 0], [1, 0, 0]], True),
        ([[1, 1, 1]], True),
        ([[0, 1, 1]], False),
        ([[1, 0, 1]], False),
        ([[1, 1, 1], [0, 0, 0]], False),
    ],
)
def test_masks(mask, expected):
    assert fits(torch.tensor(mask)) is expected


def test_no_texts_do_not_fit():
    assert not fits(torch.zeros((0, 4), dtype=torch.int64))


UNFIT = {
    "another activation": lambda: bert(hidden_act="relu"),
    "a decoder": lambda: bert(is_decoder=True),
    "half precision": lambda: bert(torch.float16),
    "a NaN": lambda: _spoilt(bert(), float("nan")),
    "another class": lambda: type("Mine", (BertModel,), {})(bert().config),
    "another architecture": lambda: RobertaModel(
        RobertaConfig(vocab_size=90, hidden_size=48, num_attention_heads=3, intermediate_size=80, num_hidden_layers=1)
    ),
    "mixed types": lambda: _mixed(bert()),
    "another linear layer": lambda: _replaced(bert()),
    "a hook": lambda: _hooked(bert()),
}


def _spoilt(backbone, value):
    backbone.encoder.layer[0].output.dense.bias[0] = value
    return backbone


def _mixed(backbone):
    backbone.encoder.layer[1].to(torch.bfloat16)
    return backbone


def _replaced(backbone):
    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    backbone.encoder.layer[0].output.dense = Doubled(80, 48).requires_grad_(False)
    return backbone


def _hooked(backbone):
    backbone.encoder.layer[0].register_forward_hook(lambda *_: None)
    return backbone


@pytest.mark.parametrize("make", UNFIT.values(), ids=UNFIT.keys())
def test_what_it_does_not_serve(make):
    assert fast_bert(make().eval()) is None


def test_a_library_that_computes_something_else_is_noticed(monkeypatch):
    """A layer that the probe alone can tell: it looks ordinary and gives other states."""
    backbone = bert()
    whole = type(backbone.encoder.layer[0]).forward
    monkeypatch.setattr(type(backbone.encoder.layer[0]), "forward", lambda *a, **k: whole(*a, **k) * 1.01)
    assert fast_bert(backbone) is None


def test_the_state_tells_every_change():
    backbone = bert()
    seen = {state(backbone)}
    with torch.no_grad():
        backbone.encoder.layer[0].output.dense.weight.mul_(2)
    seen.add(state(backbone))
    backbone.pooler = torch.nn.Linear(2, 2)
    seen.add(state(backbone))
    backbone.encoder.layer[1].register_forward_pre_hook(lambda *_: None)
    seen.add(state(backbone))
    backbone.to(torch.bfloat16)
    seen.add(state(backbone))
    assert len(seen) == 5
    assert state(backbone) in seen


@pytest.fixture
def slow(monkeypatch):
    """The library's forward alone."""

    def encode(encoder, *arguments):
        with monkeypatch.context() as patch:
            patch.setattr("searchtune.models.fast_bert.fast_bert", lambda _: None)
            twin = copy.copy(encoder)
            twin._fast.drop()
            return twin.encode_store(*arguments)

    return encode


@pytest.fixture
def made(monkeypatch):
    """What encoders were given, None where they were refused."""
    seen = []
    monkeypatch.setattr("searchtune.models.fast_bert.fast_bert", lambda b: seen.append(fast_bert(b)) or seen[-1])
    return seen


def test_an_encoder_takes_it_and_keeps_it(tiny_model, texts, slow, made):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    first, second = encoder.encode_store(store, tokens_per_chunk=100), encoder.encode_store(store)
    assert len(made) == 1
    assert made[0] is not None
    assert np.abs(first - second).max() < 1e-5
    assert np.abs(first - slow(encoder, store)).max() < 1e-5


@pytest.mark.parametrize("targets", ["all-linear", ["query", "attention.output.dense"]])
def test_adapters_are_followed_as_they_change(tiny_model, texts, slow, made, targets):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU, attention="eager")
    store = tokenise(encoder.tokenizer, texts, 64)
    base = encoder.encode_store(store)
    adapter = add_lora(encoder, LoraMethod(rank=4, alpha=8, target_modules=targets), seed=1)
    torch.manual_seed(0)
    before = base
    for _ in range(2):
        adapter.load_state({name: torch.randn_like(value) * 0.2 for name, value in adapter.state().items()})
        found = encoder.encode_store(store)
        assert np.abs(found - before).max() > 1e-2
        assert np.abs(found - slow(encoder, store)).max() < 1e-4
        before = found
    assert len(made) == 3
    assert None not in made


def test_an_adapter_switched_off_or_scaled(tiny_model, texts, slow, made):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    base = encoder.encode_store(store)
    adapter = add_lora(encoder, LoraMethod(rank=4, alpha=8, dropout=0.1), seed=1)  # with dropout, peft's own forward
    adapter.load_state({name: torch.randn_like(value) * 0.2 for name, value in adapter.state().items()})
    encoder.eval()
    tuned = encoder.encode_store(store)
    with adapter.peft_model.disable_adapter():
        assert np.abs(encoder.encode_store(store) - base).max() < 1e-5
    assert np.abs(encoder.encode_store(store) - tuned).max() < 1e-6
    for module in encoder.backbone.modules():
        if hasattr(module, "lora_A"):
            module.scaling["default"] *= 0.5
    half = encoder.encode_store(store)
    assert np.abs(half - tuned).max() > 1e-2
    assert np.abs(half - slow(encoder, store)).max() < 1e-4
    adapter.peft_model.merge_adapter()
    assert np.abs(encoder.encode_store(store) - half).max() < 1e-4
    assert None not in made


def test_an_optimizer_step_is_followed(tiny_model, texts, slow, made):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    adapter = add_lora(encoder, LoraMethod(rank=4, alpha=8), seed=1)
    store = tokenise(encoder.tokenizer, texts, 64)
    optimizer = torch.optim.AdamW(adapter.parameters.values(), lr=0.05)
    chunk = store.chunk(np.arange(8), CPU)
    encoder.train()
    before = encoder.encode_store(store)
    for _ in range(3):
        encoder([chunk])[:, 0].sum().backward()
        optimizer.step()
    assert None not in made
    assert encoder._fast._made is None, "no copy is held while training"
    found = encoder.encode_store(store)
    assert np.abs(found - before).max() > 1e-2
    assert np.abs(found - slow(encoder, store)).max() < 1e-4


def test_hidden_states_of_a_cut_encoder(tiny_model, texts, slow, made):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    hidden = room_for_states(encoder, store)
    compute_states(encoder, store, hidden, np.arange(len(texts)), 2)
    with without_prefix(encoder, 2):
        found = encoder.encode_store(hidden)
        assert made[-1] is not None
        assert np.abs(found - slow(encoder, hidden)).max() < 1e-5
        with pytest.raises(ValueError, match="starts at hidden states"):
            made[-1](torch.ones((1, 2), dtype=torch.int64), ids=torch.ones((1, 2), dtype=torch.int64))
    assert np.abs(encoder.encode_store(store) - found).max() < 2e-2, "whole again"


def test_gradients_pass_it_by(tiny_model, texts, monkeypatch):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    monkeypatch.setattr("searchtune.models.fast_bert.fast_bert", lambda _: pytest.fail("asked for"))
    chunk = tokenise(encoder.tokenizer, texts, 64).chunk(np.arange(4), CPU)
    with inference(encoder):
        encoder.encode_chunk(chunk)
    with torch.no_grad():
        encoder.train()
        encoder.encode_chunk(chunk)


def test_an_encoder_that_has_encoded_can_be_copied(tiny_model, texts):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    vectors = encoder.encode(texts, max_tokens=64)
    twin = copy.deepcopy(encoder)
    assert twin._fast._made is None
    assert np.abs(twin.encode(texts, max_tokens=64) - vectors).max() < 1e-6


def test_another_architecture_is_left_to_the_library(tiny_llama_model):
    encoder = load_encoder(tiny_llama_model, dtype=torch.float32, device=CPU)
    assert fast_bert(encoder.backbone) is None
