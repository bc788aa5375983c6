"""`LeanBert`: a BERT's layers for training LoRA on a CPU, forward and backward, without padding.

What it computes is the library's, with the gradients written out. All tokens of a chunk stand in one matrix, a row
each, so that padding costs nothing outside attention (a batch of 64 pairs, cut into chunks of similar texts, was still
23 % padding); query, key and value are one product; sums, norms and gelu take as few passes over memory as they can.
Only LoRA's A and B get gradients: everything else is frozen. `TrainingPass` hands one out only where it gives the
library's states and gradients on a probe, and None for everything else.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch import Tensor, nn
from torch.nn import functional

from searchtune.models.fast_bert import (
    Embeddings,
    entering,
    fits,
    probe,
    same_rows,
    states_of,
    suits,
)
from searchtune.models.ragged import Block, blocks_of, runs_of, scatter

_aten: Any = torch.ops.aten
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.2}
"""Largest distance of all gradients from the library's, over their norm. Rounding gave 1e-6 and .023 with 6 layers."""


@dataclass(frozen=True)
class _LoraWeights:
    """A, B and the scale of one linear layer. Shape: a (rank, in), b (out, rank)."""

    a: Tensor
    b: Tensor
    scale: float


class _Linears:
    """One product for linear layers that read the same rows, LoRA merged into the weight.

    Shape: weight (out of all, in), bias (out of all,).
    """

    def __init__(self, modules: list[Any]) -> None:
        self.lora = [_lora(module) for module in modules]
        bases = [getattr(module, "base_layer", module) for module in modules]
        self._frozen: list[Tensor] = [base.weight.detach() for base in bases]
        self.widths = [len(weight) for weight in self._frozen]
        biases = (base.bias for base in bases)
        self.bias = torch.cat(
            [
                weight.new_zeros(len(weight)) if bias is None else bias.detach()
                for weight, bias in zip(self._frozen, biases, strict=True)
            ]
        )
        self._merged: tuple[object, Tensor] | None = None

    @property
    def trained(self) -> list[Tensor]:
        """A and B of each layer that has LoRA, in order."""
        return [tensor for lora in self.lora if lora is not None for tensor in (lora.a, lora.b)]

    @torch.no_grad()
    def weight(self) -> Tensor:
        """The weights with the present A and B in them, computed once for each version of these."""
        version = tuple(tensor._version for tensor in self.trained)
        if self._merged is None or self._merged[0] != version:
            parts = [
                frozen
                if lora is None
                else torch.addmm(frozen, lora.b.to(frozen.dtype), lora.a.to(frozen.dtype), alpha=lora.scale)
                for frozen, lora in zip(self._frozen, self.lora, strict=True)
            ]
            self._merged = version, parts[0] if len(parts) == 1 else torch.cat(parts)
        return self._merged[1]

    def __call__(self, x: Tensor) -> Tensor:
        """Shape: (tokens, in) -> (tokens, out of all)."""
        return functional.linear(x, self.weight(), self.bias)

    def gradients(self, x: Tensor, grad: Tensor) -> list[Tensor]:
        """Gradients of `trained`, each thin product once. Shape: x (tokens, in), grad (tokens, out of all)."""
        loras = [lora for lora in self.lora if lora is not None]
        if not loras:
            return []
        low_x = x @ torch.cat([lora.a for lora in loras]).to(x.dtype).T  # (tokens, sum of ranks)
        split = torch.split(grad, self.widths, dim=1)
        parts = [part for part, lora in zip(split, self.lora, strict=True) if lora is not None]
        low_grads = [part @ lora.b.to(x.dtype) for part, lora in zip(parts, loras, strict=True)]  # (tokens, rank) each
        by_a = torch.cat(low_grads, 1).T @ x  # (sum of ranks, in)
        found: list[Tensor] = []
        at = 0
        for part, lora in zip(parts, loras, strict=True):
            rank = len(lora.a)
            by_b = (low_x[:, at : at + rank].T @ part).T  # wide on the right: 2/3 of the other order's time
            found += [lora.scale * by_a[at : at + rank].to(lora.a.dtype), lora.scale * by_b.to(lora.b.dtype)]
            at += rank
        return found


def _lora(module: Any) -> _LoraWeights | None:
    if not isinstance(module, LoraLinear) or module.disable_adapters:
        return None
    (name,) = module.active_adapters
    a: Any = module.lora_A[name].weight
    b: Any = module.lora_B[name].weight
    return _LoraWeights(a, b, module.scaling[name])


@dataclass(frozen=True)
class _Norm:
    weight: Tensor
    bias: Tensor
    epsilon: float

    @classmethod
    def of(cls, module: Any) -> _Norm:
        return cls(module.weight.detach(), module.bias.detach(), module.eps)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The normalised rows, and what `backward` needs of them."""
        found: tuple[Tensor, Tensor, Tensor] = torch.native_layer_norm(
            x, self.weight.shape, self.weight, self.bias, self.epsilon
        )
        return found

    def backward(self, grad: Tensor, x: Tensor, mean: Tensor, deviation: Tensor) -> Tensor:
        """The gradient of `x`."""
        found: Tensor = _aten.native_layer_norm_backward(
            grad, x, self.weight.shape, mean, deviation, self.weight, self.bias, [True, False, False]
        )[0]
        return found


class _Layer:
    """The frozen weights of one transformer layer, and its LoRA."""

    def __init__(self, module: Any) -> None:
        attention = module.attention.self
        self.qkv = _Linears([attention.query, attention.key, attention.value])
        self.attention_out = _Linears([module.attention.output.dense])
        self.attention_norm = _Norm.of(module.attention.output.LayerNorm)
        self.up = _Linears([module.intermediate.dense])
        self.down = _Linears([module.output.dense])
        self.norm = _Norm.of(module.output.LayerNorm)
        self.heads = int(attention.num_attention_heads)

    @property
    def linears(self) -> list[_Linears]:
        return [self.qkv, self.attention_out, self.up, self.down]

    def __call__(self, states: Tensor, blocks: list[Block]) -> Tensor:
        """Shape: (tokens, dim) -> the same."""
        apply: Callable[..., Tensor] = _LayerFunction.apply
        return apply(self, blocks, states, *(tensor for linears in self.linears for tensor in linears.trained))


class _LayerFunction(torch.autograd.Function):
    """One layer. What is kept for the gradient: the rows that enter each product and norm, and the attention weights.

    Shape: states (tokens, dim) -> the same.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        layer: _Layer = args[0]
        blocks: list[Block] = args[1]
        states: Tensor = args[2]
        qkv = layer.qkv(states)  # (tokens, 3 x dim)
        attended = torch.zeros_like(states)
        kept = [part for block in blocks for part in _attend(block, qkv, layer.heads, attended)]
        first = layer.attention_out(attended).add_(states)
        middle, *first_facts = layer.attention_norm.forward(first)
        before = layer.up(middle)  # (tokens, inner)
        inner = functional.gelu(before)
        second = layer.down(inner).add_(middle)
        result, *second_facts = layer.norm.forward(second)
        ctx.save_for_backward(
            states, attended, first, *first_facts, middle, before, inner, second, *second_facts, *kept
        )
        ctx.layer, ctx.blocks = layer, blocks
        return result

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        layer: _Layer = ctx.layer
        states, attended, first, mean, deviation, middle, before, inner, second, *rest = ctx.saved_tensors
        by_second = layer.norm.backward(grads[0].contiguous(), second, rest[0], rest[1])
        by_inner = by_second @ layer.down.weight()
        by_before = _aten.gelu_backward(by_inner, before)
        by_middle = (by_before @ layer.up.weight()).add_(by_second)
        by_first = layer.attention_norm.backward(by_middle, first, mean, deviation)
        by_attended = by_first @ layer.attention_out.weight()
        by_qkv = states.new_zeros((len(states), sum(layer.qkv.widths)))
        for place, block in enumerate(ctx.blocks):
            held, weights = rest[2 + 2 * place : 4 + 2 * place]
            _attend_backward(block, held, weights, by_attended, by_qkv)
        trained = [
            *layer.qkv.gradients(states, by_qkv),
            *layer.attention_out.gradients(attended, by_first),
            *layer.up.gradients(middle, by_before),
            *layer.down.gradients(inner, by_second),
        ]
        by_states = (by_qkv @ layer.qkv.weight()).add_(by_first) if ctx.needs_input_grad[2] else None
        return None, None, by_states, *trained


def _attend(block: Block, qkv: Tensor, heads: int, out: Tensor) -> tuple[Tensor, Tensor]:
    """Put the attention of a block's texts into their rows of `out`; queries, keys, values and weights, for later.

    Shape: qkv (tokens, 3 x dim), out (tokens, dim) -> (3, texts x heads, width, size), (texts x heads, width, width).
    """
    held = block.heads_of(qkv, heads).flatten(1, 2)
    queries, keys, values = held
    scores = torch.bmm(queries, keys.transpose(1, 2)).mul_(queries.shape[-1] ** -0.5)
    if block.mask is not None:
        scores.view(block.texts, heads, block.width, block.width).add_(block.mask)
    weights = torch.softmax(scores, dim=-1)
    block.put_rows(torch.bmm(weights, values).view(1, block.texts, heads, block.width, -1), out)
    return held, weights


def _attend_backward(block: Block, held: Tensor, weights: Tensor, by_out: Tensor, by_qkv: Tensor) -> None:
    """Put the gradient of a block's queries, keys and values into their rows of `by_qkv`. Shapes as in `_attend`."""
    queries, keys, values = held
    heads = len(weights) // block.texts
    grad = block.heads_of(by_out, heads, parts=1)[0].flatten(0, 1)  # (texts x heads, width, size), 0 where padded
    by_weights = torch.bmm(grad, values.transpose(1, 2))
    by_scores = _aten._softmax_backward_data(by_weights, weights, -1, weights.dtype).mul_(queries.shape[-1] ** -0.5)
    by_heads = torch.stack(
        [
            torch.bmm(by_scores, keys),
            torch.bmm(by_scores.transpose(1, 2), queries),
            torch.bmm(weights.transpose(1, 2), grad),
        ]
    )  # (3, texts x heads, width, size)
    block.put_rows(by_heads.view(3, block.texts, heads, block.width, -1), by_qkv)


class LeanBert:
    """A BERT's embeddings, without gradients, and its layers. Made by `TrainingPass`."""

    def __init__(self, backbone: Any) -> None:
        self._layers = [_Layer(layer) for layer in backbone.encoder.layer]
        self._embeddings = Embeddings.of(backbone)

    def __call__(
        self, mask: Tensor, *, ids: Tensor | None = None, types: Tensor | None = None, hidden: Tensor | None = None
    ) -> Tensor:
        """States of the last layer, zero where a text is padded; arguments and shapes are those of `FastBert`."""
        runs = runs_of(mask)
        with torch.no_grad():
            states = entering(self._embeddings, runs, ids, types, hidden)
        blocks = list(blocks_of(runs))
        for layer in self._layers:
            states = layer(states, blocks)
        return scatter(runs, states, mask.shape[1])


class TrainingPass:
    """The lean pass of one backbone under training; None where the library's has to be used."""

    def __init__(self) -> None:
        self._made: tuple[object, LeanBert | None] | None = None

    def __getstate__(self) -> dict[str, Any]:
        """What a copy takes along: nothing, since it would train the weights of another."""
        return {"_made": None}

    def of(self, backbone: Any, mask: Tensor) -> LeanBert | None:
        """The pass for texts of this mask, where gradients are taken on a CPU."""
        if not torch.is_grad_enabled() or mask.device.type != "cpu" or not fits(mask):
            return None
        now = _state(backbone)
        if self._made is None or self._made[0] != now:
            self._made = now, _lean_bert(backbone)
        return self._made[1]


def _state(backbone: Any) -> object:
    """What decides whether a pass still belongs to its backbone: weights by place, hooks, adapters on or off."""
    modules = tuple(
        (len(m._forward_hooks), len(m._forward_pre_hooks), m.__dict__.get("_disable_adapters"))
        for m in backbone.modules()
    )
    return modules, tuple((parameter.data_ptr(), parameter.requires_grad) for parameter in backbone.parameters())


def _lean_bert(backbone: Any) -> LeanBert | None:
    if not suits(backbone) or not _only_plain_lora_is_trained(backbone):
        return None
    lean = LeanBert(backbone)
    with torch.autograd.graph.saved_tensors_hooks(_as_it_is, _as_it_is):  # the caller may be counting, to recompute
        return lean if _agrees(lean, backbone) else None


def _as_it_is(tensor: Tensor) -> Tensor:
    return tensor


def _only_plain_lora_is_trained(backbone: Any) -> bool:
    """Whether every trained weight belongs to one LoRA of plain linear layers, both A and B trained, no dropout."""
    trained = {parameter for parameter in backbone.parameters() if parameter.requires_grad}
    covered: set[Any] = set()
    for layer in backbone.encoder.layer:
        for module in layer.modules():
            if isinstance(module, LoraLinear) and not module.disable_adapters:
                names = list(module.active_adapters)
                if len(names) != 1 or module.merged or module.use_dora.get(names[0]):
                    return False
                if not isinstance(module.lora_dropout[names[0]], nn.Identity):
                    return False
                covered |= {module.lora_A[names[0]].weight, module.lora_B[names[0]].weight}
    return bool(trained) and trained == covered


def _agrees(lean: LeanBert, backbone: Any) -> bool:
    """Whether both give the same states and the same gradients of LoRA, but for rounding; a NaN never agrees."""
    inputs = probe(backbone)
    mask = inputs["attention_mask"]
    trained = [parameter for parameter in backbone.parameters() if parameter.requires_grad]
    found, expected = states_of(lean, inputs), backbone(**inputs).last_hidden_state
    ours, theirs = (_gradients(states[mask.bool()].float(), trained) for states in (found, expected))
    for module in backbone.modules():  # what `adapters` merged for the library's pass, and nobody reads any more
        module.__dict__.pop("_searchtune_merged", None)
    error, norm = (ours - theirs).norm(), theirs.norm()
    return same_rows(found, expected, mask) and bool(error <= _TOLERANCE[expected.dtype] * norm)


def _gradients(rows: Tensor, trained: list[Tensor]) -> Tensor:
    """The gradients of a weighted sum of all states, as one vector."""
    weights = torch.linspace(-1, 1, rows.numel()).view_as(rows)
    return torch.cat([grad.float().flatten() for grad in torch.autograd.grad((rows * weights).sum(), trained)])
