"""Norms and attention of Llama-like layers with fewer passes over memory, forward and backward, for training on a CPU.

`lighten` puts them in place of the library's, in one model. What it computes is the library's, the gradients written
out: RMSNorm (Zhang and Sennrich 2019) keeps its input and one number a token; attention keeps the weights in the type
of the model alone, where the library keeps them in float32 too, and no key is repeated for the queries that share it.
Weights are taken as frozen, and anything out of the ordinary (a cache, weights wanted) goes to the library.
"""

from __future__ import annotations

from collections.abc import Callable
from types import MethodType
from typing import Any

import torch
from torch import Tensor

_KINDS = {
    f"transformers.models.{module}.modeling_{module}.{name}{part}"
    for module, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"))
    for part in ("RMSNorm", "Attention")
}


def lighten(backbone: Any) -> int:
    """Put the lean forms in place of the library's in `backbone`, and say in how many modules."""
    found = 0
    for module in backbone.modules():
        kind = type(module)
        if f"{kind.__module__}.{kind.__qualname__}" not in _KINDS or module._forward_hooks or "forward" in vars(module):
            continue
        lean = _norm_forward if kind.__name__.endswith("RMSNorm") else _attention_forward
        module.forward = MethodType(lean, module)
        found += 1
    return found


def _norm_forward(norm: Any, states: Tensor) -> Tensor:
    """Replaces the norm's `forward`."""
    if norm.weight.requires_grad or states.device.type != "cpu":
        plain: Tensor = type(norm).forward(norm, states)
        return plain
    apply: Callable[..., Tensor] = _Norm.apply
    return apply(states, norm.weight, norm.variance_epsilon)


class _Norm(torch.autograd.Function):
    """`x / sqrt(mean(x^2) + epsilon) * w`, the mean square taken in float32. Shape: (..., dim) -> the same."""

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, weight, epsilon = args
        wide = torch.promote_types(x.dtype, torch.float32)
        square = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=wide).square_() / x.shape[-1]
        inverse = torch.rsqrt_(square.add_(epsilon))  # (..., 1)
        ctx.save_for_backward(x, inverse, weight)
        scaled: Tensor = x * inverse.to(x.dtype)
        return scaled.mul_(weight)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, inverse, weight = ctx.saved_tensors
        grad = grads[0] * weight
        along = (grad * x).sum(-1, keepdim=True, dtype=inverse.dtype)  # (..., 1)
        along.mul_(inverse.pow(3)).div_(-x.shape[-1])
        return grad.mul_(inverse.to(x.dtype)).addcmul_(x, along.to(x.dtype)), None, None


def _attention_forward(
    attention: Any,
    hidden_states: Tensor,
    position_embeddings: tuple[Tensor, Tensor] | None = None,
    attention_mask: Tensor | None = None,
    past_key_values: Any = None,
    **options: Any,
) -> tuple[Tensor, Tensor | None]:
    """Replaces the attention's `forward` where gradients are taken and the mask says which tokens see which."""
    mask = attention_mask
    lean = torch.is_grad_enabled() and past_key_values is None and hidden_states.device.type == "cpu"
    drops = attention.training and attention.attention_dropout
    if not lean or drops or mask is None or position_embeddings is None or options.get("output_attentions"):
        found: tuple[Tensor, Tensor | None] = type(attention).forward(
            attention,
            hidden_states,
            position_embeddings=position_embeddings,
            attention_mask=mask,
            past_key_values=past_key_values,
            **options,
        )
        return found
    cos, sin = position_embeddings
    shape = (*hidden_states.shape[:-1], -1, attention.head_dim)
    projections = (attention.q_proj, attention.k_proj, attention.v_proj)
    heads = [projection(hidden_states).view(shape) for projection in projections]
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=heads[0].dtype).masked_fill_(~mask, torch.finfo(heads[0].dtype).min)
    apply: Callable[..., Tensor] = _Attention.apply
    result = apply(*heads, cos, sin, mask, attention.scaling)
    return attention.o_proj(result.flatten(2)), None


class _Attention(torch.autograd.Function):
    """Rotated queries and keys, softmax of their products, and the values weighted by it.

    Heads that share a key stand below one another in one matrix product, which also sums the gradients of a key.

    Shape: queries (texts, tokens, heads, size), keys and values (texts, tokens, key heads, size), cos and sin (texts or
    1, tokens, size), mask (texts or 1, 1, tokens, tokens), added -> (texts, tokens, heads, size).
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        queries, keys, values, cos, sin, mask, scale = args
        shared = keys.shape[2]
        asked = _folded(_turned(queries, cos, sin), shared).mul_(scale)
        known, held = _folded(_turned(keys, cos, sin), shared), _folded(values, shared)
        scores = torch.bmm(asked, known.transpose(1, 2))  # (texts x key heads, tokens of each query head, tokens)
        texts, tokens = queries.shape[:2]
        scores.view(texts, -1, tokens, tokens).add_(mask)
        weights = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(asked, known, held, weights, cos, sin)
        ctx.scale, ctx.shared = scale, shared
        return _unfolded(torch.bmm(weights, held), texts, shared, tokens)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        asked, known, held, weights, cos, sin = ctx.saved_tensors
        (texts, tokens), shared = grads[0].shape[:2], ctx.shared
        grad = _folded(grads[0], shared)
        by_values = torch.bmm(weights.transpose(1, 2), grad)
        by_weights = torch.bmm(grad, held.transpose(1, 2))
        by_scores = torch.ops.aten._softmax_backward_data(by_weights, weights, -1, weights.dtype)
        by_queries = _unfolded(torch.bmm(by_scores, known).mul_(ctx.scale), texts, shared, tokens)
        by_keys = _unfolded(torch.bmm(by_scores.transpose(1, 2), asked), texts, shared, tokens)
        back = -sin  # a rotation's gradient is turned the other way
        return (
            *(_turned(by_queries, cos, back), _turned(by_keys, cos, back), _unfolded(by_values, texts, shared, tokens)),
            *(None, None, None, None),
        )


def _folded(heads: Tensor, shared: int) -> Tensor:
    """Shape: (texts, tokens, heads, size) -> (texts x shared, heads / shared x tokens, size), a copy or a view."""
    texts, tokens, _, size = heads.shape
    by_key = heads.reshape(texts, tokens, shared, -1, size).permute(0, 2, 3, 1, 4)
    return by_key.reshape(texts * shared, -1, size)


def _unfolded(folded: Tensor, texts: int, shared: int, tokens: int) -> Tensor:
    """The way back. Shape: (texts, tokens, heads, size)."""
    size = folded.shape[-1]
    by_key = folded.view(texts, shared, -1, tokens, size).permute(0, 3, 1, 2, 4)
    return by_key.reshape(texts, tokens, -1, size)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021). Shape: as `_Attention`."""
    cos, sin, half = cos[:, :, None], sin[:, :, None], heads.shape[-1] // 2
    turned = heads * cos
    turned[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return turned
