"""Completion log-probabilities and their loss against the whole model's, alone and among neighbours."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from searchtune.errors import DataError
from searchtune.models.chat import CompletionStore
from searchtune.models.completions import CompletionReader, completion_chunk
from searchtune.models.generator import load_causal_lm
from searchtune.specs.recipe import LoraMethod, Optimiser
from searchtune.training.generation import CompletionWriting
from unit.models.causal import write_causal
from unit.training.llm import (
    CPU,
    gradients,
    open_llm,
    random_completions,
    random_store,
    trained,
    whole_logprobs,
)
from unit.training.tiny import assert_same


def writer(folder, store, method=None, **options):
    model, adapter = open_llm(folder, method)
    settings = {"batch_size": 6, "tokens_per_chunk": 64, "seed": 3, **options}
    return CompletionWriting(model, store, **settings), adapter


@pytest.mark.parametrize("kind, settings", [
    ("llama", {"tie_word_embeddings": False}),
    ("llama", {"tie_word_embeddings": True}),
    ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 16, "sliding_window": 8}),
    ("cohere", {"logit_scale": 0.25}),
    ("granite", {"logits_scaling": 8.0}),
    ("phi", {"num_key_value_heads": 4}),
])  # fmt: skip
def test_logprobs_are_the_whole_models_whatever_stands_beside(tmp_path, kind, settings, monkeypatch):
    monkeypatch.setattr("searchtune.models.completions._BLOCK", 1000)  # several blocks
    model, _ = open_llm(write_causal(tmp_path, kind, **settings))
    if kind == "phi":
        torch.nn.init.normal_(model.backbone.lm_head.bias)
    store = random_completions(14)
    expected = np.array([tokens.sum() for tokens in whole_logprobs(model, store)])
    reader = CompletionReader(model)
    for tokens_per_chunk in (1, 60, 10_000):
        assert np.abs(reader.read_store(store, tokens_per_chunk=tokens_per_chunk) - expected).max() < 1e-4
    assert np.abs(reader.read_store(store, np.array([9, 2])) - expected[[9, 2]]).max() < 1e-4
    chunk = completion_chunk(store, np.array([4, 7]), CPU)
    tokens, texts = reader.token_logprobs(chunk)
    assert (
        texts.tolist()
        == [0] * (store.tokens.lengths - store.prompts)[4] + [1] * ((store.tokens.lengths - store.prompts)[7])
    )
    alone = np.concatenate([whole_logprobs(model, store)[i] for i in (4, 7)])
    assert np.abs(tokens.detach().numpy() - alone).max() < 1e-5


@pytest.mark.parametrize("adapted_head", [False, True])
def test_the_loss_and_its_gradients_are_plain_cross_entropy(tiny_llm, adapted_head, monkeypatch):
    monkeypatch.setattr("searchtune.models.completions._BLOCK", 1000)
    store, batch = random_completions(9), np.array([8, 1, 5])
    model = load_causal_lm(tiny_llm, dtype=torch.float32, device=CPU, attention="eager")
    targets = ["lm_head", "q_proj", "down_proj"] if adapted_head else ["q_proj", "down_proj"]
    get_peft_model(model.backbone, LoraConfig(r=4, target_modules=targets, init_lora_weights=False))
    objective = CompletionWriting(model, store, batch_size=3, tokens_per_chunk=30, seed=0)
    found = []
    for ours in (True, False):
        model.zero_grad()
        if ours:
            loss = objective.loss(batch)
        else:
            losses = []
            for i in batch:
                ids = torch.from_numpy(store.tokens.ids[store.tokens.offsets[i] : store.tokens.offsets[i + 1]])
                labels = ids.clone()
                labels[: store.prompts[i]] = -100
                logits = model.backbone(ids[None]).logits[0, :-1]
                losses.append(torch.nn.functional.cross_entropy(logits, labels[1:], reduction="none"))
            count = (store.tokens.lengths - store.prompts)[batch].sum()
            loss = torch.cat(losses).sum() / int(count)
        loss.backward()
        found.append((loss.item(), {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}))
    assert found[0][0] == pytest.approx(found[1][0], rel=1e-5)
    assert_same(found[0][1], found[1][1], 1e-4)


def test_recomputing_and_chunks_change_no_gradient(tiny_llm):
    store = random_completions(12)
    found = []
    for options in ({"tokens_per_chunk": 10_000}, {"tokens_per_chunk": 1, "recompute": True}, {"tokens_per_chunk": 50}):
        objective, adapter = writer(tiny_llm, store, **options)
        found.append(gradients(objective, adapter, np.arange(12)))
    assert_same(found[1], found[0], 1e-4)
    assert_same(found[2], found[0], 1e-4)


@pytest.mark.processor
def test_in_bf16_gradients_point_the_same_way(tiny_llm):
    store = random_completions(12)
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        model, adapter = open_llm(tiny_llm, dtype=dtype)
        objective = CompletionWriting(model, store, batch_size=12, tokens_per_chunk=999, seed=0)
        found.append(torch.cat([g.flatten() for g in gradients(objective, adapter, np.arange(12)).values()]))
    assert torch.nn.functional.cosine_similarity(*found, dim=0) > 0.999


OPTIMISERS = {
    "plain": ({}, {}),
    "lora+": ({"lora_plus_ratio": 4.0}, {}),
    "lora-fa": ({"lora_fa": True}, {}),
    "dora": ({}, {"dora": True}),
    "dora-fa": ({"lora_fa": True}, {"dora": True, "dropout": 0.1}),
}


@pytest.mark.parametrize("choice", OPTIMISERS)
def test_it_learns_and_resumes_in_the_same_bits(tiny_llm, tmp_path, choice):
    store = random_completions(8, seed=5)
    settings, method = OPTIMISERS[choice]
    optim = Optimiser(lr=0.02, epochs=5, min_steps=0, batch_size=4, checkpoint_every=3, **settings)

    def make():
        return writer(tiny_llm, store, LoraMethod(rank=4, alpha=8, **method), batch_size=4)

    (log, state), (_, again) = (trained(make, optim, tmp_path / str(stop), stop) for stop in (None, 5))
    assert log.steps[-1].loss < 0.8 * log.steps[0].loss
    assert all(torch.equal(state[name], again[name]) for name in state)
    start = make()[1].state()
    moved = {name for name in state if not torch.equal(state[name], start[name])}
    kept = {name for name in state if "lora_A" in name} if settings.get("lora_fa") else set()
    assert moved == set(state) - kept
    assert ("magnitude" in " ".join(state)) is bool(method.get("dora"))


def test_examples_that_are_wrong(tiny_llm):
    store = random_store(3, shortest=3)
    for prompts, message in (
        (store.lengths, "example 0: its completion has no tokens"),
        (store.lengths * [1, 0, 1] - 1, "example 1: its prompt has no tokens"),
    ):
        with pytest.raises(DataError, match=message):
            CompletionWriting(
                open_llm(tiny_llm)[0], CompletionStore(store, prompts), batch_size=2, tokens_per_chunk=9, seed=0
            )


def test_weights_count_tokens_several_times(tiny_llm):
    store, batch = random_completions(6), np.array([4, 0, 2])
    weights = np.array([10, 1, 3, 1, 0.5, 1], np.float32)
    objective, _ = writer(tiny_llm, store, weights=weights)
    tokens = [whole_logprobs(objective.trainable.model, store)[i] for i in batch]
    total = sum(-weights[i] * own.sum() for i, own in zip(batch, tokens, strict=True))
    count = sum(weights[i] * len(own) for i, own in zip(batch, tokens, strict=True))
    assert objective.loss(batch).item() == pytest.approx(total / count, abs=1e-4)
    alike, _ = writer(tiny_llm, store, weights=np.full(6, 7, np.float32))
    plain, _ = writer(tiny_llm, store)
    assert alike.loss(batch).item() == pytest.approx(plain.loss(batch).item(), abs=1e-6)


@pytest.mark.parametrize("weights", [np.ones(5), np.array([1, 1, 0, 1, 1, 1]), np.array([1, 1, np.nan, 1, 1, 1])])
def test_weights_that_say_nothing(tiny_llm, weights):
    with pytest.raises(DataError, match=r"weights of shape|weight .* is not above 0"):
        writer(tiny_llm, random_completions(6), weights=weights.astype(np.float32))
