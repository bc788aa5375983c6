"""Texts made ready for an encoder: token ids in one flat array, and batches of similar length cut from them.

Nothing here knows a model: `TokenStore` holds ids, `HiddenStore` holds the hidden states below the adapted layers,
and both hand out padded chunks of the same form, so that training need not know which of the two it reads.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from searchtune.types import IntArray

_MAX_PADDING = 0.2
"""A chunk is closed early where its shortest text would be more than this share padding."""
_WIDTH_STEP = 8
"""Chunks are as wide as a multiple of this, so that few shapes occur: kernels are prepared anew for each new shape."""
_MIN_CHUNK = 2048
"""Chunks below this many tokens are never closed early: tiny matrices waste more than padding does."""


@dataclass(frozen=True)
class Chunk:
    """Some texts of similar length, padded to the longest.

    Shape: ids (texts, tokens) int64, or hidden (texts, tokens, dim); mask and segments (texts, tokens) int64.
    """

    mask: Tensor
    ids: Tensor | None = None
    hidden: Tensor | None = None
    segments: Tensor | None = None
    """0 for a pair's first text, 1 for its second, where the model knows segments."""


class Store(Protocol):
    """Anything that knows the length of each text and can pad some of them into a chunk."""

    @property
    def lengths(self) -> IntArray:
        """Tokens in each text. Shape: (texts,)."""

    def chunk(self, texts: IntArray, device: torch.device) -> Chunk:
        """The given texts, padded to the longest of them."""


class TokenStore:
    """Token ids of many texts, cut at a limit, special tokens included."""

    def __init__(self, ids: IntArray, offsets: IntArray, truncated: int) -> None:
        self.ids = ids
        self.offsets = offsets
        self.truncated = truncated
        """How many texts were longer than the limit."""

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.offsets)

    def chunk(self, texts: IntArray, device: torch.device) -> Chunk:
        mask = padding_mask(self.lengths[texts])
        ids = torch.zeros(mask.shape, dtype=torch.int64)
        ids[mask.bool()] = torch.from_numpy(_gather(self.ids, self.offsets, texts))
        return Chunk(mask=mask.to(device), ids=ids.to(device))

    def cut(self, limit: int) -> TokenStore:
        """The first `limit` tokens of every text."""
        lengths = np.minimum(self.lengths, limit)
        within = np.arange(int(lengths.sum())) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        ids = self.ids[np.repeat(self.offsets[:-1], lengths) + within]
        return TokenStore(ids, np.concatenate(([0], np.cumsum(lengths))), int((self.lengths > limit).sum()))

    @classmethod
    def joined(cls, parts: Sequence[TokenStore]) -> TokenStore:
        """One store with the texts of `parts` one after the other."""
        lengths = np.concatenate([part.lengths for part in parts])
        offsets = np.concatenate(([0], np.cumsum(lengths)))
        return cls(np.concatenate([part.ids for part in parts]), offsets, sum(part.truncated for part in parts))


class HiddenStore:
    """Hidden states of many texts at one layer, flat. Shape: hidden (all tokens, dim)."""

    def __init__(self, hidden: Tensor, offsets: IntArray) -> None:
        self.hidden = hidden
        self.offsets = offsets

    @property
    def lengths(self) -> IntArray:
        return np.diff(self.offsets)

    def chunk(self, texts: IntArray, device: torch.device) -> Chunk:
        mask = padding_mask(self.lengths[texts])
        hidden = torch.zeros((*mask.shape, self.hidden.shape[1]), dtype=self.hidden.dtype)
        for place, text in enumerate(texts):  # contiguous copies: many times faster than one indexed one
            start, stop = int(self.offsets[text]), int(self.offsets[text + 1])
            hidden[place, : stop - start] = self.hidden[start:stop]
        return Chunk(mask=mask.to(device), hidden=hidden.to(device))


def tokenise(
    tokenizer: Any, texts: Sequence[str], max_tokens: int, prompt: str = "", *, special: bool = True
) -> TokenStore:
    """Token ids of `prompt + text` for every text, cut at `max_tokens`, with the tokenizer's special tokens or bare."""
    pieces: list[list[int]] = []
    truncated = 0
    for start in range(0, len(texts), 4096):
        batch = [prompt + text for text in texts[start : start + 4096]]
        encoded = tokenizer(
            batch,
            truncation=True,
            max_length=max_tokens,
            add_special_tokens=special,
            padding=False,
            return_attention_mask=False,
            return_token_type_ids=False,
        )
        truncated += sum(bool(encoding.overflowing) for encoding in encoded.encodings or ())
        pieces.extend(encoded["input_ids"])
    lengths = np.fromiter((len(piece) for piece in pieces), dtype=np.int64, count=len(pieces))
    flat = np.fromiter(chain.from_iterable(pieces), dtype=np.int64, count=int(lengths.sum()))
    return TokenStore(flat, np.concatenate(([0], np.cumsum(lengths))), truncated)


def length_sorted_chunks(lengths: IntArray, max_tokens: int, *, beside: int = 0) -> Iterator[IntArray]:
    """Positions of texts grouped by falling length, so that a padded group has at most `max_tokens` tokens.

    A text longer than `max_tokens` stands alone. Every text also holds memory for `beside` tokens that are not run with
    it, such as a prefix. Ties keep their order, so the grouping is deterministic.
    """
    order = np.argsort(-lengths, kind="stable")
    start = 0
    while start < len(order):
        longest = max(1, int(lengths[order[start]]))
        stop = min(len(order), start + max(1, max_tokens // (longest + beside)))
        early = start + max(1, -(-_MIN_CHUNK // longest))
        if early < stop:
            too_short = lengths[order[early:stop]] < (1 - _MAX_PADDING) * longest
            stop = early + int(np.argmax(too_short)) if too_short.any() else stop
        yield order[start:stop]
        start = stop


def padding_mask(lengths: IntArray) -> Tensor:
    """1 for a token, 0 for padding. Shape: lengths (texts,) -> (texts, tokens) int64."""
    width = -(-int(lengths.max(initial=1)) // _WIDTH_STEP) * _WIDTH_STEP
    return (torch.arange(width)[None, :] < torch.from_numpy(lengths)[:, None]).long()


def _gather(flat: IntArray, offsets: IntArray, texts: IntArray) -> IntArray:
    """The entries of the given rows of a ragged array, one row after the other."""
    lengths = np.diff(offsets)[texts]
    ends = np.cumsum(lengths)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(ends - lengths, lengths)
    entries: IntArray = flat[np.repeat(offsets[texts], lengths) + within]
    return entries
