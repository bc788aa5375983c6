"""Random texts for tests of training language models."""

from __future__ import annotations

import numpy as np
import torch

from searchtune.models.inputs import TokenStore

CPU = torch.device("cpu")


def random_store(count: int, *, seed: int = 0, shortest: int = 2) -> TokenStore:
    """Texts of `shortest` to 20 tokens; the first is the shortest."""
    rng = np.random.default_rng(seed)
    lengths = np.concatenate(([shortest], rng.integers(max(1, shortest), 21, size=count - 1)))
    return TokenStore(rng.integers(5, 100, size=lengths.sum()), np.concatenate(([0], np.cumsum(lengths))), 0)
