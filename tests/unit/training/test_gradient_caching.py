"""Gradient caching and chunking change memory and time, never the loss or its gradients."""

import pytest
import torch

from searchtune.data.beir import read_beir
from searchtune.specs.recipe import ContrastiveObjective, HardNegatives, LoraMethod
from unit.training.tiny import assert_same, open_world, random_negatives

SPECS = {
    "one direction": ContrastiveObjective(symmetric=False),
    "symmetric": ContrastiveObjective(symmetric=True),
    "hard negatives": ContrastiveObjective(hard_negatives=HardNegatives(per_query=2)),
    "matryoshka": ContrastiveObjective(matryoshka=[32, 16, 8]),
}
FEW_TOKENS = 100


@pytest.fixture(scope="module")
def world(tiny_model, small_world):
    return open_world(tiny_model, small_world, negatives=random_negatives(read_beir(small_world)))


@pytest.fixture
def encoded(monkeypatch, world):
    """How many chunks were encoded so far."""
    calls = []
    whole = world.encoder.encode_chunk
    monkeypatch.setattr(world.encoder, "encode_chunk", lambda chunk: calls.append(len(chunk.mask)) or whole(chunk))
    return calls


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_recomputing_gives_the_same_loss_and_gradients(world, spec, encoded):
    kept = world.objective(spec, world.texts(FEW_TOKENS, recompute=False))
    again = world.objective(spec, world.texts(FEW_TOKENS, recompute=True))
    batch = next(kept.batches(0))
    loss, gradients = world.gradients(kept, batch)
    chunks = len(encoded)
    cached_loss, cached = world.gradients(again, batch)
    assert chunks >= 3
    assert len(encoded) == 3 * chunks, "each chunk is encoded once more in the backward pass"
    assert cached_loss == pytest.approx(loss, abs=1e-6)
    assert_same(cached, gradients, 1e-5)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_chunk_size_does_not_matter(world, spec):
    whole = world.objective(spec, world.texts(100_000, recompute=False))
    batch = next(whole.batches(0))
    loss, gradients = world.gradients(whole, batch)
    for tokens, recompute in ((50, True), (500, False)):
        other, found = world.gradients(world.objective(spec, world.texts(tokens, recompute)), batch)
        assert other == pytest.approx(loss, abs=1e-5)
        assert_same(found, gradients, 1e-4)


def test_dropout_draws_the_same_masks_again(tiny_model, small_world):
    world = open_world(tiny_model, small_world, LoraMethod(rank=4, alpha=8, dropout=0.3))
    spec = SPECS["symmetric"]
    batch = next(world.objective(spec).batches(0))
    loss, gradients = world.gradients(world.objective(spec, world.texts(FEW_TOKENS, recompute=False)), batch)
    cached_loss, cached = world.gradients(world.objective(spec, world.texts(FEW_TOKENS, recompute=True)), batch)
    other, _ = world.gradients(world.objective(spec, world.texts(FEW_TOKENS, recompute=True)), batch, seed=6)
    assert cached_loss == pytest.approx(loss, abs=1e-6)
    assert_same(cached, gradients, 1e-5)
    assert abs(other - loss) > 1e-4, "another seed drops other values"


def test_caching_switches_itself_on_for_large_batches(world, encoded):
    spec = SPECS["symmetric"]
    batch = next(world.objective(spec).batches(0))
    world.gradients(world.objective(spec, world.texts(100_000)), batch)
    assert len(encoded) == 1
    encoded.clear()
    world.gradients(world.objective(spec, world.texts(FEW_TOKENS)), batch)
    forward = len(encoded) // 2
    assert sorted(encoded[:forward]) == sorted(encoded[forward:])


def test_nothing_is_kept_where_no_gradient_is_wanted(world, encoded):
    spec = SPECS["symmetric"]
    objective = world.objective(spec, world.texts(FEW_TOKENS, recompute=True))
    with torch.no_grad():
        loss = objective.loss(next(objective.batches(0)))
    assert not loss.requires_grad
