"""The stack of transformer layers inside a backbone, and cutting the backbone in two at one of them.

The lower part of a frozen prefix never changes, so its hidden states are computed once (`compute_states`) and
training runs `without_prefix`: the same backbone, its embeddings handing the cached states on and its lower layers left
out. Masks, positions and final norms stay the library's own, and `check_prefix` proves on real texts that nothing else
is skipped.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.counting import counted
from searchtune.errors import ModelError, StorageError
from searchtune.models.encoder import Encoder, inference
from searchtune.models.inputs import Chunk, HiddenStore, TokenStore, length_sorted_chunks
from searchtune.models.stack import check_own_weights, layer_stack
from searchtune.types import IntArray

_EXACT = 2e-2
"""Largest component by which split and whole vectors may differ: twice what rounding cached states to bf16 costs."""


class _HandOn(nn.Module):
    """Stands in for an embedding module and returns the states it is given."""

    def forward(
        self, input_ids: Tensor | None = None, inputs_embeds: Tensor | None = None, *_: Any, **__: Any
    ) -> Tensor | None:
        return inputs_embeds


@contextmanager
def without_prefix(encoder: Encoder, top_layers: int) -> Iterator[None]:
    """Within this block the encoder reads hidden states of the layer `top_layers` below its top."""
    backbone = encoder.backbone
    name, stack = layer_stack(backbone)
    parent, _, leaf = name.rpartition(".")
    holder = backbone.get_submodule(parent)
    stand_ins = {"embeddings": _HandOn(), "embeddings_project": nn.Identity()}  # the second is ELECTRA's
    below = {part: getattr(backbone, part) for part in stand_ins if hasattr(backbone, part)}
    top = nn.ModuleList(list(stack)[len(stack) - top_layers :])
    setattr(holder, leaf, top)
    for part in below:
        setattr(backbone, part, stand_ins[part])
    lent = _lend_position_bias(stack[0], top[0])
    try:
        yield
    finally:
        for attention in lent:
            attention.has_relative_attention_bias = False
            del attention.relative_attention_bias
        setattr(holder, leaf, stack)
        for part, module in below.items():
            setattr(backbone, part, module)


def _lend_position_bias(bottom: nn.Module, lowest: nn.Module) -> list[Any]:
    """Let the lowest layer left compute the bias by distance that T5's bottom layer alone has; returns who borrowed.

    The others take it from the layer below (Raffel et al. 2020).
    """
    lent = []
    for owner, attention in zip(bottom.modules(), lowest.modules(), strict=False):
        if getattr(owner, "has_relative_attention_bias", False) and not getattr(
            attention, "has_relative_attention_bias", True
        ):
            borrower: Any = attention
            borrower.has_relative_attention_bias, borrower.relative_attention_bias = True, owner.relative_attention_bias
            lent.append(borrower)
    return lent


class _Reached(Exception):
    """The states below the adapted layers are known; the rest of the forward pass is not needed."""

    def __init__(self, states: Tensor) -> None:
        super().__init__()
        self.states = states


def room_for_states(encoder: Encoder, store: TokenStore, file: Path | None = None) -> HiddenStore:
    """A store of hidden states, all still zero, for every text of `store`: 2 x dim bytes a token.

    It is kept in memory, or in `file`, mapped, where one is given. Shape: hidden (all tokens, dim), bf16.
    """
    return HiddenStore(_room(len(store.ids), encoder.dim, file), store.offsets)


@torch.no_grad()
def compute_states(
    encoder: Encoder,
    store: TokenStore,
    states: HiddenStore,
    texts: IntArray,
    top_layers: int,
    *,
    tokens_per_chunk: int = 8192,
) -> None:
    """Put the hidden states entering the last `top_layers` layers into `states`, for every token of some texts.

    Shape: texts (n,), rows of `store`.
    """
    _, stack = layer_stack(encoder.backbone)
    check_own_weights(encoder.backbone, top_layers)
    check_depth(top_layers, len(stack))
    with inference(encoder):
        for rows in counted(length_sorted_chunks(store.lengths[texts], tokens_per_chunk), len(texts)):
            chunk = store.chunk(texts[rows], encoder.device)
            found = _lower_states(encoder, stack, len(stack) - top_layers, chunk).to("cpu", torch.bfloat16)
            for place, text in enumerate(texts[rows]):
                start, end = int(store.offsets[text]), int(store.offsets[text + 1])
                states.hidden[start:end] = found[place, : end - start]


def _lower_states(encoder: Encoder, stack: nn.ModuleList, layers: int, chunk: Chunk) -> Tensor:
    """States after the first `layers` layers. Shape: (texts, tokens, dim)."""
    fast = encoder.fast_pass(chunk)
    if fast is not None:
        return fast(chunk.mask, ids=chunk.ids, layers=layers)

    def stop(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        raise _Reached(args[0] if args else kwargs["hidden_states"])

    hook = stack[layers].register_forward_pre_hook(stop, with_kwargs=True)
    try:
        encoder.backbone(input_ids=chunk.ids, attention_mask=chunk.mask)
    except _Reached as reached:
        return reached.states
    finally:
        hook.remove()
    raise ModelError(f"{type(encoder.backbone).__name__} does not run its layer {layers}; set frozen_prefix: false")


def _room(tokens: int, dim: int, file: Path | None) -> Tensor:
    if file is None:
        return torch.zeros((tokens, dim), dtype=torch.bfloat16)
    file.parent.mkdir(parents=True, exist_ok=True)
    try:
        with file.open("wb") as handle:  # take the room now: a mapped file that meets a full disk kills the process
            if hasattr(os, "posix_fallocate"):  # not on macOS
                os.posix_fallocate(handle.fileno(), 0, 2 * max(1, tokens) * dim)
    except OSError as error:
        file.unlink(missing_ok=True)
        megabytes = 2 * tokens * dim / 2**20
        raise StorageError(
            f"{file}: no room for {megabytes:,.0f} MB of cached states ({error.strerror}); free some, "
            "choose another --out, or set prefix_cache: memory"
        ) from error
    flat = torch.from_file(str(file), shared=True, size=tokens * dim, dtype=torch.bfloat16)
    return flat.view(tokens, dim)


def check_depth(top_layers: int, layers: int) -> None:
    """A prefix needs at least one layer to cache."""
    if top_layers >= layers:
        raise ModelError(
            f"method.top_layers is {top_layers}, but the base has {layers} layers: nothing is left to cache"
        )


def prefix_difference(encoder: Encoder, tokens: TokenStore, hidden: HiddenStore, top_layers: int) -> float:
    """Largest difference of a vector's component between the whole model and the model fed from the cache."""
    texts = np.unique(np.linspace(0, len(tokens.lengths) - 1, num=min(16, len(tokens.lengths)), dtype=np.int64))
    whole = encoder.encode_store(tokens, texts)
    with without_prefix(encoder, top_layers):
        split = encoder.encode_store(hidden, texts)
    return float(np.abs(whole - split).max(initial=0.0))


def check_prefix(encoder: Encoder, tokens: TokenStore, hidden: HiddenStore, top_layers: int) -> float:
    """The difference; a `ModelError` where this architecture does not give the same vectors from the cache."""
    difference = prefix_difference(encoder, tokens, hidden, top_layers)
    if difference > _EXACT:
        raise ModelError(
            f"{type(encoder.backbone).__name__} cannot be cut below its last {top_layers} layers: vectors from the "
            f"cache differ by {difference:.3g}; set frozen_prefix: false"
        )
    return difference
