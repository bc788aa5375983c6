"""Logits of a few entries against the whole model's, texts behind a shared prefix, and models that cannot be read so."""

import json
import shutil

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn

from searchtune.errors import ModelError
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import TokenStore, tokenise
from searchtune.models.prefixes import common_prefix, find_shared
from unit.models.causal import write_causal

CPU = torch.device("cpu")
ENTRIES = [7, 90, 3, 90]


@pytest.fixture(autouse=True)
def library_alone(monkeypatch):
    """What is tested here is the way by the library's forward pass; `test_fast_llama.py` tests the other."""
    monkeypatch.setattr("searchtune.models.fast_llama.LlamaShortcut.of", lambda *_: None)


def load(folder, dtype=torch.float32, **options) -> CausalLM:
    return load_causal_lm(folder, dtype=dtype, device=CPU, **options)


def store_of(*rows) -> TokenStore:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return TokenStore(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]), offsets, 0)


def row(store, text):
    return store.ids[store.offsets[text] : store.offsets[text + 1]]


@torch.no_grad()
def whole_logits(model, store):
    """All logits after the last token of each text alone, by the library's own forward pass."""
    texts = range(len(store.lengths))
    return torch.cat([model.backbone(torch.from_numpy(row(store, i))[None]).logits[:, -1] for i in texts])


def shared_store(count, prefix=40, seed=0, equal_lengths=False) -> TokenStore:
    rng = np.random.default_rng(seed)
    head = rng.integers(5, 100, size=prefix)
    lengths = [8] * count if equal_lengths else rng.integers(1, 30, size=count)
    return store_of(*(np.concatenate([head, rng.integers(5, 100, size=length)]) for length in lengths))


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_logits_are_the_whole_models(tmp_path, texts, tied, attention):
    model = load(write_causal(tmp_path, tie_word_embeddings=tied), attention=attention)
    store = tokenise(model.tokenizer, texts[:20], 64)
    expected = whole_logits(model, store)[:, ENTRIES].numpy()
    assert np.abs(model.score_store(store, ENTRIES) - expected).max() < 1e-5
    assert np.ptp(expected, axis=0).min() > 0.01  # texts are told apart


def test_forward_takes_chunks_and_gives_gradients_with_or_without_recomputing(tiny_causal, texts):
    model = load(tiny_causal)
    get_peft_model(model.backbone, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear"))
    model.eval()
    store = tokenise(model.tokenizer, texts[:20], 64)
    chunks = [store.chunk(rows, CPU) for rows in (np.array([3, 1]), np.array([0, 2, 9]))]
    gradients = []
    for recompute in (False, True):
        model.zero_grad()
        logits = model(chunks, ENTRIES, recompute)
        (logits * torch.arange(1.0, 21).reshape(5, 4)).sum().backward()
        gradients.append([p.grad.clone() for name, p in model.named_parameters() if "lora_B" in name])
        assert (
            np.abs(logits.detach().numpy() - model.score_store(store, ENTRIES, np.array([3, 1, 0, 2, 9]))).max() < 1e-5
        )
    assert len(gradients[0]) == 7 * 3
    assert all(left.abs().max() > 0 for left in gradients[0])
    for left, right in zip(*gradients, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind, settings", [
    ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 16, "sliding_window": 8}),
    ("cohere", {"logit_scale": 0.25}),
    ("granite", {"logits_scaling": 8.0}),
    ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    ("phi", {}),
])  # fmt: skip
def test_what_follows_the_output_layer_is_done_too(tmp_path, texts, kind, settings):
    if kind == "phi":
        settings = {"num_key_value_heads": 4}  # its output layer has a bias
    model = load(write_causal(tmp_path, kind, **settings), attention="eager")
    if kind == "phi":
        nn.init.normal_(model.backbone.lm_head.bias)
    store = tokenise(model.tokenizer, texts[:9], 64)
    expected = whole_logits(model, store)[:, ENTRIES].numpy()
    scores = model.score_store(store, ENTRIES, groups=np.zeros(9, dtype=np.int64))
    assert np.abs(scores - expected).max() < 1e-5


def test_an_architecture_that_does_more_is_refused(tiny_causal, monkeypatch):
    whole = CausalLM.entry_logits
    monkeypatch.setattr(CausalLM, "entry_logits", lambda self, states, ids: 1.1 * whole(self, states, ids))
    with pytest.raises(ModelError, match="this architecture is not supported"):
        load(tiny_causal)


def test_an_adapted_output_layer(tiny_causal, texts):
    model = load(tiny_causal)
    get_peft_model(model.backbone, LoraConfig(r=4, target_modules=["lm_head", "q_proj"], init_lora_weights=False))
    store = tokenise(model.tokenizer, texts[:5], 64)
    expected = whole_logits(model, store)[:, ENTRIES].numpy()
    assert np.abs(model.score_store(store, ENTRIES) - expected).max() < 1e-5


def test_only_the_adapters_dropout_follows_train(tiny_causal):
    model = load(tiny_causal)
    get_peft_model(model.backbone, LoraConfig(r=4, lora_dropout=0.5, target_modules=["q_proj"]))
    assert model.train() is model
    training = {name for name, module in model.backbone.named_modules() if module.training}
    assert training == {name for name, _ in model.backbone.named_modules() if "lora_dropout" in name} != set()
    assert model.training
    store = shared_store(3)
    assert np.array_equal(model.score_store(store, ENTRIES), model.score_store(store, ENTRIES))  # drops nothing
    assert model.training and any(module.training for module in model.backbone.modules())
    assert model.dtype == torch.float32 and model.device == CPU


@pytest.mark.parametrize("equal_lengths", [True, False])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("tokens_per_chunk", [1, 150, 8192])
def test_a_shared_prefix_changes_nothing(tiny_causal, attention, equal_lengths, tokens_per_chunk):
    model = load(tiny_causal, attention=attention)
    stores = [shared_store(count, seed=count, equal_lengths=equal_lengths) for count in (5, 1, 7)]
    store, groups = TokenStore.joined(stores), np.repeat([9, 2, 4], [5, 1, 7])
    order = np.random.default_rng(1).permutation(13)
    plain = model.score_store(store, ENTRIES, order, tokens_per_chunk=tokens_per_chunk)
    shared = model.score_store(store, ENTRIES, order, groups=groups[order], tokens_per_chunk=tokens_per_chunk)
    assert np.abs(plain - whole_logits(model, store)[order][:, ENTRIES].numpy()).max() < 1e-5
    assert np.abs(shared - plain).max() < 1e-5


@pytest.mark.parametrize("kind", ["llama", "bloom"])
@pytest.mark.parametrize("tokens_per_chunk", [1, 250, 8192])
def test_what_all_share_and_then_what_groups_share_is_run_once(tmp_path, kind, tokens_per_chunk):
    settings = {"n_layer": 2, "n_head": 4} if kind == "bloom" else {}
    model = load(write_causal(tmp_path, kind, **settings), attention="eager" if kind == "bloom" else "sdpa")
    rng = np.random.default_rng(0)
    instruction = rng.integers(5, 100, size=30)
    heads = [np.concatenate([instruction, rng.integers(5, 100, size=size)]) for size in (12, 7, 9, 12)]
    sizes = [5, 4, 6, 1]
    rests = [[rng.integers(5, 100, size=size) for size in rng.integers(1, 25, size=count)] for count in sizes]
    store = store_of(*(np.concatenate([head, rest]) for head, own in zip(heads, rests, strict=True) for rest in own))
    order = rng.permutation(16)
    groups = np.repeat([7, 1, 4, 2], sizes)[order]
    expected = whole_logits(model, store)[order][:, ENTRIES].numpy()
    seen = []
    model.backbone.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    shared = model.score_store(store, ENTRIES, order, groups=groups, tokens_per_chunk=tokens_per_chunk)
    assert seen[0] == (1, 30)
    if tokens_per_chunk == 8192:
        assert seen[1] == (3, 16) and len(seen) == 4  # heads, their texts, the text alone
    assert np.abs(shared - expected).max() < 1e-5


def test_log_probabilities_are_of_the_whole_vocabulary(tiny_causal):
    model = load(tiny_causal)
    store = shared_store(5)
    expected = whole_logits(model, store).log_softmax(-1)[:, ENTRIES].numpy()
    for groups in (None, np.zeros(5, dtype=np.int64)):
        assert np.abs(model.score_store(store, ENTRIES, groups=groups, normalised=True) - expected).max() < 1e-5


def test_windows_of_groups_hold_what_fits():
    rows = [[*range(10), *range(20 + group, 40 + group), text] for group in range(5) for text in range(3)]
    store, groups = store_of(*rows, [1] * 40), np.array([*np.repeat(range(5), 3), 9])
    found = find_shared(store, np.arange(16), groups, 60)
    assert found.top == 0  # the last text begins in a way of its own
    assert [sorted(set(heads.places // 3)) for heads in found.windows] == [[0, 1], [2, 3], [4]]
    assert found.alone.tolist() == [15]
    found = find_shared(store, np.arange(15), groups[:15], 60)
    assert found.top == 10 and len(found.alone) == 0
    for heads in found.windows:
        for place, group in zip(heads.places, heads.group, strict=True):
            assert [*range(10), *row(heads.store, group)] == rows[place][:30]


def test_a_shared_prefix_is_run_once(tiny_causal, monkeypatch):
    model = load(tiny_causal)
    store = TokenStore.joined([shared_store(6, seed=1), shared_store(3, seed=2), shared_store(2, prefix=4, seed=3)])
    seen = []
    model.backbone.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    model.score_store(store, ENTRIES, groups=np.repeat([0, 1, 2], [6, 3, 2]))
    assert seen.count((2, 40)) == 1
    assert sum(texts * tokens for texts, tokens in seen) < 2 * 40 + 11 * 40


def test_gradients_pass_through_a_prefix(tiny_causal):
    model = load(tiny_causal)
    get_peft_model(model.backbone, LoraConfig(r=4, target_modules="all-linear", init_lora_weights=False))
    store = shared_store(4)
    rests = store_of(*(row(store, i)[40:] for i in range(4)))
    weights = torch.randn(4, len(ENTRIES), generator=torch.Generator().manual_seed(0))
    found = []
    for shared in (True, False):
        model.zero_grad()
        if shared:
            prefix = model.read_prefix(row(store, 0)[:40])
            logits = model.last_logits(rests.chunk(np.arange(4), CPU), ENTRIES, prefix)
        else:
            logits = model.last_logits(store.chunk(np.arange(4), CPU), ENTRIES)
        (logits * weights).sum().backward()
        found.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for left, right in zip(*found, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-3, atol=1e-4)


def test_prefixes_of_ugly_groups():
    store = store_of([1, 2, 3], [1, 2, 3], [1, 2], [1], [9, 2, 3, 4], [])
    shared = [common_prefix(store, np.array(rows)) for rows in ([0, 1], [0, 2], [0, 3], [0, 4], [0], [], [0, 5])]
    assert shared == [2, 1, 0, 0, 2, 0, 0]


def test_equal_texts_and_texts_that_are_prefixes_of_others(tiny_causal):
    model = load(tiny_causal)
    head = list(range(10, 40))
    store = store_of(head, head, [*head, 7], head[:1], [*head[:29], 99])
    shared = model.score_store(store, ENTRIES, groups=np.zeros(5, dtype=np.int64))
    but_one = model.score_store(store, ENTRIES, np.array([0, 1, 2, 4]), groups=np.array([3, 3, 3, 3]))
    plain = model.score_store(store, ENTRIES)
    assert np.abs(shared - plain).max() < 1e-5
    assert np.abs(but_one - plain[[0, 1, 2, 4]]).max() < 1e-5


def test_nothing_to_score(tiny_causal):
    model = load(tiny_causal)
    none = np.zeros(0, dtype=np.int64)
    assert model.score_store(shared_store(2), ENTRIES, none).shape == (0, 4)
    assert model.score_store(shared_store(2), ENTRIES, none, groups=none).shape == (0, 4)
    assert model.score_store(shared_store(2), []).shape == (2, 0)


def test_a_sliding_window_is_not_shared(tmp_path):
    model = load(write_causal(tmp_path, "mistral", sliding_window=8))
    assert not model.shares_prefixes
    store = shared_store(4)
    scores = model.score_store(store, ENTRIES, groups=np.zeros(4, dtype=np.int64))
    assert np.abs(scores - whole_logits(model, store)[:, ENTRIES].numpy()).max() < 1e-5


def test_what_has_no_logits(tiny_causal):
    model = load(tiny_causal)
    with pytest.raises(ModelError, match="text 1 has no tokens"):
        model.score_store(store_of([4], [], [5]), ENTRIES)
    with pytest.raises(ModelError, match=r"entry 100000 is not in the vocabulary: it has 0 to \d+"):
        model.score_store(store_of([4]), [3, 100_000])
    with pytest.raises(ModelError, match="entry -1 is not"):
        model.score_store(store_of([4]), [-1])


def test_bases_that_cannot_be_opened(tiny_causal, tmp_path):
    with pytest.raises(ModelError, match="cannot open this as a causal language model"):
        load(tmp_path)
    folder = shutil.copytree(tiny_causal, tmp_path / "cut")
    data = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(data[: len(data) // 2])
    with pytest.raises(ModelError, match="cannot open this as a causal language model"):
        load(folder)


def test_a_tokenizer_without_padding(tiny_causal, tmp_path):
    folder = shutil.copytree(tiny_causal, tmp_path / "base")
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings = {key: value for key, value in settings.items() if key != "pad_token"} | {"eos_token": "[SEP]"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    assert load(folder).tokenizer.pad_token == "[SEP]"


@pytest.mark.processor
def test_bf16_is_close(tiny_causal, texts):
    half = load(tiny_causal, torch.bfloat16)
    store = tokenise(half.tokenizer, texts, 64)
    exact = load(tiny_causal).score_store(store, ENTRIES)
    assert half.dtype == torch.bfloat16
    assert 0 < np.abs(half.score_store(store, ENTRIES) - exact).max() < 0.1 * np.abs(exact).max()
