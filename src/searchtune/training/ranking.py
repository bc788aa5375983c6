"""The objective of a reranker: a loss over groups of one query with relevant documents and negatives.

All pairs of a batch are scored together, in chunks sorted by length across queries. This module does not know where
groups or texts came from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.data.groups import Groups, GroupSampler, batches
from searchtune.errors import ConfigError
from searchtune.models.inputs import length_sorted_chunks
from searchtune.models.pairs import PairStore
from searchtune.models.reranker import Reranker
from searchtune.specs.rerank import RankingObjective as RankingSpec
from searchtune.training.distributed import gather_rows, own_share, processes
from searchtune.training.ranking_losses import (
    graded_regression,
    kl_distillation,
    lambda_loss,
    listwise_softmax,
    margin_mse,
    pad_groups,
    pairwise_margin,
    pointwise_bce,
)
from searchtune.types import IntArray

_BY_LABEL: dict[str, Callable[[Tensor, Tensor, Tensor], Tensor]] = {
    "bce": pointwise_bce,
    "regression": graded_regression,
    "margin": pairwise_margin,
    "softmax": listwise_softmax,
    "lambda": lambda_loss,
}


class GroupRanking:
    """Groups of documents, scored by a reranker, under the loss that the recipe names."""

    def __init__(
        self,
        reranker: Reranker,
        store: PairStore,
        sampler: GroupSampler,
        spec: RankingSpec,
        *,
        batch_size: int,
        tokens_per_chunk: int,
        recompute: bool | None = None,
    ) -> None:
        """`recompute` None scores again in the backward pass where a batch is longer than one chunk."""
        if batch_size < processes():
            raise ConfigError(f"optim.batch_size is {batch_size}, but {processes()} processes need a group each")
        self.trainable: nn.Module = reranker
        self.store, self.sampler, self.spec = store, sampler, spec
        self.batch_size, self.tokens_per_chunk, self.recompute = batch_size, tokens_per_chunk, recompute
        self.device = reranker.device

    def steps_per_epoch(self) -> int:
        return -(-len(self.sampler) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[Groups]:
        return batches(self.sampler.epoch(epoch), self.batch_size)

    def loss(self, batch: Groups) -> Tensor:
        scores = self.scores(batch.row_queries, batch.docs)
        offsets = torch.from_numpy(batch.offsets).to(self.device)
        padded, mask = pad_groups(scores, offsets)  # (groups, width)
        given = batch.labels if batch.teacher is None else batch.teacher
        targets, _ = pad_groups(torch.from_numpy(given).to(self.device), offsets)
        if self.spec.name == "margin-mse":
            return margin_mse(padded, targets, mask)
        if self.spec.name == "kl":
            return kl_distillation(padded, targets, mask, temperature=self.spec.temperature)
        return _BY_LABEL[self.spec.name](padded / self.spec.temperature, targets, mask)

    def scores(self, queries: IntArray, documents: IntArray) -> Tensor:
        """Scores of pairs, over all processes. Shape: (pairs,) all."""
        own = own_share(np.arange(len(queries)))
        lengths = self.store.lengths(queries[own], documents[own])
        groups = list(length_sorted_chunks(lengths, self.tokens_per_chunk))
        recompute = self.recompute if self.recompute is not None else int(lengths.sum()) > self.tokens_per_chunk
        chunks = [self.store.chunk(queries[own[rows]], documents[own[rows]], self.device) for rows in groups]
        scores = self.trainable(chunks, recompute=recompute)
        order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
        return gather_rows(scores[order][:, None], len(queries))[:, 0]
