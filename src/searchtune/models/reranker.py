"""`Reranker`: a model that reads a query and a document together and gives one score.

Two heads: that of a cross-encoder (a sequence classifier with one output, made anew where the base has none), and the
yes/no head of a causal language model, whose score is the logit of "yes" less that of "no" at the last token
(Nogueira et al. 2020, arXiv:2003.06713; no weights are added). It does not know tasks, losses or rankings.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
)

from searchtune.counting import counted
from searchtune.errors import ConfigError, ModelError
from searchtune.models.encoder import Attention, inference, train_adapter
from searchtune.models.fast_bert import Shortcut
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import Chunk, length_sorted_chunks
from searchtune.models.opening import opening
from searchtune.models.pairs import PairFormat, PairStore, template_format, tokenizer_format
from searchtune.models.precision import warn_of_slow
from searchtune.models.quantisation import Quantise, keep_trainable, nf4_options
from searchtune.models.quiet import quiet
from searchtune.models.stack import attention_option, check_whole
from searchtune.reading import read_json_object
from searchtune.types import FloatArray, IntArray

Head = Literal["classifier", "yes-no"]

YES_NO_TEMPLATE = "Does the document answer the query? Reply yes or no.\nQuery: {query}\nDocument: {document}\nReply:"
"""What a causal language model is asked unless the recipe says otherwise."""
_ANSWERS = (" yes", " no")


@dataclass(frozen=True)
class Reading:
    """How a base shall be read as a reranker; None leaves it to the base."""

    head: Head | None = None
    """None takes `yes-no` for a causal language model and `classifier` for all others."""
    max_tokens: int | None = None
    template: str | None = None
    quantise: Quantise = "none"


@dataclass(frozen=True)
class RerankerLayout:
    """How a reranker reads a pair and where its score comes from."""

    head: Head
    max_tokens: int
    template: str = ""
    """The text around query and document; empty where the tokenizer's own special tokens stand around them."""
    answers: tuple[int, int] | None = None
    """Token ids of yes and no."""


class Reranker(nn.Module):
    """Transformer and head. `forward` takes all chunks of a batch at once, as `Encoder` does."""

    def __init__(self, backbone: Any, tokenizer: Any, layout: RerankerLayout, *, fresh_head: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        self.tokenizer = tokenizer
        self.layout = layout
        self._causal = [CausalLM(backbone, tokenizer)] if layout.answers is not None else []  # no module of its own
        self.fresh_head = fresh_head
        """Whether the base had no head of its own, so that scores mean nothing before training."""
        self._fast = Shortcut()

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

    @property
    def form(self) -> PairFormat:
        """How its pairs are put together."""
        if self.layout.template:
            return template_format(self.tokenizer, self.layout.template, self.layout.max_tokens)
        return tokenizer_format(self.tokenizer, self.layout.max_tokens)

    @property
    def head_modules(self) -> list[str]:
        """Dotted names of the modules between the last layer and the score; they are trained and saved whole."""
        return [] if self.layout.head == "yes-no" else head_modules(self.backbone)

    def put(self, backbone: Any) -> None:
        """Take another backbone, such as one with an adapter folded in."""
        self.backbone = backbone
        if self._causal:
            self._causal[0].backbone = backbone

    def train(self, mode: bool = True) -> Reranker:
        """Only an adapter's own dropout follows `mode`: the frozen base and the head never drop anything."""
        super().train(mode)
        if mode and any(parameter.requires_grad for parameter in self.backbone.parameters()):
            self._fast.drop()  # no second copy of the weights while they are trained
        train_adapter(self.backbone, mode)
        return self

    def forward(self, chunks: Sequence[Chunk], recompute: bool = False) -> Tensor:
        """Scores of all pairs of all chunks, in their order; `recompute` trades time for memory, as in `Encoder`.

        Shape: (pairs,) float32.
        """
        if recompute and torch.is_grad_enabled():
            return torch.cat([checkpoint(self.score_chunk, chunk, use_reentrant=False) for chunk in chunks])
        return torch.cat([self.score_chunk(chunk) for chunk in chunks])

    def score_chunk(self, chunk: Chunk) -> Tensor:
        """Scores of one chunk: logits, without an activation. Shape: (pairs,) float32."""
        if self.layout.answers is not None:
            logits: Tensor = self._causal[0].last_logits(chunk, self.layout.answers)
            return logits[:, 0] - logits[:, 1]
        body = self.backbone.bert if type(self.backbone) is BertForSequenceClassification else None
        fast = None if body is None or self.training else self._fast.of(body, chunk.mask)
        if body is not None and fast is not None:
            pooler: Any = body.pooler
            pooled = pooler(fast(chunk.mask, ids=chunk.ids, types=chunk.segments))
            scores: Tensor = self.backbone.classifier(pooled)[:, 0]
            return scores.float()
        segments = {} if chunk.segments is None else {"token_type_ids": chunk.segments}
        assert chunk.ids is not None
        ids = chunk.ids.masked_fill(chunk.mask == 0, self.backbone.config.pad_token_id)  # decoders look for it there
        scores = self.backbone(input_ids=ids, attention_mask=chunk.mask, **segments).logits[:, 0]
        return scores.float()

    @torch.no_grad()
    def score_store(
        self, store: PairStore, queries: IntArray, documents: IntArray, *, tokens_per_chunk: int = 8192
    ) -> FloatArray:
        """Scores of many pairs, batched by length across queries. Shape: (pairs,) all.

        A language model reads what a query's prompts have in common, its instruction and the query, once.
        """
        if self.layout.answers is not None:
            texts = store.tokens(queries, documents)
            logits = self._causal[0].score_store(
                texts, self.layout.answers, groups=queries, tokens_per_chunk=tokens_per_chunk
            )
            return logits[:, 0] - logits[:, 1]
        scores = np.zeros(len(queries), dtype=np.float32)
        with inference(self):
            chunks = length_sorted_chunks(store.lengths(queries, documents), tokens_per_chunk)
            for rows in counted(chunks, len(queries)):
                chunk = store.chunk(queries[rows], documents[rows], self.device)
                scores[rows] = self.score_chunk(chunk).cpu().numpy()
        return scores


def head_modules(backbone: Any) -> list[str]:
    """Dotted names of what a sequence classifier puts on its transformer, a pooler inside the transformer included."""
    prefix = backbone.base_model_prefix
    outside = [name for name, module in _with_weights(backbone) if name != prefix]
    inside = [f"{prefix}.{name}" for name, _ in _with_weights(getattr(backbone, prefix)) if "pooler" in name]
    return inside + outside


def _with_weights(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The named children of a module that have weights (dropouts have none)."""
    return ((name, child) for name, child in module.named_children() if next(child.parameters(), None) is not None)


@quiet()
def load_reranker(
    folder: Path,
    reading: Reading | None = None,
    *,
    dtype: torch.dtype,
    device: torch.device,
    attention: Attention = "sdpa",
    seed: int = 13,
) -> Reranker:
    """The base in `folder`, frozen, in `dtype` on `device`; a head that it lacks is drawn from `seed`.

    Raises:
        ModelError: the folder cannot be opened, or it is a classifier with several outputs.
        MissingExtraError: `nf4` without bitsandbytes.
        ConfigError: more tokens than the model has positions, or a template without placeholders.
    """
    warn_of_slow(dtype, device)
    config = _config(folder)
    architecture = (config.get("architectures") or [""])[0]
    reading = reading or Reading()
    head = reading.head or usual_head(folder)
    outputs = len(config.get("id2label") or ()) or 2  # a classifier's config leaves out the library's default
    if head == "classifier" and architecture.endswith("ForSequenceClassification") and outputs != 1:
        raise ModelError(f"{folder}: a classifier with {outputs} outputs; a reranker has one")
    if head == "yes-no":
        causal = load_causal_lm(folder, dtype=dtype, device=device, quantise=reading.quantise, attention=attention)
        layout = _layout(folder, causal.tokenizer, config, head, reading)
        return Reranker(causal.backbone, causal.tokenizer, layout)
    options: dict[str, Any] = {"dtype": dtype, **attention_option(attention)}
    if reading.quantise == "nf4":
        quantised = nf4_options(folder, dtype, AutoModelForSequenceClassification)
        options |= {"quantization_config": quantised, "device_map": {"": device}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        backbone, tokenizer, missing_keys = _classifier(folder, options)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    backbone.config.pad_token_id = tokenizer.pad_token_id
    backbone.requires_grad_(False).eval()
    if reading.quantise == "nf4":
        keep_trainable(backbone)
    else:
        backbone.to(device)
    missing = _missing_head(backbone, missing_keys, folder)
    layout = _layout(folder, tokenizer, config, head, reading)
    return Reranker(backbone, tokenizer, layout, fresh_head=missing)


def _classifier(folder: Path, options: dict[str, Any]) -> tuple[Any, Any, set[str]]:
    """Model and tokenizer of a sequence classifier with one output, and the names of weights that the base lacks."""
    local: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    with opening(folder, "transformers cannot open this model as a reranker"):
        backbone, loaded = AutoModelForSequenceClassification.from_pretrained(
            folder, num_labels=1, output_loading_info=True, use_safetensors=True, **local, **options
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, **local)
    return backbone, tokenizer, loaded["missing_keys"]


def _missing_head(backbone: Any, missing: set[str], folder: Path) -> bool:
    """Whether the base lacked its head; weights that are missing anywhere else are an error."""
    check_whole(backbone, missing, folder)
    last = head_modules(backbone)[-1]
    return any(name.startswith(last) for name in missing)


def _layout(folder: Path, tokenizer: Any, config: dict[str, Any], head: Head, reading: Reading) -> RerankerLayout:
    positions = config.get("max_position_embeddings")
    if positions is not None and config.get("model_type") in {"roberta", "xlm-roberta", "camembert"}:
        positions -= 2
    limit = reading.max_tokens or min(512, positions or 512)
    if positions is not None and limit > positions:
        raise ConfigError(f"max_tokens is {limit}, but {folder.name} has {positions} positions")
    if head == "classifier":
        return RerankerLayout(head, limit, reading.template or "")
    ids = [tokenizer(answer, add_special_tokens=False)["input_ids"] for answer in _ANSWERS]
    if any(len(each) != 1 for each in ids):
        raise ModelError(f"{folder}: the tokenizer splits {_ANSWERS[0]!r} or {_ANSWERS[1]!r} into several tokens")
    return RerankerLayout(head, limit, reading.template or YES_NO_TEMPLATE, (ids[0][0], ids[1][0]))


def usual_head(folder: Path) -> Head:
    """The head that is taken for the base in `folder` where nobody says which."""
    architecture = (_config(folder).get("architectures") or [""])[0]
    return "yes-no" if architecture.endswith("ForCausalLM") else "classifier"


def _config(folder: Path) -> dict[str, Any]:
    return read_json_object(folder / "config.json", ModelError)
