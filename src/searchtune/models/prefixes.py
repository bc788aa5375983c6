"""With which tokens texts begin alike, and the texts without them: what a language model need read only once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from searchtune.models.inputs import TokenStore
from searchtune.types import IntArray

SHORT_PREFIX = 16
"""Tokens: saving fewer than this is not worth a pass of their own."""


@dataclass(frozen=True)
class Heads:
    """Groups of texts, the texts of each beginning alike behind what all texts begin with."""

    store: TokenStore
    """That beginning of each group."""
    places: IntArray
    """All texts of these groups, by their place among those given. Shape: (texts,)."""
    group: IntArray
    """The group of each of them, as a row of `store`. Shape: (texts,)."""


@dataclass(frozen=True)
class SharedTexts:
    """What texts share: `top` tokens with which all begin, and windows of groups that share more; `alone` the rest."""

    top: int
    windows: list[Heads]
    alone: IntArray


def find_shared(store: TokenStore, texts: IntArray, groups: IntArray, max_tokens: int) -> SharedTexts:
    """Find what all of the texts, and then those of one group, begin with.

    The beginnings of the groups of one window have at most `max_tokens` tokens together, the top before each included.

    Shape: texts, groups (texts,), any numbers.
    """
    top = shared_by_all(store, texts)
    alone: list[IntArray] = []
    headed: list[tuple[IntArray, int]] = []
    for places in _by_group(groups):
        more = common_prefix(store, texts[places]) - top
        if (len(places) - 1) * more >= SHORT_PREFIX:
            headed.append((places, more))
        else:
            alone.append(places)
    headed.sort(key=lambda pair: pair[1])  # stable: windows of similar lengths
    windows: list[Heads] = []
    start = 0
    while start < len(headed):
        stop = start + 1
        while stop < len(headed) and (stop + 1 - start) * (top + headed[stop][1]) <= max_tokens:
            stop += 1
        windows.append(_heads(store, texts, top, headed[start:stop]))
        start = stop
    return SharedTexts(top, windows, np.concatenate([np.zeros(0, dtype=np.int64), *alone]))


def shared_by_all(store: TokenStore, texts: IntArray) -> int:
    """`common_prefix` of more than one text, or 0 where that is not worth a pass of its own."""
    shared = common_prefix(store, texts)
    return shared if (len(texts) - 1) * shared >= SHORT_PREFIX else 0


def common_prefix(store: TokenStore, texts: IntArray) -> int:
    """With how many equal tokens all of the given texts begin, at least one token of each left over."""
    if not len(texts):
        return 0
    width = int(store.lengths[texts].min()) - 1
    if width < 1:
        return 0
    first = store.ids[store.offsets[texts[0]] :][:width]
    for start in range(0, len(texts), 1024):
        heads = store.ids[store.offsets[texts[start : start + 1024]][:, None] + np.arange(len(first))]  # (texts, width)
        differs = (heads != first).any(axis=0)
        first = first[: int(np.argmax(differs))] if differs.any() else first
    return len(first)


def parts(store: TokenStore, texts: IntArray, start: int | IntArray, stop: IntArray | None = None) -> TokenStore:
    """The tokens of each text from `start` to before `stop`, or to its end. Shape: start and stop (texts,) or one."""
    begins = store.offsets[texts] + start
    ends = store.offsets[texts + 1] if stop is None else store.offsets[texts] + stop
    pieces = [store.ids[begin:end] for begin, end in zip(begins, ends, strict=True)]
    ids = np.concatenate([np.zeros(0, dtype=np.int64), *pieces])
    return TokenStore(ids, np.concatenate(([0], np.cumsum(ends - begins))), 0)


def _heads(store: TokenStore, texts: IntArray, top: int, groups: list[tuple[IntArray, int]]) -> Heads:
    firsts = np.array([texts[places[0]] for places, _ in groups])
    more = np.array([tokens for _, tokens in groups])
    return Heads(
        store=parts(store, firsts, top, top + more),
        places=np.concatenate([places for places, _ in groups]),
        group=np.repeat(np.arange(len(groups)), [len(places) for places, _ in groups]),
    )


def _by_group(groups: IntArray) -> Iterator[IntArray]:
    """Positions of equal numbers, one array a number."""
    order = np.argsort(groups, kind="stable")
    if len(order):
        yield from np.split(order, np.flatnonzero(np.diff(groups[order])) + 1)
