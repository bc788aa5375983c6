"""Learning to read a label from a prompt: cross-entropy of the next token, taken among the label tokens alone.

What the model would say beside a label plays no part, in training as at inference, where grades are read from the same
few logits; so only those rows of the output layer are computed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.errors import ConfigError, DataError
from searchtune.models.generator import CausalLM
from searchtune.models.inputs import TokenStore, length_sorted_chunks
from searchtune.training.distributed import gather_rows, own_share, processes
from searchtune.types import FloatArray, IntArray

_SUM_TO_ONE = 1e-3
"""By how much a target distribution may miss a sum of 1; it is made exact."""


@dataclass(frozen=True, eq=False)
class LabelExamples:
    """Prompts and which label shall follow each.

    Shape: prompts of n texts; labels: token ids; targets (n, labels), rows that sum to 1; weights (n,) above 0.

    Raises:
        DataError: shapes that do not fit, an empty prompt, or a row or weight out of range.
    """

    prompts: TokenStore
    labels: Sequence[int]
    targets: FloatArray
    weights: FloatArray | None = None
    """How much each example counts, relative to their mean; None counts all alike."""

    def __post_init__(self) -> None:
        count = len(self.prompts.lengths)
        if self.targets.shape != (count, len(self.labels)):
            raise DataError(f"targets of shape {self.targets.shape} for {count} prompts and {len(self.labels)} labels")
        if len(set(self.labels)) != len(self.labels):
            raise DataError(f"label tokens {list(self.labels)} repeat; each label needs a token of its own")
        off = ~(np.abs(self.targets.sum(1) - 1) <= _SUM_TO_ONE) | ~(self.targets >= 0).all(1)
        if off.any():
            row = int(np.argmax(off))
            raise DataError(f"example {row}: its target {self.targets[row].tolist()} is no distribution over labels")
        if (self.prompts.lengths == 0).any():
            raise DataError(f"example {int(np.argmin(self.prompts.lengths))}: its prompt has no tokens")
        if self.weights is not None:
            if self.weights.shape != (count,):
                raise DataError(f"weights of shape {self.weights.shape} for {count} prompts")
            bad = ~(np.isfinite(self.weights) & (self.weights > 0))
            if bad.any():
                row = int(np.argmax(bad))
                raise DataError(f"example {row}: weight {self.weights[row]} is not above 0; leave the example out")


class LabelReading:
    """Cross-entropy between target distributions and the softmax over label tokens alone.

    The loss of a batch is the mean of weight x cross-entropy, weights scaled to a mean of 1 over all examples.
    """

    def __init__(
        self,
        model: CausalLM,
        examples: LabelExamples,
        *,
        batch_size: int,
        tokens_per_chunk: int,
        seed: int,
        recompute: bool | None = None,
    ) -> None:
        """`recompute` None reads again in the backward pass where a batch is longer than one chunk."""
        check_batch(batch_size)
        self.trainable: nn.Module = model
        self.examples, self.device = examples, model.device
        self.batch_size, self.tokens_per_chunk, self.recompute = batch_size, tokens_per_chunk, recompute
        self.seed = seed
        count = len(examples.targets)
        weights = np.ones(count) if examples.weights is None else examples.weights.astype(np.float64)
        self._weights = torch.from_numpy(weights / weights.mean() if count else weights).float()
        targets = examples.targets.astype(np.float64)
        self._targets = torch.from_numpy(targets / targets.sum(1, keepdims=True)).float()

    def steps_per_epoch(self) -> int:
        return -(-len(self.examples.targets) // self.batch_size)

    def batches(self, epoch: int) -> Iterator[IntArray]:
        """Positions of examples, drawn anew in each epoch."""
        return shuffled_batches(len(self.examples.targets), self.batch_size, (self.seed, epoch))

    def loss(self, batch: IntArray) -> Tensor:
        logits = self.logits(batch)  # (examples, labels)
        rows = torch.from_numpy(batch)
        targets, weights = self._targets[rows].to(logits.device), self._weights[rows].to(logits.device)
        return (weights * -(targets * logits.log_softmax(1)).sum(1)).mean()

    def logits(self, batch: IntArray) -> Tensor:
        """Logits of the labels after each prompt, over all processes. Shape: (examples, labels)."""
        own = own_share(batch)
        lengths = self.examples.prompts.lengths[own]
        groups = list(length_sorted_chunks(lengths, self.tokens_per_chunk))
        recompute = self.recompute if self.recompute is not None else int(lengths.sum()) > self.tokens_per_chunk
        chunks = [self.examples.prompts.chunk(own[rows], self.device) for rows in groups]
        logits = self.trainable(chunks, self.examples.labels, recompute=recompute)
        order = torch.from_numpy(np.argsort(np.concatenate(groups))).to(self.device)
        return gather_rows(logits[order], len(batch))


def check_batch(batch_size: int) -> None:
    """Raise a `ConfigError` where a batch has fewer examples than there are processes."""
    if batch_size < processes():
        raise ConfigError(f"optim.batch_size is {batch_size}, but {processes()} processes need an example each")


def shuffled_batches(count: int, batch_size: int, seed: tuple[int, ...]) -> Iterator[IntArray]:
    """Positions 0 to `count` - 1 in an order drawn from `seed`, so many at a time; the last batch may be smaller.

    A last batch with fewer examples than there are processes repeats them, so that each process has one.
    """
    order = np.random.default_rng(seed).permutation(count)
    for start in range(0, count, batch_size):
        batch = order[start : start + batch_size]
        yield np.resize(batch, max(len(batch), processes()))
