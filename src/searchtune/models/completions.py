"""How likely a language model finds given replies: the log-probabilities of completion tokens after their prompts.

The output layer meets only the positions that predict a completion token, never those of a prompt: with 150 tokens of
prompt and 5 of completion that is 1 position in 31. Its gradient is formed along with the logits, block by block, so
that no more than one block of logits is in memory and none is computed twice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from searchtune.counting import counted
from searchtune.models.chat import CompletionStore
from searchtune.models.fast_llama import FastLlama
from searchtune.models.generator import CausalLM, evaluating
from searchtune.models.inputs import Chunk, length_sorted_chunks
from searchtune.models.prefixes import find_shared, parts
from searchtune.types import FloatArray, IntArray

_BLOCK = 2**24
"""Logits in memory at once: 64 MiB in float32."""


@dataclass(frozen=True)
class CompletionChunk:
    """Some prompts with their completions, padded. Shape: prompts (texts,), the tokens of each prompt."""

    chunk: Chunk
    prompts: Tensor


def completion_chunk(store: CompletionStore, texts: IntArray, device: torch.device) -> CompletionChunk:
    """The given texts, padded to the longest of them."""
    return CompletionChunk(store.tokens.chunk(texts, device), torch.from_numpy(store.prompts[texts]).to(device))


class CompletionReader(nn.Module):
    """A causal language model whose forward pass gives the log-probability of each completion.

    `forward` takes all chunks of a batch at once, so that a distributed wrapper sees one forward pass a step.
    """

    def __init__(self, model: CausalLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, chunks: Sequence[CompletionChunk], recompute: bool = False) -> Tensor:
        """Log-probability of each text's completion, the sum over its tokens, end of turn included.

        With `recompute`, each chunk is run again in the backward pass instead of keeping its activations.

        Shape: (texts,) float32, 0 or less.
        """
        if recompute and torch.is_grad_enabled():
            return torch.cat([checkpoint(self.logprobs, chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([self.logprobs(chunk) for chunk in chunks])

    def logprobs(self, batch: CompletionChunk) -> Tensor:
        """The same for one chunk. Shape: (texts,) float32."""
        tokens, texts = self.token_logprobs(batch)
        return tokens.new_zeros(len(batch.prompts)).index_add(0, texts, tokens)

    def token_logprobs(self, batch: CompletionChunk) -> tuple[Tensor, Tensor]:
        """Log-probability of each completion token, text after text, and the text that it belongs to.

        Shape: (tokens,) float32 and (tokens,) int64.
        """
        ids: Any = batch.chunk.ids
        mask = batch.chunk.mask
        decoder = self.model.backbone.get_decoder()
        states = decoder(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state
        place = torch.arange(ids.shape[1], device=ids.device)[None]  # (1, tokens)
        predicts = (place >= batch.prompts[:, None] - 1) & (place < mask.sum(1, keepdim=True) - 1)  # (texts, tokens)
        texts, places = predicts.nonzero(as_tuple=True)
        return self._of_tokens(states[texts, places], ids[texts, places + 1]), texts

    @torch.no_grad()
    def read_store(
        self, store: CompletionStore, texts: IntArray | None = None, *, tokens_per_chunk: int = 8192
    ) -> FloatArray:
        """`forward` for many texts, without dropout; what all prompts begin with is read once where that is quicker.

        Shape: (texts,).
        """
        texts = np.arange(len(store.prompts)) if texts is None else np.asarray(texts, dtype=np.int64)
        found = np.zeros(len(texts), dtype=np.float32)
        with evaluating(self.model):
            if self.model.fast is not None and len(texts):
                self._read_fast(self.model.fast, store, texts, tokens_per_chunk, found)
                return found
            for rows in counted(length_sorted_chunks(store.tokens.lengths[texts], tokens_per_chunk), len(texts)):
                chunk = completion_chunk(store, texts[rows], self.model.device)
                found[rows] = self.logprobs(chunk).cpu().numpy()
        return found

    def _read_fast(
        self, fast: FastLlama, store: CompletionStore, texts: IntArray, tokens_per_chunk: int, found: FloatArray
    ) -> None:
        """Fill `found` with the completions' log-probabilities. Shape: (texts,)."""
        lengths, prompts = store.tokens.lengths[texts], store.prompts[texts]
        everyone, tails = np.arange(len(texts)), lengths - prompts
        shared = find_shared(parts(store.tokens, texts, 0, prompts), everyone, np.zeros_like(texts), tokens_per_chunk)
        read = parts(store.tokens, texts, 0, lengths - 1)  # a last token predicts nothing
        replies = parts(store.tokens, texts, prompts)
        last = fast.last_states(read, everyone, shared, tokens_per_chunk, tails)
        for places, states in counted(last, len(texts), lambda one: len(one[0])):
            targets = torch.from_numpy(parts(replies, places, 0).ids)
            owner = torch.from_numpy(np.repeat(np.arange(len(places)), tails[places]))
            tokens = self._of_tokens(states, targets)
            found[places] = tokens.new_zeros(len(places)).index_add(0, owner, tokens).numpy()

    def _of_tokens(self, states: Tensor, targets: Tensor) -> Tensor:
        """Log-probability of each target after its state. Shape: (tokens, dim), (tokens,) -> (tokens,)."""
        head: Any = self.model.backbone.get_output_embeddings()
        size = max(1, _BLOCK // int(self.model.backbone.get_input_embeddings().weight.shape[0]))
        blocks = list(zip(torch.split(states, size), torch.split(targets, size), strict=True))
        if type(head) is nn.Linear and not head.weight.requires_grad and self.model.logit_cap is None:
            bias: Tensor | None = getattr(head, "bias", None)
            scale = self.model.logit_scale
            apply: Callable[..., Tensor] = _FrozenHead.apply
            parts = [apply(state, target, head.weight, bias, scale) for state, target in blocks]
        else:
            again = len(blocks) > 1 and torch.is_grad_enabled()
            parts = [
                checkpoint(self._whole, state, target, use_reentrant=False) if again else self._whole(state, target)
                for state, target in blocks
            ]
        return torch.cat(parts)

    def _whole(self, states: Tensor, targets: Tensor) -> Tensor:
        """The same by way of the whole distribution, for output layers that are adapted, quantised or capped."""
        logits = self.model.finished(self.model.backbone.get_output_embeddings()(states).float())
        return -nn.functional.cross_entropy(logits, targets, reduction="none")


class _FrozenHead(torch.autograd.Function):
    """Log-probabilities from a frozen output layer W; the gradient of each by its own state is kept, and no logits.

    d log p(y) / d state = scale (W[y] - softmax W): as wide as a state. A backward pass only scales it.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        states, targets, weight, bias, scale = args
        logits = nn.functional.linear(states, weight, bias).float()  # (tokens, vocabulary)
        if scale != 1.0:
            logits = logits * scale
        total = logits.logsumexp(1)  # (tokens,)
        found = logits.gather(1, targets[:, None])[:, 0] - total
        if ctx.needs_input_grad[0]:
            shares = logits.sub_(total[:, None]).exp_().to(weight.dtype)
            slopes = weight[targets] - shares @ weight  # (tokens, dim)
            ctx.save_for_backward(slopes if scale == 1.0 else slopes * scale)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (grads[0][:, None] * slopes).to(slopes.dtype), None, None, None, None
