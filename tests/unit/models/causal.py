"""Tiny random causal language models with the small world's words, for tests of what is read from their logits."""

from __future__ import annotations

from pathlib import Path

import support

TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "max_position_embeddings": 256,
    "initializer_range": 0.1,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}


def write_causal(folder: Path, kind: str = "llama", **settings) -> Path:
    """Write a random model of transformers' `kind`, with a tokenizer, into `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    tokenizer = support._tokenizer()
    config = AutoConfig.for_model(kind, **{**TINY, "vocab_size": len(tokenizer), **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
