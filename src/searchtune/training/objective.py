"""What the fit loop needs of a trainer: something to train, batches, and a loss."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from torch import Tensor, nn


class Objective(Protocol):
    """One way to train one kind of model. The loop may replace `trainable` by a distributed wrapper around it."""

    trainable: nn.Module

    def steps_per_epoch(self) -> int:
        """Optimiser steps in one epoch; the same for every epoch."""

    def batches(self, epoch: int) -> Iterator[Any]:
        """The global batches of one epoch: the same in every process, and the same whenever asked again."""

    def loss(self, batch: Any) -> Tensor:
        """Mean loss of one global batch. Shape: ()."""
