"""`Encoder`: a transformer with pooling, the module that is trained, evaluated and saved.

It reads chunks (token ids, or hidden states cached below its adapted layers) and gives unit vectors. It does not know
tasks, losses or files other than its base.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoTokenizer

from searchtune.counting import counted
from searchtune.models.fast_bert import FastBert, Shortcut
from searchtune.models.inputs import Chunk, Store, TokenStore, length_sorted_chunks, tokenise
from searchtune.models.layout import Layout, Pooling, read_layout
from searchtune.models.lean_bert import TrainingPass
from searchtune.models.opening import opening
from searchtune.models.precision import warn_of_slow
from searchtune.models.quiet import quiet
from searchtune.models.stack import attention_option, check_whole, encoder_class
from searchtune.types import FloatArray, IntArray

Attention = Literal["eager", "sdpa"]


class Encoder(nn.Module):
    """Transformer, pooling and normalisation.

    `forward` takes all chunks of a batch at once, so that a distributed wrapper sees one forward pass a step.
    """

    def __init__(self, backbone: Any, tokenizer: Any, layout: Layout) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.layout = layout
        self._fast = Shortcut()
        self._lean = TrainingPass()

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.backbone.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the frozen weights, in which activations flow."""
        dtype: torch.dtype = next(p.dtype for p in self.backbone.parameters() if not p.requires_grad)
        return dtype

    @property
    def dim(self) -> int:
        return int(self.backbone.config.hidden_size)

    def train(self, mode: bool = True) -> Encoder:
        """Only an adapter's own dropout follows `mode`: the frozen base never drops anything."""
        super().train(mode)
        if mode and any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self._fast.drop()  # no second copy of the weights while they are trained
        train_adapter(self.backbone, mode)
        return self

    def forward(self, chunks: Sequence[Chunk], recompute: bool = False) -> Tensor:
        """Vectors of all texts of all chunks, in their order.

        With `recompute`, only vectors are kept and each chunk is encoded again in the backward pass: gradient caching
        (Gao et al. 2021, arXiv:2101.06983) written as activation checkpointing, with the same gradients.

        Shape: (texts, dim) float32.
        """
        if recompute and torch.is_grad_enabled():
            vectors = [checkpoint(self.encode_chunk, chunk, use_reentrant=False) for chunk in chunks]
        else:
            vectors = [self.encode_chunk(chunk) for chunk in chunks]
        return torch.cat([vector for vector in vectors if vector is not None])

    def encode_chunk(self, chunk: Chunk) -> Tensor:
        """Vectors of one chunk. Shape: (texts, dim) float32."""
        hidden = chunk.hidden.to(self.dtype) if chunk.hidden is not None else None
        own = self._lean.of(self.backbone, chunk.mask) if self.training else self.fast_pass(chunk)
        states = (
            self.backbone(input_ids=chunk.ids, inputs_embeds=hidden, attention_mask=chunk.mask).last_hidden_state
            if own is None
            else own(chunk.mask, ids=chunk.ids, hidden=hidden)
        )
        vectors = pool(states, chunk.mask, self.layout.pooling)  # (texts, dim)
        return nn.functional.normalize(vectors, dim=-1) if self.layout.normalise else vectors

    def fast_pass(self, chunk: Chunk) -> FastBert | None:
        """The fast forward pass for a chunk, without gradients; None where the library's has to be used."""
        return self._fast.of(self.backbone, chunk.mask)

    @torch.no_grad()
    def encode_store(self, store: Store, texts: IntArray | None = None, *, tokens_per_chunk: int = 8192) -> FloatArray:
        """Vectors of the texts of a store, or of some of them. Shape: (texts, dim)."""
        texts = np.arange(len(store.lengths)) if texts is None else texts
        result = np.zeros((len(texts), self.dim), dtype=np.float32)
        with inference(self):
            for rows in counted(length_sorted_chunks(store.lengths[texts], tokens_per_chunk), len(texts)):
                result[rows] = self.encode_chunk(store.chunk(texts[rows], self.device)).float().cpu().numpy()
        return result

    def encode(self, texts: Sequence[str], *, max_tokens: int, prompt: str = "") -> FloatArray:
        """Vectors of texts, each cut at `max_tokens` after `prompt`. Shape: (texts, dim)."""
        return self.encode_store(self.read(texts, max_tokens=max_tokens, prompt=prompt))

    def read(self, texts: Sequence[str], *, max_tokens: int, prompt: str = "") -> TokenStore:
        """Texts as it reads them, each cut at `max_tokens` after `prompt`."""
        return tokenise(self.tokenizer, texts, max_tokens, prompt)


def train_adapter(backbone: nn.Module, mode: bool) -> None:
    """Let an adapter's dropout follow `mode`; everything else stays in evaluation mode."""
    backbone.eval()
    for name, module in backbone.named_modules():
        if "lora_dropout" in name:
            module.train(mode)


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector a text from its token states, summed in float32.

    Shape: states (texts, tokens, dim), mask (texts, tokens) -> (texts, dim).
    """
    if pooling == "cls":
        return states[:, 0].float()
    if pooling == "last":
        last = mask.shape[1] - 1 - mask.flip(1).argmax(1)
        return states[torch.arange(len(states), device=states.device), last].float()
    weights = mask[..., None].to(states.dtype)  # (texts, tokens, 1)
    if pooling == "max":
        return states.masked_fill(weights == 0, float("-inf")).amax(1).float()
    total = torch.einsum("ntd,nt->nd", states.float(), mask.float())
    return total / mask.sum(1, keepdim=True).clamp(min=1)


@quiet()
def load_encoder(folder: Path, *, dtype: torch.dtype, device: torch.device, attention: Attention = "sdpa") -> Encoder:
    """The base in `folder`, frozen, in `dtype` on `device`.

    Raises:
        ModelError: the folder cannot be opened, or its pooling is not supported.
    """
    warn_of_slow(dtype, device)
    layout = read_layout(folder)
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    with opening(folder, "transformers cannot open this model"):
        backbone, loaded = encoder_class(folder).from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            output_loading_info=True,
            **attention_option(attention),
            **local,
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    check_whole(backbone, loaded["missing_keys"], folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    backbone.requires_grad_(False).eval().to(device)
    return Encoder(backbone, tokenizer, layout)


class HasBackbone(Protocol):
    """A model of ours around a transformer of the library."""

    backbone: Any
    training: bool

    def train(self, mode: bool = True) -> Any: ...


@contextmanager
def inference(model: HasBackbone) -> Iterator[None]:
    """Evaluate with the fused attention kernel, then put training's setting back: its backward pass is slow on CPUs."""
    before = model.backbone.config._attn_implementation
    training = model.training
    if getattr(model.backbone, "_supports_sdpa", False):
        model.backbone.config._attn_implementation = "sdpa"
    model.train(False)
    try:
        yield
    finally:
        model.backbone.config._attn_implementation = before
        model.train(training)
