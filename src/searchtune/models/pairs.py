"""Query-document pairs made ready for a reranker: each text is tokenised once, pairs are put together when needed.

A `PairFormat` says what stands before, between and after the two texts: the special tokens of a cross-encoder, as its
own tokenizer places them, or the instruction of a language model. Nothing here knows a model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch

from searchtune.errors import ConfigError
from searchtune.models.cut_count import LEAST_DOCUMENT, CutCount
from searchtune.models.inputs import Chunk, TokenStore, padding_mask, tokenise
from searchtune.types import IntArray

_NO_LIMIT = 10**9
QUERY, DOCUMENT = "{query}", "{document}"
"""Where the texts stand in a template."""


@dataclass(frozen=True)
class PairFormat:
    """Token ids around the two texts of a pair, and how a pair that is too long is cut."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    max_tokens: int
    segments: int | None = None
    """How many tokens of `between` belong to the query's segment; None where the model knows no segments."""
    keeps_query: bool = False
    """Cut the document first, and the query only where it would leave the document less than `LEAST_DOCUMENT` of the
    room; otherwise the longer text first, as tokenizers do, which leaves a document half of the room at least."""

    @property
    def room(self) -> int:
        """Tokens left for the two texts."""
        return self.max_tokens - len(self.before) - len(self.between) - len(self.after)

    def cut(self, queries: IntArray, documents: IntArray) -> tuple[IntArray, IntArray]:
        """How many tokens of each text stay, given their lengths. Shape: (pairs,) both.

        "Longest first" is the rule of the tokenizers library: the longer one is cut down to what the shorter one
        leaves, and where both exceed half of the room, each gets half.
        """
        room = self.room
        if self.keeps_query:
            kept = np.minimum(queries, room - np.minimum(documents, int(np.ceil(LEAST_DOCUMENT * room))))
            return kept, np.minimum(documents, room - kept)
        short, long = np.minimum(queries, documents), np.maximum(queries, documents)
        fits = queries + documents <= room
        uneven = short <= room // 2  # the shorter one stays whole
        new_short = np.where(fits | uneven, short, room // 2)
        new_long = np.where(fits, long, np.where(uneven, room - short, room - room // 2))
        swapped = queries > documents
        return np.where(swapped, new_long, new_short), np.where(swapped, new_short, new_long)


class BareTexts(NamedTuple):
    """Texts as token ids without special tokens, cut at what a pair has room for."""

    tokens: TokenStore
    lengths: IntArray
    """Tokens of the whole texts: which of two is the longer decides how a pair is cut. Shape: (texts,)."""


class PairStore:
    """The pairs of any query and any document, cut at the format's length."""

    def __init__(self, queries: BareTexts, documents: BareTexts, form: PairFormat) -> None:
        self.queries, self.documents, self.form = queries, documents, form

    def lengths(self, queries: IntArray, documents: IntArray) -> IntArray:
        """Tokens of each pair, those around the texts included. Shape: (pairs,)."""
        left, right = self.form.cut(self.queries.lengths[queries], self.documents.lengths[documents])
        return left + right + (self.form.max_tokens - self.form.room)

    def truncated(self, queries: IntArray, documents: IntArray) -> int:
        """How many of these pairs are cut."""
        whole = self.queries.lengths[queries] + self.documents.lengths[documents]
        return int((whole > self.form.room).sum())

    def count(self, queries: IntArray, documents: IntArray, cuts: CutCount) -> None:
        """Count these pairs, those that are cut, and those of them whose query is."""
        left, _ = self.form.cut(self.queries.lengths[queries], self.documents.lengths[documents])
        shortened = int((left < self.queries.lengths[queries]).sum())
        cuts.add(len(queries), self.truncated(queries, documents), shortened)

    def tokens(self, queries: IntArray, documents: IntArray) -> TokenStore:
        """These pairs written out, one text each, in the given order."""
        form = self.form
        left, right = form.cut(self.queries.lengths[queries], self.documents.lengths[documents])
        parts = []
        for query, document, cut_query, cut_document in zip(queries, documents, left, right, strict=True):
            parts.append(self._ids(int(query), int(document), int(cut_query), int(cut_document)))
        lengths = left + right + (form.max_tokens - form.room)
        flat = np.concatenate([np.zeros(0, np.int64), *parts])
        return TokenStore(flat, np.concatenate(([0], np.cumsum(lengths))), self.truncated(queries, documents))

    def _ids(self, query: int, document: int, cut_query: int, cut_document: int) -> IntArray:
        """The ids of one pair with so many tokens of each text. Shape: (tokens,)."""
        start, first = int(self.queries.tokens.offsets[query]), int(self.documents.tokens.offsets[document])
        parts = (
            self.form.before,
            self.queries.tokens.ids[start : start + cut_query],
            self.form.between,
            self.documents.tokens.ids[first : first + cut_document],
            self.form.after,
        )
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])

    def chunk(self, queries: IntArray, documents: IntArray, device: torch.device) -> Chunk:
        """These pairs, padded to the longest of them."""
        form = self.form
        left, right = form.cut(self.queries.lengths[queries], self.documents.lengths[documents])
        mask = padding_mask(left + right + (form.max_tokens - form.room))
        ids = np.zeros(mask.shape, dtype=np.int64)
        segments = np.zeros(mask.shape, dtype=np.int64)
        for row, (query, document, cut_query, cut_document) in enumerate(
            zip(queries, documents, left, right, strict=True)
        ):
            joined = self._ids(int(query), int(document), int(cut_query), int(cut_document))
            ids[row, : len(joined)] = joined
            if form.segments is not None:
                segments[row, len(form.before) + cut_query + form.segments : len(joined)] = 1
        return Chunk(
            mask=mask.to(device),
            ids=torch.from_numpy(ids).to(device),
            segments=None if form.segments is None else torch.from_numpy(segments).to(device),
        )


def pair_store(tokenizer: Any, queries: Sequence[str], documents: Sequence[str], form: PairFormat) -> PairStore:
    """Tokenise the texts, each once."""
    return PairStore(bare_texts(tokenizer, queries, form), bare_texts(tokenizer, documents, form), form)


def bare_texts(tokenizer: Any, texts: Sequence[str], form: PairFormat) -> BareTexts:
    """One side of pairs, tokenised."""
    whole = tokenise(tokenizer, texts, _NO_LIMIT, special=False)
    return BareTexts(whole.cut(form.room), whole.lengths)


def tokenizer_format(tokenizer: Any, max_tokens: int) -> PairFormat:
    """The format in which this tokenizer encodes two texts.

    Raises:
        ConfigError: `max_tokens` leaves no room for text.
    """
    encoded = tokenizer("a", "b")
    owners = encoded.sequence_ids(0)  # None for what is no text, 0 and 1 for the texts
    ids = list(encoded["input_ids"])
    first = [place for place, owner in enumerate(owners) if owner == 0]
    second = [place for place, owner in enumerate(owners) if owner == 1]
    before, between, after = ids[: first[0]], ids[first[-1] + 1 : second[0]], ids[second[-1] + 1 :]
    kinds = encoded.get("token_type_ids")
    segments = None if kinds is None else int(sum(kind == 0 for kind in kinds[first[-1] + 1 : second[0]]))
    return _checked(PairFormat(tuple(before), tuple(between), tuple(after), max_tokens, segments))


def template_format(tokenizer: Any, template: str, max_tokens: int) -> PairFormat:
    """A format written out as text with `{query}` and `{document}`, each once and in this order.

    A document is cut where a pair is too long, a query only where it leaves the document less than `LEAST_DOCUMENT` of
    the room, the instruction never.

    Raises:
        ConfigError: a placeholder is missing, or `max_tokens` leaves no room for text.
    """
    if template.count(QUERY) != 1 or template.count(DOCUMENT) != 1 or template.index(QUERY) > template.index(DOCUMENT):
        raise ConfigError(f"template {template!r} must hold {QUERY} and then {DOCUMENT}, each once")
    before, rest = template.split(QUERY)
    between, after = rest.split(DOCUMENT)
    parts = [tuple(tokenizer(part, add_special_tokens=False)["input_ids"]) for part in (before, between, after)]
    return _checked(PairFormat(parts[0], parts[1], parts[2], max_tokens, keeps_query=True))


def _checked(form: PairFormat) -> PairFormat:
    if form.room < 2:
        around = form.max_tokens - form.room
        raise ConfigError(f"max_tokens is {form.max_tokens}, but {around} tokens stand around the texts of a pair")
    return form
