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


def write_byte_causal(folder: Path, kind: str = "llama", words: tuple[str, ...] = (), **settings) -> Path:
    """The same with a byte-level BPE tokenizer, a chat template and a generation config; every digit stands alone.

    `words` of ASCII letters are one token each, too.
    """
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    merges = [("\u0120", "y"), ("\u0120y", "e"), ("\u0120ye", "s"), ("\u0120", "n"), ("\u0120n", "o"), ("t", "h")]
    merges += [(word[:end], word[end]) for word in words for end in range(1, len(word))]
    known = [*special, *sorted(pre_tokenizers.ByteLevel.alphabet()), *(left + right for left, right in merges)]
    backend = Tokenizer(models.BPE({token: i for i, token in enumerate(known)}, merges))
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=special[1], eos_token=special[2], pad_token=special[2], unk_token=special[0]
    )
    tokenizer.chat_template = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"
    ids = {"pad_token_id": 2, "bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(kind, **{**TINY, **ids, "vocab_size": len(known), **settings})
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float16).eval()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
