"""The contrastive objectives of a bi-encoder: InfoNCE over the batch, or over document vectors that stay as they are.

Texts come from one store: queries first, then documents, so that a batch's queries and documents share
length-sorted chunks. This module does not know where texts, vectors or negatives came from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.data.examples import KnownRelevance, epoch_pairs, pairs_in_epoch
from searchtune.errors import ConfigError
from searchtune.models.encoder import Encoder
from searchtune.models.inputs import Store, length_sorted_chunks
from searchtune.specs.recipe import ContrastiveObjective as ContrastiveSpec
from searchtune.training.distributed import gather_rows, own_share, processes
from searchtune.types import FloatArray, IntArray, Qrels


@dataclass(frozen=True)
class Pairs:
    """What there is to learn from: positives, what is known to be relevant, and mined negatives by query."""

    relevant: Qrels
    known: KnownRelevance
    negatives: Mapping[int, IntArray] = field(default_factory=dict)


@dataclass(frozen=True)
class PairBatch:
    """Positions of one global batch. Shape: queries (pairs,), docs (pairs,), negatives (any,)."""

    queries: IntArray
    docs: IntArray
    negatives: IntArray


@dataclass(frozen=True)
class Texts:
    """The store of all texts: row `q` is query `q`, row `queries + d` is document `d`."""

    store: Store
    queries: int
    tokens_per_chunk: int
    recompute: bool | None = None
    """Gradient caching on or off; None switches it on for batches of more than one chunk's tokens."""


class _PairSampler:
    """Draws the same batches for the same (seed, epoch), in any process, at any time."""

    def __init__(self, pairs: Pairs, spec: ContrastiveSpec, *, batch_size: int, seed: int) -> None:
        if batch_size < processes():
            raise ConfigError(f"optim.batch_size is {batch_size}, but {processes()} processes need a pair each")
        self.pairs = pairs
        self.spec = spec
        self.batch_size = batch_size
        self.seed = seed

    def steps_per_epoch(self) -> int:
        """Batches in one epoch; a last one too small to hold a negative, or a row for every process, is left out."""
        total = pairs_in_epoch(self.pairs.relevant, self.spec.positives_per_query)
        rest = total % self.batch_size
        return total // self.batch_size + (rest >= max(2, processes()))

    def batches(self, epoch: int) -> Iterator[PairBatch]:
        rng = np.random.default_rng((self.seed, epoch))
        queries, docs = epoch_pairs(self.pairs.relevant, self.spec.positives_per_query, rng)
        for step in range(self.steps_per_epoch()):
            part = slice(step * self.batch_size, (step + 1) * self.batch_size)
            yield PairBatch(queries[part], docs[part], self._negatives(queries[part], rng))

    def _negatives(self, queries: IntArray, rng: np.random.Generator) -> IntArray:
        wanted = self.spec.hard_negatives.per_query
        if not wanted:
            return np.zeros(0, dtype=np.int64)
        pools = [self.pairs.negatives.get(int(query), np.zeros(0, dtype=np.int64)) for query in queries]
        drawn = [rng.choice(pool, size=min(wanted, len(pool)), replace=False) for pool in pools]
        return np.unique(np.concatenate(drawn).astype(np.int64))


class InBatchContrastive(_PairSampler):
    """InfoNCE where every other document of the batch is a negative unless it is known to be relevant."""

    def __init__(
        self, encoder: Encoder, texts: Texts, pairs: Pairs, spec: ContrastiveSpec, *, batch_size: int, seed: int
    ) -> None:
        super().__init__(pairs, spec, batch_size=batch_size, seed=seed)
        self.trainable: nn.Module = encoder
        self.texts = texts
        self.device = encoder.device

    def loss(self, batch: PairBatch) -> Tensor:
        docs = np.concatenate([batch.docs, batch.negatives])
        rows = np.concatenate([batch.queries, self.texts.queries + docs])
        vectors = encode_rows(self.trainable, self.texts, rows, self.device)
        known = torch.from_numpy(self.pairs.known.mask(batch.queries, docs)).to(self.device)
        queries, documents = vectors[: len(batch.queries)], vectors[len(batch.queries) :]
        return contrastive_loss(queries, documents, known, self.spec)


class FixedDocumentContrastive(_PairSampler):
    """InfoNCE for the query side alone, over document vectors that stay as they are: the index needs no rebuilding."""

    def __init__(
        self,
        encoder: Encoder,
        texts: Texts,
        pairs: Pairs,
        spec: ContrastiveSpec,
        *,
        documents: IntArray,
        vectors: FloatArray,
        batch_size: int,
        seed: int,
    ) -> None:
        """`documents` are the candidates, ascending, with every positive and mined negative, and `vectors` theirs.

        Shape: documents (candidates,), vectors (candidates, dim).
        """
        super().__init__(pairs, spec, batch_size=batch_size, seed=seed)
        self.trainable: nn.Module = encoder
        self.texts = texts
        self.device = encoder.device
        self.documents = documents
        self.vectors = torch.from_numpy(vectors).to(self.device)

    def loss(self, batch: PairBatch) -> Tensor:
        queries = encode_rows(self.trainable, self.texts, batch.queries, self.device)
        docs, vectors = self.documents, self.vectors
        if self.spec.candidates == "batch":
            docs = np.unique(np.concatenate([batch.docs, batch.negatives]))
            vectors = self.vectors[torch.from_numpy(np.searchsorted(self.documents, docs)).to(self.device)]
        known = torch.from_numpy(self.pairs.known.mask(batch.queries, docs)).to(self.device)
        own = torch.from_numpy(np.searchsorted(docs, batch.docs)).to(self.device)
        losses = [
            info_nce(*cut(queries, vectors, size), own, known, self.spec.temperature)
            for size in self.spec.matryoshka or [queries.shape[1]]
        ]
        return torch.stack(losses).mean()


def encode_rows(module: nn.Module, texts: Texts, rows: IntArray, device: torch.device) -> Tensor:
    """Vectors of rows of the store, each distinct row encoded once, over all processes. Shape: (rows, dim)."""
    unique, inverse = np.unique(rows, return_inverse=True)
    if len(unique) < processes():  # every process needs a row of its own
        unique, inverse = rows, np.arange(len(rows))
    own = own_share(unique)
    lengths = texts.store.lengths[own]
    groups = list(length_sorted_chunks(lengths, texts.tokens_per_chunk))
    recompute = texts.recompute if texts.recompute is not None else int(lengths.sum()) > texts.tokens_per_chunk
    vectors = module([texts.store.chunk(own[group], device) for group in groups], recompute=recompute)
    vectors = vectors[torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)]
    return gather_rows(vectors, len(unique))[torch.from_numpy(inverse).to(device)]


def contrastive_loss(queries: Tensor, documents: Tensor, known: Tensor, spec: ContrastiveSpec) -> Tensor:
    """InfoNCE where document `i` belongs to query `i` and further documents are mined negatives.

    Averaged over both directions where `spec.symmetric`, and over vector sizes where `spec.matryoshka`.

    Shape: queries (pairs, dim), documents (pairs + negatives, dim), known (pairs, pairs + negatives) -> ().
    """
    pairs = len(queries)
    own = torch.arange(pairs, device=queries.device)
    losses = []
    for size in spec.matryoshka or [queries.shape[1]]:
        left, right = cut(queries, documents, size)
        loss = info_nce(left, right, own, known, spec.temperature)
        if spec.symmetric:
            loss = (loss + info_nce(right[:pairs], left, own, known[:, :pairs].T, spec.temperature)) / 2
        losses.append(loss)
    return torch.stack(losses).mean()


def info_nce(anchors: Tensor, candidates: Tensor, own: Tensor, known: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy of finding each anchor's own candidate; other candidates known to be relevant are left out.

    Shape: anchors (n, dim), candidates (m, dim), own (n,) places among the candidates, known (n, m) bool -> ().
    """
    scores = anchors @ candidates.T / temperature  # (n, m)
    masked = known.clone()
    masked[torch.arange(len(own), device=own.device), own] = False
    return nn.functional.cross_entropy(scores.masked_fill(masked, float("-inf")), own)


def cut(queries: Tensor, documents: Tensor, size: int) -> tuple[Tensor, Tensor]:
    """Both sides cut to their first `size` components and brought back to unit length."""
    if size >= queries.shape[1]:
        return queries, documents
    return (
        nn.functional.normalize(queries[:, :size], dim=-1),
        nn.functional.normalize(documents[:, :size], dim=-1),
    )
