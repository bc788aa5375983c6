"""Bases that people use, small and with random weights: each trains, all layers and above a frozen prefix, and reloads."""

import logging

import numpy as np
import pytest
import torch
import transformers
from peft import PeftModel

import support
from searchtune.errors import ConfigError, ModelError
from searchtune.models.adapters import add_lora
from searchtune.models.encoder import load_encoder
from searchtune.models.inputs import tokenise
from searchtune.models.layers import check_prefix, compute_states, room_for_states, without_prefix
from searchtune.models.reranker import Reading, load_reranker
from searchtune.specs.recipe import LoraMethod

pytestmark = pytest.mark.processor
CPU = torch.device("cpu")
LAYERS = 3
BERT = {
    "hidden_size": 32, "num_hidden_layers": LAYERS, "num_attention_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 80, "initializer_range": 0.2, "pad_token_id": 0,
}  # fmt: skip
LLAMA = {**BERT, "num_key_value_heads": 2, "bos_token_id": 2, "eos_token_id": 3}
BASES = {
    "Bert": BERT,
    "Roberta": BERT,
    "XLMRoberta": BERT,
    "DistilBert": {"dim": 32, "n_layers": LAYERS, "n_heads": 4, "hidden_dim": 48, **BERT},
    "Electra": {**BERT, "embedding_size": 16},
    "Albert": {**BERT, "embedding_size": 16},
    "ModernBert": {**BERT, "global_attn_every_n_layers": 2, "local_attention": 8, "cls_token_id": 2, "sep_token_id": 3,
                   "bos_token_id": 2, "eos_token_id": 3},
    "NomicBert": BERT,
    "EuroBert": {**LLAMA, "mask_token_id": 4},
    "Llama": LLAMA,
    "Mistral": LLAMA,
    "Qwen3": {**LLAMA, "head_dim": 8},
    "Gemma3Text": {**LLAMA, "head_dim": 8, "sliding_window": 8},
    "MPNet": BERT,
    "DebertaV2": {**BERT, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 16,
                  "norm_rel_ebd": "layer_norm", "share_att_key": True, "position_biased_input": False,
                  "max_relative_positions": -1},
    "T5": {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": LAYERS, "num_heads": 4, "pad_token_id": 0,
           "relative_attention_num_buckets": 16, "is_gated_act": True, "feed_forward_proj": "gated-gelu"},
}  # fmt: skip
SHARED = {"Albert"}
"""Bases whose layers share their weights: nothing can be frozen below what is trained."""


@pytest.fixture(scope="session")
def bases(tmp_path_factory):
    """Makes the folder of a base when it is first asked for."""
    made = {}

    def folder(name):
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            model = getattr(transformers, {"T5": "T5EncoderModel"}.get(name, f"{name}Model"))
            config = getattr(transformers, f"{name}Config")(vocab_size=len(support._vocabulary()), **BASES[name])
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(5)
                model(config).eval().save_pretrained(made[name])
            support._tokenizer().save_pretrained(made[name])
        return made[name]

    return folder


@pytest.fixture(scope="module")
def texts():
    return [f"{title} {text}" for title, text in support.documents().values()][:12]


def train(encoder, adapter, store, steps=2):
    """Move the first six texts away from the others."""
    optimiser = torch.optim.AdamW(adapter.parameters.values(), lr=0.05)
    chunk = store.chunk(np.arange(12), CPU)
    encoder.train()
    for _ in range(steps):
        optimiser.zero_grad()
        vectors = encoder([chunk])
        (vectors[:6] @ vectors[6:].T).mean().backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in adapter.parameters.values())
        optimiser.step()
    encoder.eval()


@pytest.mark.parametrize("top_layers", [None, 1], ids=["all layers", "frozen prefix"])
@pytest.mark.parametrize("name", BASES)
def test_it_trains_and_reloads(bases, name, top_layers, texts, tmp_path):
    folder = bases(name)
    encoder = load_encoder(folder, dtype=torch.float32, device=CPU, attention="eager")
    method = LoraMethod(rank=4, alpha=8, top_layers=top_layers)
    if top_layers and name in SHARED:
        with pytest.raises(ConfigError, match="share the weights of 1.*leave method.top_layers out.*frozen_prefix: f"):
            add_lora(encoder, method, seed=1)
        return
    store = tokenise(encoder.tokenizer, texts, 64)
    base = encoder.encode_store(store)
    adapter = add_lora(encoder, method, seed=1)
    assert np.abs(encoder.encode_store(store) - base).max() < 1e-5
    if top_layers is None:
        train(encoder, adapter, store)
    else:
        hidden = room_for_states(encoder, store)
        compute_states(encoder, store, hidden, np.arange(len(texts)), top_layers)
        check_prefix(encoder, store, hidden, top_layers)
        with without_prefix(encoder, top_layers):
            train(encoder, adapter, hidden)
    trained = encoder.encode_store(store)
    assert np.isfinite(trained).all() and np.abs(trained - base).max() > 1e-2
    adapter.peft_model.save_pretrained(tmp_path)
    again = load_encoder(folder, dtype=torch.float32, device=CPU)
    again.backbone = PeftModel.from_pretrained(again.backbone, str(tmp_path)).merge_and_unload().eval()
    assert np.abs(again.encode_store(store) - trained).max() < 1e-5


@pytest.mark.parametrize("name", ["MPNet", "DebertaV2", "Albert"])
def test_it_is_a_rerankers_base(bases, name, caplog, capfd):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)
    try:
        reranker = load_reranker(bases(name), Reading(max_tokens=48), dtype=torch.float32, device=CPU)
    finally:
        logger.removeHandler(caplog.handler)
    assert reranker.fresh_head
    assert "MISSING" not in caplog.text and "MISSING" not in capfd.readouterr().err


def test_an_encoder_decoder_without_an_encoder_of_its_own_is_refused(tmp_path):
    sizes = {"d_model": 16, "encoder_layers": 1, "decoder_layers": 1, "encoder_ffn_dim": 16, "decoder_ffn_dim": 16}
    heads = {"encoder_attention_heads": 2, "decoder_attention_heads": 2}
    config = transformers.BartConfig(
        vocab_size=len(support._vocabulary()), max_position_embeddings=16, **sizes, **heads
    )
    transformers.BartModel(config).save_pretrained(tmp_path)
    support._tokenizer().save_pretrained(tmp_path)
    with pytest.raises(ModelError, match="bart is an encoder with a decoder.*choose a base"):
        load_encoder(tmp_path, dtype=torch.float32, device=CPU)
