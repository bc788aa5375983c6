"""A tiny base with adapters of every role, for tests of whole pipelines."""

from __future__ import annotations

from pathlib import Path

import torch

from searchtune.models.adapters import add_lora
from searchtune.models.generator import load_causal_lm
from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.chat import ChatExample, Message
from searchtune.prompts.rubrics import find_rubric
from searchtune.specs.card import LlmCard, RewriteUse
from searchtune.specs.recipe import LoraMethod
from unit.models.causal import write_byte_causal
from unit.training.tiny import shake

SAID = [ChatExample((Message("user", ("tide and reef",)),), "sail")]
OWN = {
    "rewrite": {
        "prompt": "rewrite/short",
        "rewriting": RewriteUse(history_turns=4, history_words=40, reply_words=8, max_new_tokens=6),
    },
    "answer": {
        "prompt": "answer/brief",
        "extra": {"format": "plain", "abstain": "written", "max_new_tokens": 8},
    },
    "judge": {"prompt": "judge/short", "rubric": find_rubric("umbrela").fields(), "labels": ["0", "1", "2", "3"]},
}


def write_base(folder: Path) -> Path:
    return write_byte_causal(folder, max_position_embeddings=2048)


def write_adapter(folder: Path, base: Path, kind: str, seed: int, **more) -> Path:
    """A random adapter with the card of its role."""
    model = load_causal_lm(base, dtype=torch.float32, device=torch.device("cpu"))
    lora = add_lora(model, LoraMethod(rank=2, alpha=8), seed=seed, task_type="CAUSAL_LM")
    shake(lora, scale=0.3, seed=seed)
    card = LlmCard(**{
        "kind": kind, "name": kind, "base": str(base), "revision": None,
        "base_weights_sha256": weights_sha256(base), "tokenizer_sha256": tokenizer_sha256(base),
        "chat_template_sha256": chat_template_sha256(base), "max_tokens": 900, "trainable_parameters": 1,
        "recipe_sha256": "r", "data_fingerprint": "d", "train_positives_sha256": "p", "metrics": {}, "versions": {},
        "created": "2026-01-01T00:00:00Z", "prompt_version": "1", "probe": chat_probe(SAID), **OWN[kind], **more,
    })  # fmt: skip
    save_llm_adapter(folder, model, lora, card, train_positives=[])
    return folder


def write_pipeline(file: Path, collection: Path, adapters: dict[str, Path], more: str = "") -> Path:
    """All language model stages over words."""
    file.write_text(
        f"task: {collection}\nretrieve: {{words: true, depth: 10}}\nprecision: fp32\ntop: 3\n"
        f"rewrite: {{adapter: {adapters['rewrite']}}}\n"
        f"answer: {{adapter: {adapters['answer']}, base: {adapters['base']}, passages: 2, max_new_tokens: 8}}\n"
        f"judge: {{adapter: {adapters['judge']}, passages: 2}}\n{more}"
    )
    return file
