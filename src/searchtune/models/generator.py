"""`CausalLM`: a language model read as a scorer: the logits of a few vocabulary entries after each text.

Only the last hidden state of a text meets the output layer, and only the rows of the entries asked for: for 49,152
entries and 576 dimensions that leaves out a fifth of all work. Texts that begin alike (one instruction and query, many
documents) can have what they share computed once. It knows no prompts and no tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import AutoModelForCausalLM, AutoTokenizer
from transformers.cache_utils import DynamicCache, DynamicLayer

from searchtune.counting import counted
from searchtune.errors import ModelError
from searchtune.models.encoder import Attention, train_adapter
from searchtune.models.fast_llama import FastLlama, LlamaShortcut
from searchtune.models.inputs import Chunk, TokenStore, length_sorted_chunks
from searchtune.models.opening import opening
from searchtune.models.precision import warn_of_slow
from searchtune.models.prefixes import SharedTexts, find_shared, parts
from searchtune.models.quantisation import Quantise, keep_trainable, nf4_options
from searchtune.models.quiet import quiet
from searchtune.models.stack import attention_option, check_whole
from searchtune.types import FloatArray, IntArray

_SAME = {torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""By how much of the largest logit the two ways of computing them may differ, by type; 1e-3 in others."""


@dataclass(frozen=True)
class Prefix:
    """What attention keeps of texts that stand before others: one for all of these, or one for each.

    Shape: keys and values of each layer (texts, heads, tokens, dim of a head); mask (texts, tokens), 0 for padding.
    """

    layers: list[tuple[Tensor, Tensor]]
    mask: Tensor

    @property
    def tokens(self) -> int:
        """Of the longest text."""
        return int(self.mask.shape[1])

    def of(self, texts: Tensor) -> Prefix:
        """The prefixes of the given texts, in their order. Shape: (other texts,)."""
        return Prefix([(keys[texts], values[texts]) for keys, values in self.layers], self.mask[texts])

    def cache(self, texts: int) -> DynamicCache:
        """A cache that holds this before each of `texts` texts."""
        return DynamicCache([(k.expand(texts, -1, -1, -1), v.expand(texts, -1, -1, -1)) for k, v in self.layers])


class CausalLM(nn.Module):
    """A decoder with its output layer. `backbone` is the whole model, which peft and vLLM know by the same names.

    `forward` takes all chunks of a batch at once, so that a distributed wrapper sees one forward pass a step.
    """

    def __init__(self, backbone: Any, tokenizer: Any) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self._fast = LlamaShortcut()

    @property
    def device(self) -> torch.device:
        device: torch.device = next(self.backbone.parameters()).device
        return device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the frozen weights that are not in 4 bits, in which activations flow."""
        dtype: torch.dtype = next(
            p.dtype for p in self.backbone.parameters() if not p.requires_grad and p.is_floating_point()
        )
        return dtype

    @cached_property
    def positioned(self) -> bool:
        """Whether positions are told to the model; where not, it finds them from the mask."""
        return "position_ids" in signature(self.backbone.get_decoder().forward).parameters

    @property
    def fast(self) -> FastLlama | None:
        """The quick way to last hidden states on a CPU, without gradients; None for models that it does not know."""
        return self._fast.of(self.backbone)

    @property
    def shares_prefixes(self) -> bool:
        """Whether every layer attends to all that came before: then keys and values are all that a prefix leaves."""
        cache = DynamicCache(config=self.backbone.config)
        return all(type(layer) is DynamicLayer for layer in cache.layers)

    def train(self, mode: bool = True) -> CausalLM:
        """Only an adapter's own dropout follows `mode`: the frozen base never drops anything."""
        super().train(mode)
        train_adapter(self.backbone, mode)
        return self

    def forward(self, chunks: Sequence[Chunk], token_ids: Sequence[int], recompute: bool = False) -> Tensor:
        """`last_logits` of all texts of all chunks, in their order.

        With `recompute`, each chunk is run again in the backward pass instead of keeping its activations.

        Shape: (texts, len(token_ids)) float32.
        """
        if recompute and torch.is_grad_enabled():
            return torch.cat([checkpoint(self.last_logits, chunk, token_ids, use_reentrant=False) for chunk in chunks])
        return torch.cat([self.last_logits(chunk, token_ids) for chunk in chunks])

    def last_logits(
        self,
        chunk: Chunk,
        token_ids: Sequence[int],
        prefix: Prefix | None = None,
        *,
        normalised: bool = False,
    ) -> Tensor:
        """Logits of the given vocabulary entries at each text's last token; `prefix` stands before every text.

        With `normalised` they are log-probabilities among all entries.

        Shape: (texts, len(token_ids)) float32.
        """
        texts = len(chunk.mask)
        states = self._states(chunk, None if prefix is None else prefix.cache(texts), prefix)
        last = states[torch.arange(texts, device=states.device), chunk.mask.sum(1) - 1]  # (texts, dim)
        return self._read_out(last, token_ids, normalised)

    def _read_out(self, last: Tensor, token_ids: Sequence[int], normalised: bool) -> Tensor:
        logits = self.entry_logits(last, token_ids)
        return logits - self.entry_logits(last).logsumexp(1, keepdim=True) if normalised else logits

    def read_prefix(self, ids: IntArray) -> Prefix:
        """Read the tokens that stand before many texts, once. Shape: ids (tokens,), at least one."""
        tokens = torch.from_numpy(np.asarray(ids, dtype=np.int64))[None].to(self.device)
        return self.read_prefixes(Chunk(mask=torch.ones_like(tokens), ids=tokens))

    def read_prefixes(self, chunk: Chunk, prefix: Prefix | None = None) -> Prefix:
        """Read several texts, each of which stands before others; `prefix` stands before all of them."""
        texts = len(chunk.mask)
        cache: Any = DynamicCache(config=self.backbone.config) if prefix is None else prefix.cache(texts)
        self._states(chunk, cache, prefix)
        mask = chunk.mask if prefix is None else torch.cat([prefix.mask.expand(texts, -1), chunk.mask], dim=1)
        return Prefix([(layer.keys, layer.values) for layer in cache.layers], mask)

    def _states(self, chunk: Chunk, cache: Any, prefix: Prefix | None) -> Tensor:
        """Last hidden states. Shape: (texts, tokens, dim)."""
        mask, options = chunk.mask, {}
        if prefix is not None:
            mask = torch.cat([prefix.mask.expand(len(mask), -1), mask], dim=1)  # (texts, prefix + tokens)
        if prefix is not None and self.positioned:  # padding between prefix and text takes no position
            options["position_ids"] = (mask.cumsum(1) - 1)[:, prefix.tokens :]
        states: Tensor = (
            self.backbone.get_decoder()(
                input_ids=chunk.ids,
                attention_mask=mask,
                past_key_values=cache,
                use_cache=cache is not None,
                **options,
            )
        ).last_hidden_state
        return states

    @torch.no_grad()
    def score_store(
        self,
        store: TokenStore,
        token_ids: Sequence[int],
        texts: IntArray | None = None,
        *,
        groups: IntArray | None = None,
        tokens_per_chunk: int = 8192,
        normalised: bool = False,
    ) -> FloatArray:
        """`last_logits` of the texts of a store, or of some of them.

        `groups` gives each of these texts a number. What all texts begin with is then computed once, and after it what
        the texts of one number, such as the documents of one query, begin with. The tokens run are the same, so only
        rounding differs. A chunk holds at most `tokens_per_chunk` tokens, those of prefixes included. On a CPU
        `fast_llama` reads the models that it knows.

        Shape: groups (texts,) -> (texts, len(token_ids)).

        Raises:
            ModelError: a text without tokens, or an entry that is not in the vocabulary.
        """
        texts = np.arange(len(store.lengths)) if texts is None else np.asarray(texts, dtype=np.int64)
        self._check(store, token_ids, texts)
        result = np.zeros((len(texts), len(token_ids)), dtype=np.float32)
        shared = SharedTexts(0, [], np.arange(len(texts)))
        if groups is not None and self.shares_prefixes:
            shared = find_shared(store, texts, np.asarray(groups), tokens_per_chunk)

        def score(places: IntArray, rests: TokenStore, prefix: Prefix | None, group: Tensor | None) -> None:
            beside = prefix.tokens if prefix else 0
            for rows in length_sorted_chunks(rests.lengths, tokens_per_chunk, beside=beside):
                before = prefix.of(group[rows]) if prefix and group is not None else prefix
                logits = self.last_logits(rests.chunk(rows, self.device), token_ids, before, normalised=normalised)
                result[places[rows]] = logits.cpu().numpy()

        with evaluating(self):
            fast = self.fast
            if fast is not None:
                states = fast.last_states(store, texts, shared, tokens_per_chunk)
                for places, last in counted(states, len(texts), lambda one: len(one[0])):
                    result[places] = self._read_out(last, token_ids, normalised).cpu().numpy()
                return result
            top = self.read_prefix(store.ids[store.offsets[texts[0]] :][: shared.top]) if shared.top else None
            for heads in counted(shared.windows, len(texts), lambda one: len(one.places)):
                prefix = self.read_prefixes(heads.store.chunk(np.arange(len(heads.store.lengths)), self.device), top)
                rests = parts(store, texts[heads.places], shared.top + heads.store.lengths[heads.group])
                score(heads.places, rests, prefix, torch.from_numpy(heads.group).to(self.device))
            score(shared.alone, parts(store, texts[shared.alone], shared.top), top, None)
        return result

    def _check(self, store: TokenStore, token_ids: Sequence[int], texts: IntArray) -> None:
        size = int(self.backbone.get_input_embeddings().weight.shape[0])
        wrong = [token for token in token_ids if not 0 <= token < size]
        if wrong:
            raise ModelError(f"vocabulary entry {wrong[0]} is not in the vocabulary: it has 0 to {size - 1}")
        empty = texts[store.lengths[texts] == 0]
        if len(empty):
            raise ModelError(f"text {int(empty[0])} has no tokens, so nothing comes after it; give every text a prompt")

    def entry_logits(self, states: Tensor, token_ids: Sequence[int] | None = None) -> Tensor:
        """Logits of the given vocabulary entries, or of all, from last hidden states.

        Shape: states (texts, dim) -> (texts, len(token_ids)) float32.
        """
        head: Any = self.backbone.get_output_embeddings()
        if token_ids is None:
            logits: Tensor = head(states).float()
        elif type(head) is nn.Linear:  # adapted or quantised, it has no plain rows to take
            rows = torch.as_tensor(token_ids, dtype=torch.int64, device=states.device)
            bias: Tensor | None = getattr(head, "bias", None)
            logits = nn.functional.linear(
                states.float(), head.weight[rows].float(), None if bias is None else bias[rows].float()
            )
        else:
            logits = head(states)[:, list(token_ids)].float()
        return self.finished(logits)

    @property
    def logit_scale(self) -> float:
        """What the output layer's products are multiplied by."""
        config = self.backbone.config.get_text_config(decoder=True)
        scale = getattr(config, "logit_scale", None) or 1.0  # Cohere
        return float(scale / (getattr(config, "logits_scaling", None) or 1.0))  # Granite

    @property
    def logit_cap(self) -> float | None:
        """Where logits are bent off, if at all (Gemma)."""
        cap: float | None = getattr(self.backbone.config.get_text_config(decoder=True), "final_logit_softcapping", None)
        return cap

    def finished(self, logits: Tensor) -> Tensor:
        """Logits from the output layer's products: scaled and capped as the architecture asks."""
        logits = logits * self.logit_scale
        cap = self.logit_cap
        return logits if cap is None else torch.tanh(logits / cap) * cap


@contextmanager
def evaluating(model: CausalLM) -> Iterator[None]:
    """Without dropout, and with the fused attention kernel where the architecture has it; then as it was before."""
    config, training = model.backbone.config, model.training
    before = config._attn_implementation
    if model.backbone._supports_sdpa:
        config._attn_implementation = "sdpa"
    model.eval()
    try:
        yield
    finally:
        config._attn_implementation = before
        model.train(training)


@quiet()
def load_causal_lm(
    folder: Path,
    *,
    dtype: torch.dtype,
    device: torch.device,
    quantise: Quantise = "none",
    attention: Attention = "sdpa",
) -> CausalLM:
    """The base in `folder`, frozen, on `device`; with `nf4` its layers in 4 bits, all else in `dtype`.

    Raises:
        ModelError: the folder cannot be opened as a causal language model, or its logits are computed in a way that
            `CausalLM` does not follow.
        MissingExtraError: `nf4` without bitsandbytes.
    """
    warn_of_slow(dtype, device)
    options: dict[str, Any] = {}
    architecture: Any = AutoModelForCausalLM
    with opening(folder, "transformers cannot open this as a causal language model"):
        if quantise == "nf4":
            options = {"quantization_config": nf4_options(folder, dtype), "device_map": {"": device}}
        backbone, loaded = architecture.from_pretrained(
            folder,
            dtype=dtype,
            trust_remote_code=False,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
            **attention_option(attention),
            **options,
        )
        tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    check_whole(backbone, loaded["missing_keys"], folder)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    if quantise == "nf4":
        keep_trainable(backbone)
    else:
        backbone.to(device)
    backbone.requires_grad_(False).eval()
    model = CausalLM(backbone, tokenizer).eval()
    _check_logits(model, folder)
    return model


@torch.no_grad()
def _check_logits(model: CausalLM, folder: Path) -> None:
    """Compare `last_logits` with the whole model's on a few tokens: some architectures do more after the last layer."""
    vocabulary = int(model.backbone.get_input_embeddings().weight.shape[0])
    ids = torch.arange(1, 9, device=model.device)[None] % vocabulary
    entries = list(range(0, vocabulary, max(1, vocabulary // 16)))
    whole = model.backbone(input_ids=ids).logits[0, -1, entries].float()
    ours = model.last_logits(Chunk(mask=torch.ones_like(ids), ids=ids), entries)[0]
    difference = float((whole - ours).abs().max() / whole.abs().max().clamp(min=1e-6))
    if not difference <= _SAME.get(model.dtype, 1e-3):
        raise ModelError(
            f"{folder}: the logits of {type(model.backbone).__name__} are not those of its output layer alone (they "
            f"differ by {difference:.2g} of the largest): this architecture is not supported; choose another base"
        )
