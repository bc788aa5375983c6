"""`FastBert`: the forward pass of a `BertModel` on a CPU, rearranged for speed and equal to the library's.

It serves inference alone: it holds copies of the weights in the kernels' own layout, LoRA merged, without gradients.
`fast_bert` hands one out only where it gives the library's states on a probe, and None for everything else: another
architecture or device, hooks, quantised layers, activations it has no kernel for. What each rearrangement gains is said
where it stands, in microseconds of one core's time a token for a 6-layer, 384-wide model in bf16 on texts of 17 to 256
tokens, where the library's own forward takes about 200.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from searchtune.models.precision import packs
from searchtune.models.ragged import Block, Run, blocks_of, gather, runs_of, scatter, up

_BERT = "transformers.models.bert.modeling_bert.BertModel"
_LINEARS = {
    *(f"attention.self.{part}" for part in ("query", "key", "value")),
    *(f"{part}.dense" for part in ("attention.output", "intermediate", "output")),
}
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

    def __call__(self, states: Tensor, blocks: list[Block]) -> Tensor:
        """Shape: (tokens, dim) -> the same.

        Sums are taken in place: as a part of the matrix kernel they cost .3 us a token more than alone.
        """
        qkv = self.qkv(states)  # (tokens, 3 x dim)
        attended = torch.empty_like(states)
        for block in blocks:
            queries, keys, values = block.heads_of(qkv, self.heads)
            found = functional.scaled_dot_product_attention(queries, keys, values, attn_mask=block.mask)
            block.put_rows(found[None], attended)
        attended[blocks[-1].end :] = 0  # rows of no text
        states = self.attention_norm(self.attention_out(attended).add_(states))
        return self.norm(self.down(self.up.gelu(states)).add_(states))


class Embeddings:
    """What enters a BERT's first layer: the sum of three tables, normalised."""

    def __init__(self, module: Any) -> None:
        self._norm = _Norm.of(module.LayerNorm)
        names = ("word_embeddings", "position_embeddings", "token_type_embeddings")
        self._tables = [getattr(module, name).weight.detach() for name in names]

    @classmethod
    def of(cls, backbone: Any) -> Embeddings | None:
        """None where a cache of hidden states stands in for them."""
        return cls(backbone.embeddings) if hasattr(backbone.embeddings, "word_embeddings") else None

    def __call__(self, runs: list[Run], ids: Tensor, types: Tensor | None) -> Tensor:
        """Shape: ids, types (texts, tokens) -> (tokens, dim)."""
        word, position, kind = self._tables
        parts = []
        segments = torch.zeros_like(ids) if types is None else types
        for run in runs:
            texts = slice(run.first, run.first + run.texts)
            states = functional.embedding(ids[texts, : run.length], word)  # (texts, length, dim)
            states = states + functional.embedding(segments[texts, : run.length], kind)
            parts.append((states + position[: run.length]).flatten(0, 1))
        return self._norm(torch.cat(parts))


def entering(
    embeddings: Embeddings | None, runs: list[Run], ids: Tensor | None, types: Tensor | None, hidden: Tensor | None
) -> Tensor:
    """The rows that enter the first layer: those of `hidden` where it is given. Shape: (tokens, dim)."""
    if hidden is not None:
        return gather(runs, hidden)
    if embeddings is None or ids is None:
        raise ValueError("token ids need embeddings, but this model starts at hidden states")
    return embeddings(runs, ids, types)


class FastBert:
    """A BERT's embeddings and layers. Made by `fast_bert`; the weights are those of that moment."""

    def __init__(self, backbone: Any) -> None:
        self._layers = [_Layer.of(layer) for layer in backbone.encoder.layer]
        self._embeddings = Embeddings.of(backbone)

    def __call__(
        self,
        mask: Tensor,
        *,
        ids: Tensor | None = None,
        types: Tensor | None = None,
        hidden: Tensor | None = None,
        layers: int | None = None,
    ) -> Tensor:
        """States of the last layer, or after the first `layers`, zero where a text is padded.

        Texts stand in any order, but neighbours of one length are computed together: sort by length. Padding is left
        out of everything but attention, where it ends at the next multiple of 16.

        Shape: mask, ids, types (segments; all 0 if None) (texts, tokens), hidden (what enters the first layer, instead
        of ids) (texts, tokens, dim) -> (texts, tokens, dim).
        """
        runs = runs_of(mask)
        states = entering(self._embeddings, runs, ids, types, hidden)
        rows = len(states)
        states = functional.pad(states, (0, 0, 0, up(rows, _MANY_ROWS if rows >= _MANY else _FEW_ROWS) - rows))
        blocks = list(blocks_of(runs))
        for layer in self._layers[:layers]:
            states = layer(states, blocks)
        return scatter(runs, states, mask.shape[1])


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
    if not suits(backbone):
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


def suits(backbone: Any) -> bool:
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


def probe(backbone: Any) -> dict[str, Tensor]:
    """Random inputs of several lengths, by the names that the library's forward pass gives them."""
    generator = torch.Generator().manual_seed(0)
    config = backbone.config
    width = min(max(_PROBE), config.max_position_embeddings)
    mask = torch.stack([(torch.arange(width) < length).long() for length in _PROBE])
    if Embeddings.of(backbone) is None:
        dtype = next(p.dtype for p in backbone.parameters() if not p.requires_grad)
        hidden = torch.randn((*mask.shape, config.hidden_size), generator=generator).to(dtype)
        return {"attention_mask": mask, "inputs_embeds": hidden}
    ids = torch.randint(config.vocab_size, mask.shape, generator=generator)
    types = torch.randint(config.type_vocab_size, mask.shape, generator=generator)
    return {"attention_mask": mask, "input_ids": ids, "token_type_ids": types}


def states_of(fast: Callable[..., Tensor], inputs: dict[str, Tensor]) -> Tensor:
    """States under a pass of ours. Shape: (texts, tokens, dim)."""
    names = {"input_ids": "ids", "token_type_ids": "types", "inputs_embeds": "hidden"}
    return fast(inputs["attention_mask"], **{ours: inputs[name] for name, ours in names.items() if name in inputs})


def _agrees(fast: FastBert, backbone: Any) -> bool:
    """Whether both give the same states, but for rounding, on texts of several lengths; a NaN never agrees."""
    inputs = probe(backbone)
    return same_rows(states_of(fast, inputs), backbone(**inputs).last_hidden_state, inputs["attention_mask"])


def same_rows(found: Tensor, expected: Tensor, mask: Tensor) -> bool:
    """Whether all tokens have the same states, but for rounding; a NaN never has."""
    there = mask.bool()
    error = (found - expected)[there].float().norm(dim=-1) / expected[there].float().norm(dim=-1)
    return bool((error <= _TOLERANCE[expected.dtype]).all())
