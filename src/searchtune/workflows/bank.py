"""All texts of a collection made ready for one encoder: tokens, cached states, vectors."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from accelerate import PartialState

from searchtune.models.encoder import Encoder
from searchtune.models.inputs import HiddenStore, Store, TokenStore, tokenise
from searchtune.models.layers import check_prefix, compute_states, room_for_states
from searchtune.specs.recipe import EmbedRecipe
from searchtune.types import Collection, FloatArray, IntArray, Qrels

CACHE = "cache"
"""Folder inside the output folder for what is only needed while training."""
TRAINING_STATES, OTHER_STATES = "cached states of training texts", "cached states of other texts"
"""Names of two preparations in `Bank.seconds`."""


@dataclass
class Bank:
    """Row `q` is query `q`; row `queries + d` is document `d`."""

    queries: int
    documents: int
    tokens: TokenStore
    training: Store
    """What training reads: the tokens, a shorter cut of them, or hidden states."""
    hidden: HiddenStore | None = None
    prefix_difference: float = 0.0
    """Largest difference of a vector's component between the whole model and the cached one."""
    seconds: dict[str, float] = field(default_factory=dict)

    @property
    def truncated(self) -> int:
        """Texts that were longer than the model reads."""
        return self.tokens.truncated

    def encode_documents(self, encoder: Encoder) -> FloatArray:
        """Vectors of all documents. Shape: (documents, dim)."""
        return self._encode(encoder, np.arange(self.queries, self.queries + self.documents))

    def encode_queries(self, encoder: Encoder, queries: IntArray) -> FloatArray:
        """Vectors of some queries. Shape: (queries, dim)."""
        return self._encode(encoder, queries)

    def encode_some(self, encoder: Encoder, documents: IntArray) -> FloatArray:
        """Vectors of some documents. Shape: (documents, dim)."""
        return self._encode(encoder, self.queries + documents)

    def _encode(self, encoder: Encoder, rows: IntArray) -> FloatArray:
        return encoder.encode_store(self.tokens if self.hidden is None else self.hidden, rows)


def build_bank(
    collection: Collection, encoder: Encoder, recipe: EmbedRecipe, folder: Path, *, positives: Qrels
) -> Bank:
    """Tokenise the collection and, for a frozen prefix, compute the states below the adapted layers once.

    The queries and documents of `positives`, on which training runs, come first and are timed apart from texts that
    only evaluation reads. With a frozen prefix the encoder must from here on run inside `without_prefix`.

    Raises:
        ModelError: the architecture does not give the same vectors from cached states.
    """
    start = time.perf_counter()
    tokens = _tokens(collection, encoder, recipe, recipe.max_tokens)
    bank = Bank(len(collection.query_ids), len(collection.doc_ids), tokens, tokens)
    bank.seconds["tokenise"] = time.perf_counter() - start
    if recipe.train_max_tokens is not None:
        bank.training = _tokens(collection, encoder, recipe, recipe.train_max_tokens)
    if recipe.frozen_prefix and recipe.method.top_layers is not None:
        top = recipe.method.top_layers
        file = folder / CACHE / f"prefix-{PartialState().process_index}.bf16" if recipe.prefix_cache == "disk" else None
        bank.training = bank.hidden = room_for_states(encoder, tokens, file)
        trained = np.union1d(positives.queries, bank.queries + positives.docs)
        others = np.setdiff1d(np.arange(len(tokens.lengths)), trained)
        for name, texts in ((TRAINING_STATES, trained), (OTHER_STATES, others)):
            start = time.perf_counter()
            compute_states(encoder, tokens, bank.hidden, texts, top)
            bank.seconds[name] = time.perf_counter() - start
        bank.prefix_difference = check_prefix(encoder, tokens, bank.hidden, top)
    return bank


def _tokens(collection: Collection, encoder: Encoder, recipe: EmbedRecipe, limit: int) -> TokenStore:
    layout = encoder.layout
    queries = tokenise(
        encoder.tokenizer,
        list(collection.query_texts),
        min(limit, recipe.query_max_tokens or limit),
        layout.query_prompt,
    )
    return TokenStore.joined(
        [queries, tokenise(encoder.tokenizer, collection.documents, limit, layout.document_prompt)]
    )
