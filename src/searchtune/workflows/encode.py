"""From the name of a model to vectors: open a base or an adapter, encode texts and collections, through the cache.

Whoever finds all vectors of a base in the cache opens neither torch nor its weights' library, which takes seconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.models.cards import check_base, read_card
from searchtune.models.cut_count import CutCount
from searchtune.models.identity import EncoderIdentity, identify
from searchtune.models.layout import read_layout
from searchtune.models.precision import Precision, device_type, dtype_name, pick_device
from searchtune.models.sources import resolve_model
from searchtune.retrieval.cache import EmbeddingCache, EncoderKey
from searchtune.specs.card import CARD_FILE, adapter_folder
from searchtune.specs.suite import DenseSystem
from searchtune.types import Collection, FloatArray, IntArray
from searchtune.workflows.document_texts import as_trained
from searchtune.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    from searchtune.models.encoder import Encoder

_NO_LIMIT = 512
"""Tokens a text is cut at where the base names no length."""
_AT_A_TIME = 65_536
"""Texts between two writes to the cache: what a kill can cost."""


@dataclass(frozen=True)
class TextEncoder:
    """A model in one role, for queries or for documents. Its weights are loaded when a text must be encoded."""

    name: str
    identity: EncoderIdentity
    load: Callable[[], Encoder]
    dimensions: int | None = None
    """How many components of a vector are kept, the first ones, at unit length again; None keeps all."""
    cuts: CutCount = field(default_factory=CutCount, compare=False)
    """Of the texts that the model encoded."""

    @property
    def key(self) -> EncoderKey:
        """What its whole vectors are filed under in the cache."""
        return EncoderKey(self.identity.fields(), self.name)

    @property
    def space(self) -> dict[str, str | int | bool | None]:
        """All that its vectors depend on beside the text, by name."""
        return {**self.identity.fields(), **({} if self.dimensions is None else {"dimensions": self.dimensions})}

    def encode(self, texts: Sequence[str]) -> FloatArray:
        """Vectors of texts, with this role's prompt, length and size. Shape: (texts, dimensions)."""
        return self.shortened(self.whole(texts))

    def whole(self, texts: Sequence[str]) -> FloatArray:
        """Vectors with all their components. Shape: (texts, dim)."""
        model = self.load()
        store = model.read(texts, max_tokens=self.identity.max_tokens, prompt=self.identity.prompt)
        self.cuts.add(len(texts), store.truncated)
        return model.encode_store(store)

    def shortened(self, vectors: FloatArray) -> FloatArray:
        """The first `dimensions` components at unit length, as training cuts them (Kusupati et al. 2022,
        arXiv:2205.13147). Shape: (texts, dim) -> (texts, dimensions).

        Raises:
            ConfigError: the vectors have fewer components.
        """
        if self.dimensions is None or self.dimensions == vectors.shape[1]:
            return vectors
        if self.dimensions > vectors.shape[1]:
            raise ConfigError(f"dimensions {self.dimensions}: the vectors of {self.name} have {vectors.shape[1]}")
        short = vectors[:, : self.dimensions]
        unit: FloatArray = short / np.maximum(np.linalg.norm(short, axis=1, keepdims=True), 1e-12)
        return unit

    def tell_cuts(self, what: str, progress: Progress) -> None:
        """Warn of texts that were longer than what is read of them."""
        adapted = self.identity.adapter_sha256 is not None
        remedy = "train with a larger max_tokens" if adapted else "set max_tokens to what the model can read"
        if said := self.cuts.words(what, self.identity.max_tokens, f"{remedy}, or split long texts"):
            progress.warn(f"{self.name}: {said}")


@dataclass(frozen=True)
class BiEncoder:
    """Both roles of a model. They differ in prompt and length; under a query-only adapter also in weights."""

    queries: TextEncoder
    documents: TextEncoder
    doc_template: str | None = None
    """How it reads documents' titles and texts, as at training; None reads them as their collection says."""

    def reads(self, collection: Collection, progress: Progress = SILENT) -> Collection:
        """A collection as it reads it, documents under its own template (see `as_trained`)."""
        return as_trained(collection, self.doc_template, self.queries.name, progress)


@dataclass(frozen=True)
class CollectionVectors:
    """A collection as one bi-encoder sees it."""

    documents: FloatArray
    """Shape: (documents, dim)."""
    queries: Mapping[str, FloatArray]
    """By split; rows as in the split's `Qrels.queries`. Shape: (judged, dim)."""
    document_seconds: float
    query_seconds: float
    encoded: int
    """Texts that the model encoded; with a cache, each distinct one once."""
    cached: int
    """Distinct texts whose vectors were taken from the cache; while there are any, the seconds say little."""


def open_encoder(
    name: str,
    *,
    revision: str | None = None,
    precision: Precision = "auto",
    max_tokens: int | None = None,
    query_prompt: str | None = None,
    document_prompt: str | None = None,
    dimensions: int | None = None,
) -> BiEncoder:
    """A model by name: an adapter's folder (or its run's), a model's folder, `package:NAME/path`, or a hub id.

    Revision, length and prompts are for a base alone, None for its own; an adapter's card settles them. `dimensions`
    keeps the first components of every vector.

    Raises:
        ModelError: there is no such model, or its weights or modules are not supported.
        ArtifactError: the adapter is damaged, or its base is another one.
        ConfigError: a length that the model cannot read, or one for an adapter; a size that it was not trained for.
    """
    if (adapter_folder(name) / CARD_FILE).is_file():
        if any(given is not None for given in (max_tokens, revision, query_prompt, document_prompt)):
            raise ConfigError(f"{name} is an adapter, whose card settles revision, length and prompts: leave them out")
        return open_adapter(name, precision=precision, dimensions=dimensions)
    dtype = dtype_name(precision, device_type())
    root = resolve_model(name, revision)
    layout = read_layout(root)
    limit = max_tokens or layout.max_tokens or _NO_LIMIT
    if max_tokens is not None and not 1 <= max_tokens <= (layout.max_positions or max_tokens):
        raise ConfigError(f"max_tokens is {max_tokens}, but {name} reads 1 to {layout.max_positions} tokens")
    load = once(partial(_plain, root, dtype))
    queries, documents = (
        TextEncoder(name, identify(root, layout, prompt=prompt, max_tokens=limit, dtype=dtype), load, dimensions)
        for prompt in (
            layout.query_prompt if query_prompt is None else query_prompt,
            layout.document_prompt if document_prompt is None else document_prompt,
        )
    )
    return BiEncoder(queries, documents)


def open_system(system: DenseSystem) -> BiEncoder:
    """The bi-encoder of a suite's or a recipe's system; see `open_encoder`."""
    return open_encoder(
        system.model,
        revision=system.revision,
        precision=system.precision,
        max_tokens=system.max_tokens,
        query_prompt=system.query_prompt,
        document_prompt=system.document_prompt,
        dimensions=system.dimensions,
    )


def open_adapter(
    folder: Path | str, *, base: str | None = None, precision: Precision = "auto", dimensions: int | None = None
) -> BiEncoder:
    """An adapter by its folder or its run's; under a query-only adapter, the base encodes documents, as at training.

    `dimensions` keeps the first components of every vector, for an adapter that was trained for that size.

    Raises:
        ConfigError: a size that it was not trained for.
        ArtifactError: the folder is no adapter, damaged, or `base` is not the one it was trained on.
    """
    folder = adapter_folder(folder)
    dtype = dtype_name(precision, device_type())
    card = read_card(folder)
    if dimensions not in (None, card.dim, *card.matryoshka):
        sizes = ", ".join(map(str, sorted({card.dim, *card.matryoshka}, reverse=True)))
        raise ConfigError(
            f"dimensions {dimensions}: {folder} was trained for {sizes}; choose one of these, or train with "
            "objective.matryoshka"
        )
    root = resolve_model(base or card.base, None if base else card.revision)
    check_base(card, root)
    plain = read_layout(root)
    layout = replace(plain, pooling=card.pooling, normalise=card.normalise)
    tuned = once(partial(_tuned, folder, base, dtype))
    queries = TextEncoder(
        str(folder),
        identify(root, layout, adapter=folder, prompt=card.query_prompt, max_tokens=card.query_max_tokens, dtype=dtype),
        tuned,
        dimensions,
    )
    by_base = card.side == "query"
    documents = TextEncoder(
        card.base if by_base else str(folder),
        identify(
            root,
            plain if by_base else layout,
            adapter=None if by_base else folder,
            prompt=card.document_prompt,
            max_tokens=card.max_tokens,
            dtype=dtype,
        ),
        once(partial(_plain, root, dtype)) if by_base else tuned,
        dimensions,
    )
    return BiEncoder(queries, documents, card.doc_template)


def encode_texts(
    encoder: TextEncoder, texts: Sequence[str], cache: EmbeddingCache | None = None
) -> tuple[FloatArray, int]:
    """Vectors of texts, and how many of them the model had to encode. Shape: (texts, dimensions).

    With a cache, repeats are encoded once, and what is done is kept every `_AT_A_TIME` texts, at full size.
    """
    if cache is None:
        return encoder.encode(texts), len(texts)
    encoded = 0

    def encode(missing: list[str]) -> FloatArray:
        nonlocal encoded
        encoded += len(missing)
        return encoder.whole(missing)

    key = encoder.key
    starts = range(0, max(1, len(texts)), _AT_A_TIME)
    parts = [cache.encode_through(key, texts[start : start + _AT_A_TIME], encode) for start in starts]
    return encoder.shortened(parts[0] if len(parts) == 1 else np.concatenate(parts)), encoded


def encode_collection(
    collection: Collection,
    encoder: BiEncoder,
    cache: EmbeddingCache | None = None,
    *,
    splits: Sequence[str] = ("test",),
    progress: Progress = SILENT,
) -> CollectionVectors:
    """Vectors of all documents, as the encoder reads them, and of the judged queries of some splits.

    Raises:
        DataError: the collection has no such split.
    """
    for split in splits:
        if split not in collection.qrels:
            raise DataError(f"{collection.name} has no split {split!r}{did_you_mean(split, collection.qrels)}")
    read = encoder.reads(collection, progress).documents
    start = time.perf_counter()
    documents, new_documents = encode_texts(encoder.documents, read, cache)
    middle = time.perf_counter()
    judged = np.unique(np.concatenate([np.zeros(0, np.int64), *(collection.qrels[split].queries for split in splits)]))
    texts = [collection.query_texts[int(query)] for query in judged]
    vectors, new_queries = encode_texts(encoder.queries, texts, cache)
    end = time.perf_counter()
    cached = 0
    if cache is not None:
        cached = max(0, len(set(read)) - new_documents) + max(0, len(set(texts)) - new_queries)
    progress.note(f"{encoder.queries.name}: {new_documents + new_queries:,} texts encoded, {cached:,} from the cache")
    encoder.documents.tell_cuts("documents encoded now", progress)
    encoder.queries.tell_cuts("queries encoded now", progress)
    rows = {split: np.searchsorted(judged, collection.qrels[split].queries) for split in splits}
    return CollectionVectors(
        documents=documents,
        queries={split: vectors[row] for split, row in rows.items()},
        document_seconds=middle - start,
        query_seconds=end - middle,
        encoded=new_documents + new_queries,
        cached=cached,
    )


def together(collection: Collection, vectors: CollectionVectors, splits: Sequence[str]) -> tuple[IntArray, FloatArray]:
    """Queries of several splits, ascending, with their vectors."""
    queries = np.concatenate([collection.qrels[split].queries for split in splits])
    rows = np.concatenate([vectors.queries[split] for split in splits])
    known, first = np.unique(queries, return_index=True)
    return known, rows[first]


def _plain(root: Path, dtype: str) -> Encoder:
    import torch

    from searchtune.models.encoder import load_encoder

    return load_encoder(root, dtype=getattr(torch, dtype), device=pick_device())


def _tuned(folder: Path, base: str | None, dtype: str) -> Encoder:
    import torch

    from searchtune.models.artifact import load_artifact

    return load_artifact(folder, dtype=getattr(torch, dtype), device=pick_device(), base=base)[0]
