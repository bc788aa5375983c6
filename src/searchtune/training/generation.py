"""Learning to write: cross-entropy of completion tokens after their prompts."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.errors import DataError
from searchtune.models.chat import CompletionStore
from searchtune.models.completions import CompletionReader, completion_chunk
from searchtune.models.generator import CausalLM
from searchtune.models.inputs import length_sorted_chunks
from searchtune.training.distributed import gather_rows, own_share
from searchtune.training.labels import check_batch, shuffled_batches
from searchtune.types import FloatArray, IntArray


class CompletionWriting:
    """Mean negative log-likelihood over the completion tokens of a batch, end of turn included.

    Each token counts alike, so a long completion counts more than a short one; prompts do not count. With `weights`,
    each token of example i counts `weights[i]` times, so that a one-word reply can hold its own among long ones.
    """

    def __init__(
        self,
        model: CausalLM,
        examples: CompletionStore,
        *,
        batch_size: int,
        tokens_per_chunk: int,
        seed: int,
        recompute: bool | None = None,
        weights: FloatArray | None = None,
    ) -> None:
        """`recompute` None reads again in the backward pass where a batch is longer than one chunk.

        Shape: weights (examples,), above 0.
        """
        check_batch(batch_size)
        check_completions(examples)
        self._weights = _checked(weights, len(examples.prompts))
        self.trainable: nn.Module = CompletionReader(model)
        self.examples, self.device = examples, model.device
        self.batch_size, self.tokens_per_chunk, self.recompute = batch_size, tokens_per_chunk, recompute
        self.seed = seed

    def steps_per_epoch(self) -> int:
        return -(-len(self.examples.prompts) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[IntArray]:
        """Positions of examples, drawn anew in each epoch."""
        return shuffled_batches(len(self.examples.prompts), self.batch_size, (self.seed, epoch))

    def loss(self, batch: IntArray) -> Tensor:
        own = own_share(batch)
        found = read_texts(
            self.trainable, self.examples, own, tokens_per_chunk=self.tokens_per_chunk, recompute=self.recompute
        )
        logprobs = gather_rows(found[:, None], len(batch))[:, 0]  # (examples,)
        tokens = (self.examples.tokens.lengths - self.examples.prompts)[batch]
        weights = self._weights[batch]
        return -(logprobs * torch.from_numpy(weights).to(logprobs.device)).sum() / float((weights * tokens).sum())


def read_texts(
    module: nn.Module, store: CompletionStore, texts: IntArray, *, tokens_per_chunk: int, recompute: bool | None
) -> Tensor:
    """Log-probabilities of the completions of some texts by one forward pass of `module`. Shape: (texts,)."""
    lengths, device = store.tokens.lengths[texts], next(module.parameters()).device
    groups = list(length_sorted_chunks(lengths, tokens_per_chunk))
    again = recompute if recompute is not None else int(lengths.sum()) > tokens_per_chunk
    chunks = [completion_chunk(store, texts[rows], device) for rows in groups]
    found: Tensor = module(chunks, recompute=again)
    return found[torch.from_numpy(np.argsort(np.concatenate(groups))).to(device)]


def _checked(weights: FloatArray | None, count: int) -> FloatArray:
    """The weights of so many examples, 1 for each where none are given."""
    if weights is None:
        return np.ones(count, dtype=np.float32)
    if weights.shape != (count,):
        raise DataError(f"weights of shape {weights.shape} for {count} examples")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(bad):
        raise DataError(f"example {int(bad[0])}: weight {weights[bad[0]]} is not above 0; leave the example out")
    return weights.astype(np.float32)


def check_completions(store: CompletionStore) -> None:
    """Raise a `DataError` for an example whose prompt or completion has no token."""
    for what, sizes in (("prompt", store.prompts), ("completion", store.tokens.lengths - store.prompts)):
        empty = np.flatnonzero(sizes < 1)
        if len(empty):
            raise DataError(f"example {int(empty[0])}: its {what} has no tokens")
