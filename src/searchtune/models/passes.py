"""Which forward passes this CPU takes, by architecture and type: asked of small models with random weights."""

from __future__ import annotations

from typing import Any

import torch
from transformers import BertConfig, BertModel, LlamaConfig, LlamaForCausalLM

from searchtune.models.fast_bert import fast_bert
from searchtune.models.fast_llama import LlamaShortcut
from searchtune.models.precision import packs

_SIZES: dict[str, Any] = {
    "vocab_size": 99,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}


def forward_passes() -> dict[str, dict[str, str]]:
    """`packed` (ours, weights in the matrix kernels' own order), `fast` (ours) or `library`, by architecture and type.

    Without AVX512 or AVX-NE-CONVERT there are no packed weights in bf16.
    """
    found: dict[str, dict[str, str]] = {"BERT": {}, "Llama": {}}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for name, dtype in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
            bert: Any = BertModel(BertConfig(**_SIZES), add_pooling_layer=False)
            llama: Any = LlamaForCausalLM(LlamaConfig(**_SIZES))
            fast = fast_bert(bert.to(dtype).requires_grad_(False).eval())
            found["BERT"][name] = "library" if fast is None else "packed" if packs(dtype) else "fast"
            decoder = LlamaShortcut().of(llama.to(dtype).requires_grad_(False).eval())
            found["Llama"][name] = "library" if decoder is None else "fast"
    return found
