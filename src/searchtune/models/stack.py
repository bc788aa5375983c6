"""The stack of transformer layers inside a backbone, and what has to be looked at when one is opened."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from torch import nn
from transformers import AutoConfig, AutoModel, AutoModelForTextEncoding

from searchtune.errors import ConfigError, ModelError


def layer_stack(backbone: Any) -> tuple[str, nn.ModuleList]:
    """Dotted name and modules of the transformer layers: the longest list of modules of one class."""
    stacks = [
        (name, module)
        for name, module in backbone.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) and len({type(layer) for layer in module}) == 1
    ]
    if not stacks:
        raise ModelError(f"{type(backbone).__name__} has no list of transformer layers that searchtune can find")
    return max(stacks, key=lambda stack: len(stack[1]))


def check_own_weights(backbone: Any, top_layers: int) -> None:
    """See that layers have weights of their own, so that some can be trained above frozen ones.

    Raises:
        ConfigError: one layer's weights stand for several layers (ALBERT, Lan et al. 2020).
    """
    own, runs = len(layer_stack(backbone)[1]), int(getattr(backbone.config, "num_hidden_layers", None) or 0)
    if runs > own:
        raise ConfigError(
            f"method.top_layers is {top_layers}, but the {runs} layers of {type(backbone).__name__} share the weights "
            f"of {own}: none can be trained above frozen ones; leave method.top_layers out, which trains them all, "
            "and set frozen_prefix: false"
        )


def encoder_class(folder: Path) -> Any:
    """The class that opens the base in `folder` as an encoder; of an encoder-decoder (T5) the encoder alone.

    Raises:
        ModelError: an encoder-decoder whose encoder transformers does not open by itself.
    """
    config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    whole: Any = AutoModel
    alone: Any = AutoModelForTextEncoding
    kind = type(config)
    if kind in alone._model_mapping and alone._model_mapping[kind] is not whole._model_mapping.get(kind, None):
        return alone
    if getattr(config, "is_encoder_decoder", False):
        raise ModelError(
            f"{folder}: {config.model_type} is an encoder with a decoder, and transformers does not open its encoder "
            "alone; choose a base that is an encoder (BERT, MPNet, T5's encoder, ...) or a decoder (Qwen3, Llama, ...)"
        )
    return whole


def attention_option(attention: str) -> dict[str, str]:
    """What `from_pretrained` is told of the attention kernel.

    Nothing for `sdpa`: the library takes it by itself where the architecture has it, and eager attention where that is
    all there is (MPNet, DeBERTa, T5).
    """
    return {} if attention == "sdpa" else {"attn_implementation": attention}


def check_whole(backbone: Any, missing: Iterable[str], folder: Path) -> None:
    """See that no weight of the layers or of the token embeddings was drawn at random because the file lacks it.

    Raises:
        ModelError: one was.
    """
    stack, _ = layer_stack(backbone)
    words = backbone.get_input_embeddings()
    inside = {name for name, module in backbone.named_modules() if module is words} | {stack}
    lost = sorted(name for name in missing if name.startswith(tuple(f"{part}." for part in inside)))
    if lost:
        raise ModelError(f"{folder}: weights are missing, {lost[0]} and {len(lost) - 1} more: is the file whole?")
