"""Learning from preferences: the chosen reply shall gain on the rejected one, measured from the untrained model.

Direct preference optimisation (Rafailov et al. 2023, arXiv:2305.18290). The reference is the same model with its
adapter switched off, so no second copy of it is held; since the data is fixed, it is asked once, before training.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from searchtune.errors import DataError
from searchtune.models.adapters import Adapter, without_adapter
from searchtune.models.chat import CompletionStore, ExampleStore
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM
from searchtune.models.inputs import TokenStore
from searchtune.training.distributed import gather_rows, own_share
from searchtune.training.generation import check_completions, read_texts
from searchtune.training.labels import check_batch, shuffled_batches
from searchtune.types import FloatArray, IntArray


@dataclass(frozen=True)
class PreferenceOptions:
    """How preferences are learned."""

    beta: float = 0.1
    """How strongly the model is held to the reference: the larger, the closer."""
    label_smoothing: float = 0.0
    """The share of pairs that are taken to be labelled the wrong way round (Mitchell 2023, conservative DPO)."""
    sft_weight: float = 0.0
    """Weight of the chosen completion's mean negative log-likelihood (Pang et al. 2024, arXiv:2404.19733)."""


def preference_loss(margins: Tensor, options: PreferenceOptions) -> Tensor:
    """Mean loss of pairs.

    Shape: margins (pairs,), log pi(chosen)/ref(chosen) less log pi(rejected)/ref(rejected) -> ().
    """
    right = nn.functional.logsigmoid(options.beta * margins)
    wrong = nn.functional.logsigmoid(-options.beta * margins)
    return -((1 - options.label_smoothing) * right + options.label_smoothing * wrong).mean()


class PairPreference:
    """Preference pairs under DPO, with a share of plain likelihood of the chosen reply where that is asked."""

    def __init__(
        self,
        model: CausalLM,
        examples: ExampleStore,
        reference: FloatArray,
        options: PreferenceOptions,
        *,
        batch_size: int,
        tokens_per_chunk: int,
        seed: int,
    ) -> None:
        """`reference` is what `reference_logprobs` gave for these examples. Shape: (pairs, 2).

        A batch longer than one chunk is read again in the backward pass.

        Raises:
            DataError: examples without rejected completions, or a reference of another shape or not finite.
        """
        check_batch(batch_size)
        self.store, self.pairs = pair_texts(examples)
        if reference.shape != (self.pairs, 2) or not np.isfinite(reference).all():
            raise DataError(f"reference of shape {reference.shape} for {self.pairs} pairs, or not finite")
        self.trainable: nn.Module = CompletionReader(model)
        self.options, self.device = options, model.device
        self.batch_size, self.tokens_per_chunk, self.seed = batch_size, tokens_per_chunk, seed
        self._reference = torch.from_numpy(reference)
        chosen = (self.store.tokens.lengths - self.store.prompts)[: self.pairs]
        self._tokens = torch.from_numpy(chosen.astype(np.float32))

    def steps_per_epoch(self) -> int:
        return -(-self.pairs // self.batch_size)

    def batches(self, epoch: int) -> Iterator[IntArray]:
        """Positions of pairs, drawn anew in each epoch."""
        return shuffled_batches(self.pairs, self.batch_size, (self.seed, epoch))

    def loss(self, batch: IntArray) -> Tensor:
        logprobs = self.logprobs(batch)  # (pairs, 2)
        rows = torch.from_numpy(batch)
        gains = logprobs - self._reference[rows].to(logprobs.device)
        loss = preference_loss(gains[:, 0] - gains[:, 1], self.options)
        if self.options.sft_weight:
            loss = loss - self.options.sft_weight * (logprobs[:, 0] / self._tokens[rows].to(logprobs.device)).mean()
        return loss

    def logprobs(self, batch: IntArray) -> Tensor:
        """Log-probabilities of chosen and rejected completions, over all processes. Shape: (pairs, 2)."""
        own = own_share(batch)
        texts = np.concatenate([own, own + self.pairs])
        found = read_texts(self.trainable, self.store, texts, tokens_per_chunk=self.tokens_per_chunk, recompute=None)
        return gather_rows(found.reshape(2, len(own)).T, len(batch))


def pair_texts(examples: ExampleStore) -> tuple[CompletionStore, int]:
    """All chosen texts, then all rejected ones, in one store; and how many pairs there are.

    Raises:
        DataError: the examples have no rejected completions.
    """
    if examples.rejected is None:
        raise DataError("preference training takes examples with a rejected completion each, and these have none")
    sides = (examples.chosen, examples.rejected)
    joined = CompletionStore(
        TokenStore.joined([side.tokens for side in sides]), np.concatenate([side.prompts for side in sides])
    )
    check_completions(joined)
    return joined, len(examples.chosen.prompts)


def reference_logprobs(
    model: CausalLM, adapter: Adapter, examples: ExampleStore, *, tokens_per_chunk: int = 8192
) -> FloatArray:
    """What the model without its adapter makes of each pair, float32. Shape: (pairs, 2), chosen before rejected."""
    store, pairs = pair_texts(examples)
    with without_adapter(adapter):
        found = CompletionReader(model).read_store(store, tokens_per_chunk=tokens_per_chunk)
    return np.ascontiguousarray(found.reshape(2, pairs).T)
