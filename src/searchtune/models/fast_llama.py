"""`FastLlama`: a Llama-like decoder reading many texts on a CPU, rearranged for speed and equal to the library's.

Three things differ from the library's forward pass. No token is padding: the tokens of all texts stand in one matrix,
and only attention sees texts. What texts share is there once: queries of all texts behind a prefix meet its one copy of
keys and values, and what they find there is put together with what they find in their own text by the sums of their
weights (cascade attention, as in FlashInfer, Ye et al. 2025). Norms, rotations and gates are written with fewer passes
over memory. Linear layers and embeddings are the model's own modules, so LoRA, 4 bits and changed weights need no care,
and no weight is copied.

It serves inference alone. `LlamaShortcut` hands one out only where it gives the library's states on a probe, and None
for everything else: another architecture or device, sliding windows, hooks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from searchtune.models.inputs import TokenStore
from searchtune.models.prefixes import SharedTexts, find_shared, parts
from searchtune.types import IntArray

_KINDS = {
    f"transformers.models.{module}.modeling_{module}.{name}Model"
    for module, name in (("llama", "Llama"), ("mistral", "Mistral"), ("qwen2", "Qwen2"), ("qwen3", "Qwen3"))
}
_ROPES = {"default", "linear", "llama3", "yarn"}
"""Rotations that depend on a token's position alone, and not on how long the texts beside it are."""
_STEP = 16
"""Texts enter attention in widths that are multiples of this: the kernel is slow at odd ones."""
_ROWS = 64
"""Token matrices are filled up to a multiple of these rows, so that few shapes occur: each is prepared anew."""
_CHUNK = 4096
"""Tokens in one pass; more would leave the cache."""
_PROBE = (5, 18, 1, 33, 33, 2)
"""Lengths of the texts on which the library's states are compared, behind what all and what three of them share."""
_TOP, _HEAD = 9, 20
_TOLERANCE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 0.15}
"""Largest difference of a state over its norm. Rounding gave 1e-5 and .03 with 30 layers; more give more."""


@dataclass(frozen=True)
class Kept:
    """Keys and values of several prefixes, one after the other.

    Shape: keys and values of each layer (all tokens, heads, dim of a head); `offsets` (prefixes + 1,).
    """

    layers: list[tuple[Tensor, Tensor]]
    offsets: IntArray

    def tokens(self, prefix: int) -> int:
        return int(self.offsets[prefix + 1] - self.offsets[prefix])

    def before(self, other: Kept) -> Kept:
        """Each prefix of `other` with this, one prefix, before it."""
        cuts: list[int] = np.diff(other.offsets).tolist()
        layers = []
        for own, behind in zip(self.layers, other.layers, strict=True):
            keys, values = (
                torch.cat([piece for part in torch.split(new, cuts) for piece in (top, part)])
                for top, new in zip(own, behind, strict=True)
            )
            layers.append((keys, values))
        return Kept(layers, other.offsets + self.tokens(0) * np.arange(len(other.offsets)))


@dataclass(frozen=True)
class _Layout:
    """Where the tokens of the texts of one pass stand.

    `blocks` are texts that share a padded width: the rows of their tokens, padding repeating the last. `back` says
    where a row's result is among the tokens of all blocks. `spans` are rows behind one prefix: first, end, prefix.

    Shape: positions, back (rows,); a block (texts, width); asked (states,), the rows whose final states are asked for.
    """

    tokens: int
    positions: Tensor
    blocks: list[Tensor]
    back: Tensor
    spans: list[tuple[int, int, int]]
    asked: Tensor

    @classmethod
    def of(cls, lengths: IntArray, group: IntArray, before: Kept | None, tails: IntArray | None = None) -> _Layout:
        """For texts in this order; `group` is the prefix of each, equal ones being neighbours.

        `tails` says of how many of each text's last tokens states are asked for [1].
        """
        ends = np.cumsum(lengths)
        starts, tokens = ends - lengths, int(ends[-1])
        rows = _up(tokens, _ROWS)
        behind = np.zeros(len(lengths), dtype=np.int64) if before is None else np.diff(before.offsets)[group]
        positions = np.zeros(rows, dtype=np.int64)
        positions[:tokens] = np.arange(tokens) - np.repeat(starts - behind, lengths)
        widths = -(-lengths // _STEP) * _STEP
        blocks, back, done = [], np.zeros(rows, dtype=np.int64), 0
        for width in np.unique(widths):
            texts = np.flatnonzero(widths == width)
            within = np.minimum(np.arange(width), lengths[texts, None] - 1)  # (texts, width)
            blocks.append(torch.from_numpy(starts[texts, None] + within))
            back[blocks[-1].numpy()[:, ::-1]] = done + np.arange(len(texts) * width).reshape(-1, width)[:, ::-1]
            done += len(texts) * int(width)
        spans = []
        if before is not None:
            cuts = np.concatenate(([0], np.flatnonzero(np.diff(group)) + 1, [len(group)]))
            spans = [
                (int(starts[left]), int(ends[right - 1]), int(group[left]))
                for left, right in pairwise(cuts)
                if before.tokens(int(group[left]))
            ]
        wanted = np.ones_like(lengths) if tails is None else tails
        before_tail = np.repeat(ends - np.cumsum(wanted), wanted)
        asked = torch.from_numpy(before_tail + np.arange(int(wanted.sum())))
        return cls(tokens, torch.from_numpy(positions), blocks, torch.from_numpy(back), spans, asked)


class FastLlama:
    """The decoder of a causal language model, without its output layer. Made by `LlamaShortcut`."""

    def __init__(self, decoder: Any) -> None:
        self._decoder = decoder
        self._size = int(decoder.layers[0].self_attn.head_dim)

    def last_states(
        self,
        store: TokenStore,
        texts: IntArray,
        shared: SharedTexts,
        max_tokens: int,
        tails: IntArray | None = None,
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """Places of texts among those given and the last hidden state of each, a few at a time.

        With `tails` the states of so many last tokens of each, one text after the other; what texts share must end
        before them.

        Shape: texts, tails (texts,), positions in `store` -> places (some,) and states (some, dim), or as many as
        their tails together.
        """
        tails = np.ones(len(texts), dtype=np.int64) if tails is None else tails
        top = None
        if shared.top:
            top = self._keep(parts(store, texts[:1], 0, np.array([shared.top])), None)
        for heads in shared.windows:
            kept = self._keep(heads.store, top)
            kept = kept if top is None else top.before(kept)
            begins = shared.top + heads.store.lengths[heads.group]
            yield from self._read((store, texts, tails), heads.places, begins, (heads.group, kept), max_tokens)
        alone = np.zeros(len(shared.alone), dtype=np.int64)
        yield from self._read((store, texts, tails), shared.alone, alone + shared.top, (alone, top), max_tokens)

    def _keep(self, heads: TokenStore, before: Kept | None) -> Kept:
        """Keys and values of some texts, all of them behind the one prefix `before`."""
        layout = _Layout.of(heads.lengths, np.zeros(len(heads.lengths), dtype=np.int64), before)
        kept: list[tuple[Tensor, Tensor]] = []
        self._states(heads.ids, layout, before, kept)
        return Kept(kept, heads.offsets)

    def _read(
        self,
        read: tuple[TokenStore, IntArray, IntArray],
        places: IntArray,
        begins: IntArray,
        behind: tuple[IntArray, Kept | None],
        max_tokens: int,
    ) -> Iterator[tuple[IntArray, Tensor]]:
        """The texts at `places` from token `begins` on, behind prefix `group` of `kept`, group after group."""
        (store, texts, tails), (group, kept) = read, behind
        order = np.argsort(group, kind="stable")
        places, begins, group = places[order], begins[order], group[order]
        rests = parts(store, texts[places], begins)
        start, limit = 0, min(max_tokens, _CHUNK)
        while start < len(places):
            fits = int(np.searchsorted(rests.offsets, rests.offsets[start] + limit, side="right")) - 1
            stop = max(start + 1, fits)
            layout = _Layout.of(rests.lengths[start:stop], group[start:stop], kept, tails[places[start:stop]])
            ids = rests.ids[rests.offsets[start] : rests.offsets[stop]]
            yield places[start:stop], self._states(ids, layout, kept, None)
            start = stop

    def _states(
        self, ids: IntArray, layout: _Layout, before: Kept | None, keep: list[tuple[Tensor, Tensor]] | None
    ) -> Tensor:
        """Final states of the tokens asked for. With `keep`, keys and values are put there, and no state is computed.

        Shape: ids (tokens,) -> (states, dim).
        """
        decoder, rows = self._decoder, len(layout.positions)
        tokens = functional.pad(torch.from_numpy(ids), (0, rows - len(ids)))
        states: Tensor = decoder.embed_tokens(tokens)  # (rows, dim)
        cos, sin = (table[0][:, None] for table in decoder.rotary_emb(states[None], layout.positions[None]))
        turn = cos, sin  # (rows, 1, size) each
        layers = decoder.layers[: decoder.config.num_hidden_layers]
        for number, layer in enumerate(layers):
            attention, final = layer.self_attn, number + 1 == len(layers)
            entered = _norm(layer.input_layernorm, states)
            keys = _turned(self._heads(attention, "k", entered), *turn)
            values = self._heads(attention, "v", entered)
            if keep is not None:
                keep.append((keys[: layout.tokens], values[: layout.tokens]))
                if final:
                    break
            queries = _turned(self._heads(attention, "q", entered), *turn)
            past = None if before is None else before.layers[number]
            found = _attend(layout, (queries, keys, values), before, past, attention.scaling).flatten(1)
            if final:  # nothing reads what other tokens would become
                found, states = found[layout.asked], states[layout.asked]
            states = attention.o_proj(found).add_(states)
            entered = _norm(layer.post_attention_layernorm, states)
            gate = functional.silu(layer.mlp.gate_proj(entered), inplace=True).mul_(layer.mlp.up_proj(entered))
            states = layer.mlp.down_proj(gate).add_(states)
        return _norm(decoder.norm, states)

    def _heads(self, attention: Any, which: str, states: Tensor) -> Tensor:
        """Queries, keys or values by head. Shape: (rows, dim) -> (rows, heads, size)."""
        found: Tensor = getattr(attention, f"{which}_proj")(states).view(len(states), -1, self._size)
        norm = getattr(attention, f"{which}_norm", None)  # Qwen3
        return found if norm is None else _norm(norm, found)


def _norm(module: Any, states: Tensor) -> Tensor:
    """RMSNorm (Zhang and Sennrich 2019), the mean square taken in float32. Shape: (..., dim) -> the same."""
    square = torch.linalg.vector_norm(states, dim=-1, keepdim=True, dtype=torch.float32).square_() / states.shape[-1]
    return (states * torch.rsqrt_(square.add_(module.variance_epsilon)).to(states.dtype)).mul_(module.weight)


def _turned(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary position embedding (Su et al. 2021). Shape: (rows, heads, size), (rows, 1, size) twice -> as the first."""
    half = heads.shape[-1] // 2
    turned = heads * cos
    turned[..., :half].addcmul_(heads[..., half:], sin[..., :half], value=-1)
    turned[..., half:].addcmul_(heads[..., :half], sin[..., half:])
    return turned


def _attend(
    layout: _Layout,
    own: tuple[Tensor, Tensor, Tensor],
    before: Kept | None,
    past: tuple[Tensor, Tensor] | None,
    scale: float,
) -> Tensor:
    """What each token's queries find in its own text up to it, and in the prefix of this text.

    Shape: queries (rows, heads, size), keys, values (rows, key heads, size) -> (rows, heads, size).
    """
    queries = own[0]
    results, sums = [], []
    for block in layout.blocks:
        held = [part[block].transpose(1, 2) for part in own]  # (texts, heads, width, size)
        result, total = _kernel(held[0], held[1], held[2], True, scale)
        results.append(result.transpose(1, 2).flatten(0, 1))  # (texts x width, heads, size)
        sums.append(total.transpose(1, 2).flatten(0, 1))  # (texts x width, heads), logarithms
    found = torch.cat(results)[layout.back]  # (rows, heads, size)
    if past is None or before is None or not layout.spans:
        return found
    total = torch.cat(sums)[layout.back]
    heads, size = past[0].shape[1:]
    for first, end, prefix in layout.spans:
        kept = slice(int(before.offsets[prefix]), int(before.offsets[prefix + 1]))
        keys, values = (part[kept].transpose(0, 1)[None] for part in past)  # (1, key heads, tokens of prefix, size)
        asked = (
            queries[first:end].view(end - first, heads, -1, size).permute(1, 2, 0, 3)
        )  # (key heads, queries, tokens, size)
        shape = asked.shape[:3]
        result, other = _kernel(asked.reshape(1, heads, -1, size), keys, values, False, scale)
        other = other.view(shape).permute(2, 0, 1).flatten(1)  # (tokens, heads)
        share = torch.sigmoid(other - total[first:end])[..., None].to(found.dtype)  # of the prefix in all weights
        found[first:end].lerp_(result.view(*shape, size).permute(2, 0, 1, 3).flatten(1, 2), share)
    return found


def _kernel(queries: Tensor, keys: Tensor, values: Tensor, causal: bool, scale: float) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of each query's sum of weights, which torch's public function keeps to itself.

    Shape: (texts, heads, tokens, size) -> the same and (texts, heads, tokens).
    """
    call: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    result, total = call(queries, keys, values, 0.0, causal, scale=scale)
    return result, total


def _up(count: int, step: int) -> int:
    return -(-count // step) * step


class LlamaShortcut:
    """The fast forward pass of one backbone, proved anew whenever its modules have become others."""

    def __init__(self) -> None:
        self._proved: tuple[object, bool] | None = None

    def of(self, backbone: Any) -> FastLlama | None:
        """The fast pass; None where the library's has to be used."""
        decoder = backbone.get_decoder()
        if not _suits(decoder):
            return None
        now = tuple(type(module) for module in decoder.modules())
        if self._proved is None or self._proved[0] != now:
            self._proved = now, _agrees(FastLlama(decoder), decoder)
        return FastLlama(decoder) if self._proved[1] else None


def _suits(decoder: Any) -> bool:
    kind = type(decoder)
    if f"{kind.__module__}.{kind.__qualname__}" not in _KINDS:
        return False
    config, layer = decoder.config, decoder.layers[0]
    skipped = [  # modules whose forward is written out here
        *(decoder, decoder.norm),
        *(part for one in decoder.layers for part in (one, one.self_attn, one.mlp)),
        *(part for one in decoder.layers for part in (one.input_layernorm, one.post_attention_layernorm)),
    ]
    return (
        config.hidden_act == "silu"
        and decoder.rotary_emb.rope_type in _ROPES
        and getattr(config, "sliding_window", None) is None
        and set(getattr(config, "layer_types", None) or ["full_attention"]) == {"full_attention"}
        and not any(module._forward_hooks or module._forward_pre_hooks for module in skipped)
        and all(parameter.device.type == "cpu" for parameter in decoder.parameters())
        and layer.input_layernorm.weight.dtype in _TOLERANCE
    )


@torch.no_grad()
def _agrees(fast: FastLlama, decoder: Any) -> bool:
    """Whether both give the same last states, but for rounding, with and without prefixes; a NaN never agrees.

    Nor does a pass for which torch has no kernel on this processor.
    """
    try:
        return _same_states(fast, decoder)
    except RuntimeError:
        return False


def _same_states(fast: FastLlama, decoder: Any) -> bool:
    generator = np.random.default_rng(0)
    rows = [generator.integers(0, decoder.config.vocab_size, size=_TOP + _HEAD + length) for length in _PROBE]
    for place, row in enumerate(rows):
        row[:_TOP] = rows[0][:_TOP]
        row[_TOP : _TOP + _HEAD] = rows[place // 3 * 3][_TOP : _TOP + _HEAD]  # three texts of each head
    store = TokenStore(np.concatenate(rows), np.cumsum([0, *map(len, rows)]), 0)
    texts = np.arange(len(rows))
    expected = torch.cat([decoder(input_ids=torch.from_numpy(row)[None]).last_hidden_state[:, -1] for row in rows])
    for shared in (SharedTexts(0, [], texts), find_shared(store, texts, texts // 3, _CHUNK)):
        for places, states in fast.last_states(store, texts, shared, _CHUNK):
            right = expected[torch.from_numpy(places)].float()
            error = (states.float() - right).norm(dim=-1) / right.norm(dim=-1)
            if not (error <= _TOLERANCE[states.dtype]).all():
                return False
    return True
