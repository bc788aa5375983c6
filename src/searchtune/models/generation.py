"""Replies of a causal language model, many at a time: greedy or sampled, each as it would be if it were alone.

Prompts of similar length run together, padded on the left. What all prompts begin with is read once, and the samples of
one prompt share its reading. Replies that have ended leave the batch, so that a long one does not hold the others'
memory and time. A sample's random numbers follow from the seed, the prompt and the sample's number alone, so that
neither the order nor the company of a prompt changes its replies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer

from searchtune.counting import counted
from searchtune.errors import ConfigError, ModelError
from searchtune.models.generator import CausalLM, Prefix, evaluating
from searchtune.models.inputs import TokenStore, length_sorted_chunks
from searchtune.models.prefixes import parts, shared_by_all
from searchtune.types import IntArray

Allowed = Callable[[list[int]], Sequence[int] | None]
"""From the tokens of a reply so far to those that may come next: None for any; an empty answer ends the reply."""
Finish = Literal["stop", "length"]

_ROOM = 64
"""Tokens: by how much the memory of keys and values grows at once."""
_LEAVE = 8
"""Ended replies leave the batch when they are one in so many of it: leaving copies what the others keep."""
_NUCLEUS = 256
"""Entries looked at first for the nucleus; all are where these hold too little of the distribution."""


@dataclass(frozen=True)
class Sampling:
    """How replies are drawn. Every field is part of what decides them.

    Raises:
        ConfigError: a value outside its range.
    """

    max_new_tokens: int = 256
    temperature: float = 0.0
    """0 takes the likeliest token each time."""
    top_p: float = 1.0
    """Draw among the likeliest tokens that together hold this share (Holtzman et al. 2020, arXiv:1904.09751)."""
    samples: int = 1
    """Replies for each prompt."""
    seed: int = 0
    stop: tuple[str, ...] = ()
    """A reply ends before the first of these texts."""

    def __post_init__(self) -> None:
        wrong = {
            "max_new_tokens": (self.max_new_tokens, self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature, 0 <= self.temperature < float("inf"), "0 (greedy) or more"),
            "top_p": (self.top_p, 0 < self.top_p <= 1, "above 0 and at most 1"),
            "samples": (self.samples, self.samples >= 1, "at least 1"),
            "seed": (self.seed, self.seed >= 0, "0 or more"),
            "stop": (self.stop, all(self.stop), "texts that are not empty"),
        }
        for name, (value, good, want) in wrong.items():
            if not good:
                raise ConfigError(f"{name} is {value!r}; it must be {want}")
        if self.samples > 1 and self.temperature == 0:
            raise ConfigError(f"samples is {self.samples} at temperature 0: all would be alike; set a temperature")


@dataclass(frozen=True)
class Generation:
    """One reply to one prompt."""

    text: str
    """Without the token or the text that ended it."""
    tokens: int
    """How many were generated, the one that ended the reply included."""
    finish: Finish
    """`stop` where the model, a stop text or the constraint ended it, `length` where it was cut off."""
    log_probability: float
    """Sum over the generated tokens, natural logarithm, under the model's own distribution: before temperature,
    nucleus and constraint."""


def generate(
    model: CausalLM,
    store: TokenStore,
    sampling: Sampling,
    *,
    texts: IntArray | None = None,
    allowed: Allowed | None = None,
    tokens_per_batch: int = 16384,
) -> Iterator[tuple[int, tuple[Generation, ...]]]:
    """Each prompt's position in the store with its replies, batch by batch, the longest prompts first.

    A batch holds at most `tokens_per_batch` tokens of prompts and replies together, but at least one prompt. In float32
    greedy replies are those of each prompt alone, as long as no two tokens are equally likely to within rounding.

    Raises:
        ModelError: a prompt without tokens, or one that leaves too little room for its reply.
    """
    texts = np.arange(len(store.lengths)) if texts is None else np.asarray(texts, dtype=np.int64)
    if not len(texts):
        return
    _check_room(model, store, texts, sampling.max_new_tokens)
    shared = shared_by_all(store, texts) if model.shares_prefixes else 0
    prefix = None
    if shared:
        with torch.no_grad(), evaluating(model):
            prefix = model.read_prefix(store.ids[store.offsets[texts[0]] :][:shared])
    rests = parts(store, texts, shared)
    limit = max(1, tokens_per_batch // sampling.samples)
    batches = length_sorted_chunks(rests.lengths, limit, beside=shared + sampling.max_new_tokens)
    for rows in counted(batches, len(texts)):
        uniforms = [
            _uniforms(sampling, store, text, sample) for text in texts[rows] for sample in range(sampling.samples)
        ]
        with torch.no_grad(), evaluating(model):
            replies = _Batch(model, sampling, allowed, np.stack(uniforms)).run(rests, rows, prefix)
        for place, row in enumerate(rows):
            own = replies[place * sampling.samples : (place + 1) * sampling.samples]
            yield int(texts[row]), tuple(own)


class _Batch:
    """Replies that are generated together, one row each; `uniforms` (rows, max_new_tokens) decides what is drawn."""

    def __init__(self, model: CausalLM, sampling: Sampling, allowed: Allowed | None, uniforms: Any) -> None:
        self.model = model
        self.sampling = sampling
        self.allowed = allowed
        self.uniforms = uniforms
        rows = len(uniforms)
        self.tokens: list[list[int]] = [[] for _ in range(rows)]
        self.scores = np.zeros(rows)
        self.finish: list[Finish | None] = [None] * rows
        self.ends = end_tokens(model)

    def run(self, rests: TokenStore, texts: IntArray, prefix: Prefix | None) -> list[Generation]:
        """Read the prompts `texts` of `rests` behind `prefix`, and generate until every reply has ended."""
        device, samples = self.model.device, self.sampling.samples
        mask, ids = _left_padded(rests, texts, device)
        cache = _new_cache(self.model, prefix, len(texts))
        if prefix is not None:
            mask = torch.cat([mask.new_ones(len(texts), prefix.tokens), mask], dim=1)  # (texts, prefix + tokens)
        logits = self._read(ids, mask, cache)  # (texts, entries)
        if samples > 1:
            spread = torch.arange(len(texts), device=device).repeat_interleave(samples)
            cache.reorder_cache(spread)
            mask, logits = mask[spread], logits[spread]
        there = np.arange(len(self.tokens))  # the reply in each row of the cache
        while True:
            chosen = self._choose(logits, there)
            running = np.array([self.finish[reply] is None for reply in there])
            if not running.any():
                return [self._generation(reply) for reply in range(len(self.tokens))]
            if np.count_nonzero(~running) * _LEAVE >= len(there):
                stay = torch.from_numpy(np.flatnonzero(running)).to(device)
                cache.reorder_cache(stay)
                mask, chosen, there = mask[stay], chosen[stay], there[running]
            mask = torch.cat([mask, mask.new_ones(len(there), 1)], dim=1)
            logits = self._read(chosen[:, None], mask, cache)

    def _read(self, ids: Tensor, mask: Tensor, cache: Any) -> Tensor:
        """Logits of all entries after the last token. Shape: ids (rows, new tokens), mask (rows, all tokens)."""
        options: dict[str, Any] = {}
        if self.model.positioned:
            options["position_ids"] = (mask.cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        states = self.model.backbone.get_decoder()(
            input_ids=ids, attention_mask=mask, past_key_values=cache, use_cache=True, **options
        ).last_hidden_state  # (rows, new tokens, dim)
        return self.model.entry_logits(states[:, -1])

    def _choose(self, logits: Tensor, there: IntArray) -> Tensor:
        """Pick the next token of each row and note it. Shape: (rows, entries) -> (rows,)."""
        weights, running = self._constrained(logits, there)
        if self.sampling.temperature == 0:
            chosen = weights.argmax(1)
        else:
            steps = [min(len(self.tokens[reply]), self.sampling.max_new_tokens - 1) for reply in there]
            uniforms = torch.from_numpy(self.uniforms[there, steps])
            chosen = draw(weights, self.sampling.temperature, self.sampling.top_p, uniforms)
        scores = (logits.gather(1, chosen[:, None])[:, 0] - logits.logsumexp(1)).tolist()
        for row, token in enumerate(chosen.tolist()):
            if running[row]:
                self._note(int(there[row]), token, scores[row])
        return chosen

    def _constrained(self, logits: Tensor, there: IntArray) -> tuple[Tensor, list[bool]]:
        """The logits, minus infinity where the constraint forbids, and which rows still go on."""
        running = [self.finish[reply] is None for reply in there]
        if self.allowed is None:
            return logits, running
        weights = logits.clone()
        for row, reply in enumerate(there):
            ids = self.allowed(self.tokens[reply]) if running[row] else None
            if ids is None:
                continue
            if not len(ids):
                self.finish[reply], running[row] = "stop", False
                continue
            kept = torch.as_tensor(list(ids), device=logits.device)
            weights[row] = -torch.inf
            weights[row, kept] = logits[row, kept]
        return weights, running

    def _note(self, reply: int, token: int, score: float) -> None:
        tokens = self.tokens[reply]
        tokens.append(token)
        self.scores[reply] += score
        if token in self.ends or self._stopped(tokens):
            self.finish[reply] = "stop"
        elif len(tokens) >= self.sampling.max_new_tokens:
            self.finish[reply] = "length"

    def _stopped(self, tokens: list[int]) -> bool:
        """Whether a stop text has just come. A character takes at most four tokens, so older ones need no look."""
        if not self.sampling.stop:
            return False
        reach = 4 * max(map(len, self.sampling.stop)) + 4
        tail = self._text(tokens[-reach:])
        return any(stop in tail for stop in self.sampling.stop)

    def _generation(self, reply: int) -> Generation:
        tokens, finish = self.tokens[reply], self.finish[reply]
        said = tokens[:-1] if tokens and tokens[-1] in self.ends else tokens
        text = self._text(said)
        stops = [text.index(stop) for stop in self.sampling.stop if stop in text]
        return Generation(
            text[: min(stops, default=len(text))], len(tokens), finish or "length", float(self.scores[reply])
        )

    def _text(self, tokens: list[int]) -> str:
        text: str = self.model.tokenizer.decode(tokens, skip_special_tokens=True)
        return text


_Growing: Any = DynamicLayer


class _Roomy(_Growing):  # type: ignore[misc]
    """Keys and values in memory with room to spare: a step writes its own tokens and copies nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.keys: Any
        self.values: Any
        self._held: tuple[Tensor, ...] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Add new tokens. Shape: (rows, heads, new tokens, dim) -> (rows, heads, all tokens, dim), both."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        start = self.get_seq_length()
        stop = start + key_states.shape[2]
        if self._held is None or self._held[0].shape[2] < stop:
            held = tuple(
                new.new_empty(*new.shape[:2], stop + _ROOM, new.shape[3]) for new in (key_states, value_states)
            )
            if start:
                held[0][:, :, :start], held[1][:, :, :start] = self.keys, self.values
            self._held = held
        for kept, states in zip(self._held, (key_states, value_states), strict=True):
            kept[:, :, start:stop] = states
        self.keys, self.values = (kept[:, :, :stop] for kept in self._held)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """Keep the given rows, in their order; a row may be given more than once."""
        super().reorder_cache(beam_idx)
        self._held = None


def end_tokens(model: CausalLM) -> frozenset[int]:
    """The tokens that end a turn: those of the generation config, and the tokenizer's own."""
    config = getattr(model.backbone, "generation_config", None)
    ends = [getattr(config, "eos_token_id", None), model.tokenizer.eos_token_id]
    return frozenset(int(end) for many in ends if many is not None for end in np.atleast_1d(many))


def draw(logits: Tensor, temperature: float, top_p: float, uniforms: Tensor) -> Tensor:
    """The entry that each uniform number in [0, 1) falls on, among the likeliest that hold `top_p` of the whole.

    Shape: logits (rows, entries), uniforms (rows,) float64 -> (rows,) int64.
    """
    where = logits.device
    if where.type == "mps":  # has no float64
        logits = logits.cpu()
    shares = ((logits - logits.amax(1, keepdim=True)) / temperature).softmax(1)  # (rows, entries)
    entries = None
    if top_p < 1:
        some = min(_NUCLEUS, shares.shape[1])
        largest, entries = shares.topk(some)
        if some < shares.shape[1] and bool((largest.sum(1) < top_p).any()):
            largest, entries = shares.sort(dim=1, descending=True)
        shares = torch.where(largest.cumsum(1) - largest < top_p, largest, 0.0)
        shares[:, 0] = largest[:, 0]
    reached = shares.double().cumsum(1)
    places = (reached <= uniforms.to(reached)[:, None] * reached[:, -1:]).sum(1)
    places = places.clamp(max=shares.shape[1] - 1)[:, None]
    return (places if entries is None else entries.gather(1, places))[:, 0].to(where)


def _left_padded(store: TokenStore, texts: IntArray, device: torch.device) -> tuple[Tensor, Tensor]:
    """Mask and ids with padding in front. Shape: (texts, tokens) int64, both."""
    chunk = store.chunk(texts, torch.device("cpu"))
    width = int(store.lengths[texts].max())
    mask = chunk.mask[:, :width].flip(1)
    ids = torch.zeros_like(mask)
    assert chunk.ids is not None
    ids[mask.bool()] = chunk.ids[chunk.mask.bool()]
    return mask.to(device), ids.to(device)


def _new_cache(model: CausalLM, prefix: Prefix | None, texts: int) -> Any:
    """An empty cache, or one that holds the prefix for every text."""
    cache: Any = DynamicCache(config=model.backbone.config)
    if not model.shares_prefixes:
        return cache
    cache = Cache(layers=[_Roomy() for _ in cache.layers])
    for layer, (keys, values) in zip(cache.layers, prefix.layers if prefix else [], strict=prefix is not None):
        layer.update(keys.expand(texts, -1, -1, -1), values.expand(texts, -1, -1, -1))
    return cache


def _check_room(model: CausalLM, store: TokenStore, texts: IntArray, new: int) -> None:
    lengths = store.lengths[texts]
    empty = texts[lengths == 0]
    if len(empty):
        raise ModelError(f"text {int(empty[0])} has no tokens, so nothing comes after it; give every text a prompt")
    room = getattr(model.backbone.config.get_text_config(decoder=True), "max_position_embeddings", None)
    long = np.flatnonzero(lengths + new > (room or np.inf))
    if len(long):
        raise ModelError(
            f"text {int(texts[long[0]])} has {int(lengths[long[0]]):,} tokens, which leaves no room for {new:,} more: "
            f"the model reads {room:,}; shorten the text or lower max_new_tokens"
        )


def _uniforms(sampling: Sampling, store: TokenStore, text: int, sample: int) -> Any:
    """Numbers in [0, 1), one a step. Shape: (max_new_tokens,) float64, or a single 0 where nothing is drawn."""
    if sampling.temperature == 0:
        return np.zeros(1)
    ids = np.ascontiguousarray(store.ids[store.offsets[text] : store.offsets[text + 1]], dtype="<i8")
    words = np.frombuffer(sha256(ids.tobytes()).digest(), dtype="<u4").tolist()
    return np.random.default_rng([sampling.seed, sample, *words]).random(sampling.max_new_tokens)
