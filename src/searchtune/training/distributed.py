"""Sharing one global batch between processes so that its loss is the loss of one process.

Every process draws the same global batch, encodes its own contiguous share, and sees the vectors of all; only its own
rows carry gradients, and accelerate's wrapper averages gradients over processes. Gradients of own rows are therefore
multiplied by the number of processes, and each parameter gets the gradient that one process would have computed.
"""

from __future__ import annotations

import numpy as np
import torch
from accelerate import PartialState
from torch import Tensor

from searchtune.types import IntArray


def own_share(items: IntArray) -> IntArray:
    """This process's part of the items of a global batch."""
    state = PartialState()
    share: IntArray = np.array_split(items, state.num_processes)[state.process_index]
    return share


def gather_rows(rows: Tensor, total: int) -> Tensor:
    """The rows of all processes in the order of the global batch; those of this process keep their gradient.

    Shape: rows (own, dim) -> (total, dim), where `rows` are those of `own_share(np.arange(total))`.
    """
    state = PartialState()
    if state.num_processes == 1:
        return rows
    sizes = [len(part) for part in np.array_split(np.arange(total), state.num_processes)]
    padded = torch.zeros((max(sizes), rows.shape[1]), dtype=rows.dtype, device=rows.device)
    padded[: len(rows)] = rows.detach()
    gathered = [torch.empty_like(padded) for _ in sizes]
    torch.distributed.all_gather(gathered, padded)
    parts = [part[:size] for part, size in zip(gathered, sizes, strict=True)]
    parts[state.process_index] = rows + (state.num_processes - 1) * (rows - rows.detach())
    return torch.cat(parts)


def processes() -> int:
    """How many processes train together."""
    return int(PartialState().num_processes)
