"""The frozen prefix: what is trained from cached states is what would be trained without them."""

import errno
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

import support
from searchtune.errors import ModelError, StorageError
from searchtune.models import layers
from searchtune.models.encoder import load_encoder
from searchtune.models.inputs import tokenise
from searchtune.models.layers import check_prefix, compute_states, room_for_states, without_prefix
from searchtune.models.stack import layer_stack
from searchtune.specs.recipe import ContrastiveObjective, LoraMethod
from searchtune.training.contrastive import Texts
from unit.training.tiny import assert_same, open_world

CPU = torch.device("cpu")
MODELS = ["tiny_model", "tiny_llama_model"]


def states_below(encoder, store, top_layers, *, file=None, tokens_per_chunk=8192):
    """The states of every text that enter the last `top_layers` layers."""
    states = room_for_states(encoder, store, file)
    texts = np.arange(len(store.lengths))
    compute_states(encoder, store, states, texts, top_layers, tokens_per_chunk=tokens_per_chunk)
    return states


class _Float32Cache(ModuleType):
    """torch, with the cache's type widened."""

    bfloat16 = torch.float32

    def __getattr__(self, name):
        return getattr(torch, name)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return support.write_collection(tmp_path_factory.mktemp("collection"))


def both_ways(model, folder, tokens_per_chunk=4096):
    """Loss, gradients and vectors of the whole model, and of the same model fed from the cache."""
    world = open_world(model, folder, LoraMethod(rank=4, alpha=8, top_layers=1))
    spec = ContrastiveObjective(temperature=0.5)
    whole = world.objective(spec, world.texts(tokens_per_chunk))
    batch = next(whole.batches(0))
    expected = (*world.gradients(whole, batch), world.encoder.encode_store(world.tokens))
    hidden = states_below(world.encoder, world.tokens, 1, tokens_per_chunk=300)
    cached = world.objective(spec, Texts(hidden, len(world.collection.query_ids), tokens_per_chunk))
    with without_prefix(world.encoder, 1):
        found = (*world.gradients(cached, batch), world.encoder.encode_store(hidden))
    return expected, found, hidden


@pytest.mark.parametrize("model", MODELS)
def test_training_from_an_exact_cache_is_exact(request, model, folder, monkeypatch):
    monkeypatch.setattr(layers, "torch", _Float32Cache("torch"))
    (loss, gradients, vectors), found, hidden = both_ways(request.getfixturevalue(model), folder)
    assert hidden.hidden.dtype == torch.float32
    assert found[0] == pytest.approx(loss, abs=1e-6)
    assert_same(found[1], gradients, 1e-4)
    assert np.abs(found[2] - vectors).max() < 1e-5


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("tokens_per_chunk", [4096, 100])
def test_training_from_the_cache(request, model, folder, tokens_per_chunk):
    """The cache is bf16: 8 bits of mantissa."""
    (loss, gradients, vectors), found, hidden = both_ways(request.getfixturevalue(model), folder, tokens_per_chunk)
    assert hidden.hidden.dtype == torch.bfloat16
    assert found[0] == pytest.approx(loss, abs=5e-3)
    assert_same(found[1], gradients, 0.1)
    assert np.abs(found[2] - vectors).max() < 1e-2


@pytest.mark.parametrize("model", MODELS)
def test_afterwards_the_model_is_whole_again(request, model, texts):
    encoder = load_encoder(request.getfixturevalue(model), dtype=torch.float32, device=CPU)
    before = encoder.encode(texts, max_tokens=64)
    names = dict(encoder.named_parameters()).keys()
    with pytest.raises(ZeroDivisionError), without_prefix(encoder, 1):
        assert len(layer_stack(encoder.backbone)[1]) == 1
        _ = 1 / 0
    assert dict(encoder.named_parameters()).keys() == names
    assert (encoder.encode(texts, max_tokens=64) == before).all()


def test_cached_states_can_lie_on_disk(tiny_model, texts, tmp_path):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    memory = states_below(encoder, store, 2)
    file = tmp_path / "cache" / "prefix.bf16"
    disk = states_below(encoder, store, 2, file=file)
    assert file.stat().st_size == 2 * 32 * len(store.ids)
    assert torch.equal(memory.hidden, disk.hidden)
    assert memory.hidden.abs().sum(dim=1).min() > 0, "every token has a state"
    again = states_below(encoder, store, 2, file=file)
    assert torch.equal(memory.hidden, again.hidden)


@pytest.mark.parametrize("top", [4, 5])
def test_a_prefix_needs_a_layer_to_cache(tiny_model, texts, top):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    with pytest.raises(ModelError, match=f"top_layers is {top}, but the base has 4 layers: nothing is left to cache"):
        states_below(encoder, tokenise(encoder.tokenizer, texts, 64), top)


def test_the_difference_of_a_model_that_can_be_cut(tiny_model, texts):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    assert 0 < check_prefix(encoder, store, states_below(encoder, store, 2), 2) < 1e-2


def test_an_architecture_that_cannot_be_cut(tiny_model, texts):
    """A skip connection from the first layer to the output: its states do not pass through the cut."""
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    seen = {}

    def note(module, args, output):
        seen["first"] = output[0] if isinstance(output, tuple) else output

    def add(module, args, output):
        first = seen.pop("first", None)
        if first is not None:
            output.last_hidden_state = output.last_hidden_state + 5 * first
        return output

    layer_stack(encoder.backbone)[1][0].register_forward_hook(note)
    encoder.backbone.register_forward_hook(add)
    store = tokenise(encoder.tokenizer, texts, 64)
    hidden = states_below(encoder, store, 1)
    seen.clear()
    with pytest.raises(ModelError, match=r"BertModel cannot be cut below its last 1 layers.*frozen_prefix: false"):
        check_prefix(encoder, store, hidden, 1)


def test_a_model_without_a_list_of_layers():
    with pytest.raises(ModelError, match="Linear has no list of transformer layers"):
        layer_stack(torch.nn.Linear(2, 2))


def test_a_full_disk_is_told_before_anything_is_mapped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    with pytest.raises(StorageError, match="prefix_cache: memory"):
        layers._room(10, 4, tmp_path / "cache" / "prefix.bf16")
    assert not list((tmp_path / "cache").iterdir())
