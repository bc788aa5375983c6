"""`FastBert`: the forward pass of a `BertModel` on a CPU, rearranged for speed and equal to the library's.

It serves inference alone: it holds copies of the weights in the kernels' own layout, LoRA merged, without gradients.
`fast_bert` hands one out only where it gives the library's states on a probe, and None for everything else: another
architecture or device, hooks, quantised layers, activations it has no kernel for. What each rearrangement gains is said
where it stands, in microseconds of one core's time a token for a 6-layer, 384-wide model in bf16 on texts of 17 to 256
tokens, where the library's own forward takes about 200.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from searchtune.models.precision import packs

_BERT = "transformers.models.bert.modeling_bert.BertModel"
_LINEARS = {
    *(f"attention.self.{part}" for part in ("query", "key", "value")),
    *(f"{part}.dense" for part in ("attention.output", "intermediate", "output")),
}
_ATTENTION_STEP = 16
"""Texts enter attention padded to a multiple of this: the fused kernel takes 10 us a token at 127 tokens, 6 at 128."""
_FEW_ROWS, _MANY_ROWS = 16, 64
"""Token matrices are filled up to a multiple of these rows, the second from 1,024 on: each shape has its own kernel."""
_MANY = 1024
_PROBE = (5, 16, 1, 33, 33, 2)
"""Lengths of the texts on which the library's states are compared."""
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.1}
"""Largest difference of a token's state over its norm. Rounding gave 3e-6 and .026 with 6 layers; more give more."""


@dataclass(frozen=True)
class _Linear:
    """`x W^T + b`, and gelu of it.

    The weight lies in the order in which the matrix kernel reads it, bias and gelu are applied to a tile while it is in
    cache (79 us for all linear layers and gelu, where separate ones take 118). A sum is not: see `_Layer`. Where torch
    has no such kernel for the type on this processor, the product is the library's own.
    """

    weight: Tensor
    bias: Tensor
    packed: bool

    @classmethod
    def of(cls, weight: Tensor, bias: Tensor) -> _Linear:
        ops: Any = torch.ops.mkldnn
        packed = packs(weight.dtype)
        if packed:
            weight = ops._reorder_linear_weight(weight.contiguous(), 2048)
        return cls(weight, bias.contiguous(), packed)

    def __call__(self, x: Tensor) -> Tensor:
        if not self.packed:
            return functional.linear(x, self.weight, self.bias)
        return self._pointwise(x, "none", "")

    def gelu(self, x: Tensor) -> Tensor:
        """The exact gelu, by the error function."""
        if not self.packed:
            return functional.gelu(functional.linear(x, self.weight, self.bias))
        return self._pointwise(x, "gelu", "none")

    def _pointwise(self, x: Tensor, after: str, variant: str) -> Tensor:
        ops: Any = torch.ops.mkldnn
        result: Tensor = ops._linear_pointwise(x, self.weight, self.bias, after, [], variant)
        return result


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> _Norm:
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def __call__(self, x: Tensor) -> Tensor:
        return functional.layer_norm(x, self.weight.shape, self.weight, self.bias, self.epsilon)


@dataclass(frozen=True)
class _Run:
    """Neighbouring texts of one length: `texts` from text `first` on, their tokens from row `row` on."""

    first: int
    texts: int
    length: int
    row: int

    def rows(self, states: Tensor) -> Tensor:
        """Its part of a token matrix. Shape: (tokens, columns) -> (texts, length, columns)."""
        return states[self.row : self.row + self.texts * self.length].view(self.texts, self.length, -1)


def _runs(lengths: list[int]) -> list[_Run]:
    """All texts as runs of equal length, in order."""
    runs: list[_Run] = []
    first = row = 0
    for text, length in enumerate(lengths):
        if text + 1 == len(lengths) or lengths[text + 1] != length:
            runs.append(_Run(first, text + 1 - first, length, row))
            row += runs[-1].texts * length
            first = text + 1
    return runs


@dataclass(frozen=True)
class _Block:
    """Neighbouring texts that share a padded length, for one call of the attention kernel.

    Shape: mask (texts, 1, width, width), 0 or -inf, the same for every head and query; None where nothing is padded.
    """

    runs: list[_Run]
    texts: int
    width: int
    mask: Tensor | None

    @property
    def end(self) -> int:
        """The row after its last text's."""
        return self.runs[-1].row + self.runs[-1].texts * self.runs[-1].length

    def attend(self, qkv: Tensor, heads: int, out: Tensor) -> None:
        """Put the attention of its texts into their rows of `out`.

        Queries, keys and values are copied to lie by text and head without gaps between their rows, which also pads
        them: 1.5 us a token and layer with the way back, for 8.4 -> 4.6 us in the kernel.

        Shape: qkv (tokens, 3 x dim), out (tokens, dim).
        """
        size = qkv.shape[1] // (3 * heads)
        held = qkv.new_empty((3, self.texts, heads, self.width, size))
        at = 0
        for run in self.runs:
            rows = run.rows(qkv).view(run.texts, run.length, 3, heads, size)
            place = held[:, at : at + run.texts]
            place[..., : run.length, :] = rows.permute(2, 0, 3, 1, 4)
            place[..., run.length :, :] = 0  # masked, but 0 x NaN would still be NaN
            at += run.texts
        found = functional.scaled_dot_product_attention(held[0], held[1], held[2], attn_mask=self.mask)
        found = found.transpose(1, 2).flatten(2)  # (texts, width, dim)
        at = 0
        for run in self.runs:
            run.rows(out).copy_(found[at : at + run.texts, : run.length])
            at += run.texts


def _blocks(runs: list[_Run]) -> Iterator[_Block]:
    start = 0
    for stop in range(1, len(runs) + 1):
        width = _up(runs[start].length, _ATTENTION_STEP)
        if stop == len(runs) or _up(runs[stop].length, _ATTENTION_STEP) != width:
            part = runs[start:stop]
            lengths = torch.tensor([run.length for run in part for _ in range(run.texts)])
            mask = None
            if int(lengths.min()) < width:
                padding = torch.arange(width) >= lengths[:, None]  # (texts, width)
                mask = torch.zeros(padding.shape).masked_fill_(padding, float("-inf"))
                mask = mask[:, None, None, :].expand(-1, 1, width, -1)
            yield _Block(part, len(lengths), width, mask)
            start = stop


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


@dataclass(frozen=True)
class _Layer:
    """One transformer layer on the tokens of all texts, one row each."""

    qkv: _Linear
    attention_out: _Linear
    attention_norm: _Norm
    up: _Linear
    down: _Linear
    norm: _Norm
    heads: int

    @classmethod
    def of(cls, module: Any) -> _Layer:
        """Query, key and value become one product, which reads the states once instead of three times."""
        attention = module.attention.self
        parts = [_weights(part) for part in (attention.query, attention.key, attention.value)]
        return cls(
            _Linear.of(torch.cat([weight for weight, _ in parts]), torch.cat([bias for _, bias in parts])),
            _Linear.of(*_weights(module.attention.output.dense)),
            _Norm.of(module.attention.output.LayerNorm),
            _Linear.of(*_weights(module.intermediate.dense)),
            _Linear.of(*_weights(module.output.dense)),
            _Norm.of(module.output.LayerNorm),
            attention.num_attention_heads,
        )

    def __call__(self, states: Tensor, blocks: list[_Block]) -> Tensor:
        """Shape: (tokens, dim) -> the same.

        Sums are taken in place: as a part of the matrix kernel they cost .3 us a token more than alone.
        """
        qkv = self.qkv(states)  # (tokens, 3 x dim)
        attended = torch.empty_like(states)
        for block in blocks:
            block.attend(qkv, self.heads, attended)
        attended[blocks[-1].end :] = 0  # rows of no text
        states = self.attention_norm(self.attention_out(attended).add_(states))
        return self.norm(self.down(self.up.gelu(states)).add_(states))


class FastBert:
    """A BERT's embeddings and layers. Made by `fast_bert`; the weights are those of that moment."""

    def __init__(self, backbone: Any) -> None:
        embeddings = backbone.embeddings
        self._layers = [_Layer.of(layer) for layer in backbone.encoder.layer]
        self._tables: tuple[Tensor, Tensor, Tensor] | None = None
        if hasattr(embeddings, "word_embeddings"):  # not where a cache of hidden states stands in for them
            self._norm = _Norm.of(embeddings.LayerNorm)
            names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
            word, position, kind = (getattr(embeddings, name).weight.detach() for name in names)
            self._tables = word, position, kind

    @property
    def starts_at_ids(self) -> bool:
        """False where hidden states enter the first layer, the embeddings being left out."""
        return self._tables is not None

    def __call__(
        self, mask: Tensor, *, ids: Tensor | None = None, types: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """States of the last layer, zero where a text is padded.

        Texts stand in any order, but neighbours of one length are computed together: sort by length. Padding is left
        out of everything but attention, where it ends at the next multiple of 16.

        Shape: mask, ids, types (segments; all 0 if None) (texts, tokens), hidden (what enters the first layer, instead
        of ids) (texts, tokens, dim) -> (texts, tokens, dim).
        """
        lengths = mask.sum(1).tolist()
        runs = _runs(lengths)
        states = self._embed(runs, ids, types) if hidden is None else _gather(runs, hidden)
        rows = len(states)
        states = functional.pad(states, (0, 0, 0, _up(rows, _MANY_ROWS if rows >= _MANY else _FEW_ROWS) - rows))
        blocks = list(_blocks(runs))
        for layer in self._layers:
            states = layer(states, blocks)
        result = states.new_zeros((*mask.shape, states.shape[1]))
        for run in runs:
            result[run.first : run.first + run.texts, : run.length] = run.rows(states)
        return result

    def _embed(self, runs: list[_Run], ids: Tensor | None, types: Tensor | None) -> Tensor:
        if self._tables is None or ids is None:
            raise ValueError("token ids need embeddings, but this model starts at hidden states")
        word, position, kind = self._tables
        parts = []
        segments = torch.zeros_like(ids) if types is None else types
        for run in runs:
            texts = slice(run.first, run.first + run.texts)
            states = functional.embedding(ids[texts, : run.length], word)  # (texts, length, dim)
            states = states + functional.embedding(segments[texts, : run.length], kind)
            parts.append((states + position[: run.length]).flatten(0, 1))
        return self._norm(torch.cat(parts))


def _gather(runs: list[_Run], padded: Tensor) -> Tensor:
    """The rows of all tokens. Shape: (texts, width, columns) -> (tokens, columns)."""
    parts = [padded[run.first : run.first + run.texts, : run.length].flatten(0, 1) for run in runs]
    return torch.cat(parts)


class Shortcut:
    """The fast forward pass of one backbone, made anew whenever its weights have changed."""

    def __init__(self) -> None:
        self._made: tuple[object, FastBert | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: nothing, since packed weights cannot be copied; it makes its own."""
        return {"_made": None}

    def of(self, backbone: Any, mask: Tensor) -> FastBert | None:
        """The fast pass for texts of this mask with the present weights; None where the library's has to be used."""
        if torch.is_grad_enabled() or mask.device.type != "cpu" or not fits(mask):
            return None
        now = state(backbone)
        if self._made is None or self._made[0] != now:
            self._made = now, fast_bert(backbone)
        return self._made[1]

    def drop(self) -> None:
        """Hold no second copy of the weights."""
        self._made = None


def fits(mask: Tensor) -> bool:
    """Whether every text has a token, and its padding only on the right, as `FastBert` takes for granted."""
    return bool(mask.numel() and mask[:, 0].all() and (mask[:, 1:] <= mask[:, :-1]).all())


@torch.no_grad()
def fast_bert(backbone: Any) -> FastBert | None:
    """A fast forward pass with the weights that `backbone` has now; None where the library's has to be used."""
    if not _suits(backbone):
        return None
    try:
        fast = FastBert(backbone)
        return fast if _agrees(fast, backbone) else None
    except RuntimeError:  # a kernel that torch has for other processors only
        return None


def state(backbone: Any) -> tuple[object, ...]:
    """What changes when a weight is written or replaced, a hook set, an adapter chosen, switched off or scaled.

    Parameters by place and version, modules by their number of hooks and what peft notes in them.
    """
    notes = ("_disable_adapters", "_active_adapter", "scaling")
    modules = tuple(
        (len(m._forward_hooks), len(m._forward_pre_hooks), *(str(m.__dict__.get(note)) for note in notes))
        for m in backbone.modules()
    )
    return modules, tuple((p.data_ptr(), 0 if p.is_inference() else p._version) for p in backbone.parameters())


def _suits(backbone: Any) -> bool:
    kind = type(backbone)
    if f"{kind.__module__}.{kind.__qualname__}" != _BERT:
        return False
    config = backbone.config
    read = [
        module for name, module in backbone.named_modules() if not name.startswith("pooler")
    ]  # states need no pooler
    base = [  # LoRA may be float32
        parameter
        for name, parameter in backbone.named_parameters()
        if "lora_" not in name and not name.startswith("pooler")
    ]
    linears = [m for layer in backbone.encoder.layer for name, m in layer.named_modules() if name in _LINEARS]
    return (
        config.hidden_act == "gelu"
        and not (config.is_decoder or config.add_cross_attention)
        and {parameter.dtype for parameter in base} in ({torch.float32}, {torch.bfloat16})
        and all(parameter.device.type == "cpu" for parameter in backbone.parameters())
        and not any(m._forward_hooks or m._forward_pre_hooks for m in read)
        and all(type(linear) is nn.Linear or _is_lora(linear) for linear in linears)
    )


def _is_lora(module: Any) -> bool:
    """Whether it is peft's LoRA around an ordinary linear layer."""
    return hasattr(module, "get_delta_weight") and type(getattr(module, "base_layer", None)) is nn.Linear


def _weights(module: Any) -> tuple[Tensor, Tensor]:
    """Weight and bias of a linear layer, its active LoRA merged in float32."""
    base = getattr(module, "base_layer", module)
    weight: Tensor = base.weight.detach()
    bias = weight.new_zeros(len(weight)) if base.bias is None else base.bias.detach()
    if base is not module and not module.merged and not module.disable_adapters:
        total = weight.float()
        for name in module.active_adapters:
            if name in module.lora_A:
                total = total + module.get_delta_weight(name).float()
        weight = total.to(weight.dtype)
    return weight, bias


def _agrees(fast: FastBert, backbone: Any) -> bool:
    """Whether both give the same states, but for rounding, on texts of several lengths; a NaN never agrees."""
    generator = torch.Generator().manual_seed(0)
    width = min(max(_PROBE), backbone.config.max_position_embeddings)
    mask = torch.stack([(torch.arange(width) < length).long() for length in _PROBE])
    if fast.starts_at_ids:
        ids = torch.randint(backbone.config.vocab_size, mask.shape, generator=generator)
        types = torch.randint(backbone.config.type_vocab_size, mask.shape, generator=generator)
        found = fast(mask, ids=ids, types=types)
        expected = backbone(input_ids=ids, token_type_ids=types, attention_mask=mask).last_hidden_state
    else:
        dtype = next(p.dtype for p in backbone.parameters() if not p.requires_grad)
        hidden = torch.randn((*mask.shape, backbone.config.hidden_size), generator=generator).to(dtype)
        found = fast(mask, hidden=hidden)
        expected = backbone(inputs_embeds=hidden, attention_mask=mask).last_hidden_state
    there = mask.bool()
    error = (found - expected)[there].float().norm(dim=-1) / expected[there].float().norm(dim=-1)
    return bool((error <= _TOLERANCE[expected.dtype]).all())
