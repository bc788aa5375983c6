"""What a training run would do: data, lengths, truncation, parameters, memory. Nothing is trained or written."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.models.adapters import add_lora
from searchtune.models.encoder import load_encoder
from searchtune.models.footprint import (
    OPTIMISER_BYTES,
    Shape,
    activations,
    adapted_skeleton,
    kv_cache_bytes,
    logit_bytes,
    smallest_device,
)
from searchtune.models.inputs import tokenise
from searchtune.models.precision import compute_dtype, pick_device
from searchtune.models.quantisation import Quantise
from searchtune.models.reranker import Reading, load_reranker, usual_head
from searchtune.models.sources import resolve_config, resolve_model
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.training.optimisers import trained_parameters
from searchtune.types import IntArray
from searchtune.workflows.progress import Progress
from searchtune.workflows.sources import check_sources
from searchtune.workflows.training_set import Leaks, open_training_set


def plan_embedding(recipe: EmbedRecipe, leaks: Leaks, progress: Progress) -> dict[str, Any]:
    """The resolved recipe with all that can be known before training, as plain values.

    Raises:
        SearchtuneError: everything that would stop the run itself.
    """
    check_sources(recipe)
    training = open_training_set(recipe, leaks, progress)
    root: Path = resolve_model(recipe.base, recipe.revision)
    encoder = load_encoder(root, dtype=torch.float32, device=torch.device("cpu"))
    adapter = add_lora(encoder, recipe.method, seed=recipe.seed)
    collection = training.collection
    unlimited = 1_000_000
    documents = tokenise(encoder.tokenizer, collection.documents, unlimited).lengths
    queries = tokenise(encoder.tokenizer, list(collection.query_texts), unlimited).lengths
    per_epoch = -(-training.pairs // recipe.optim.batch_size)
    precision = compute_dtype(recipe.precision, pick_device())
    return {
        "recipe": recipe.model_dump(mode="json"),
        "precision": str(precision).removeprefix("torch."),
        "trainable_parameters": adapter.trainable,
        "all_parameters": adapter.total,
        "documents": len(collection.doc_ids),
        "judged_queries": {split: len(qrels) for split, qrels in sorted(collection.qrels.items())},
        "pairs_per_epoch": training.pairs,
        "steps": per_epoch * recipe.optim.epochs_for(per_epoch),
        "leaking_train_queries": training.leaks,
        "document_tokens": _lengths(documents, recipe.max_tokens),
        "query_tokens": _lengths(queries, recipe.query_max_tokens or recipe.max_tokens),
        "prefix_cache_mb": round(2 * encoder.dim * int(np.minimum(documents, recipe.max_tokens).sum()) / 2**20)
        if recipe.frozen_prefix
        else 0,
    }


def plan_reranker(recipe: RerankRecipe, leaks: Leaks, progress: Progress) -> dict[str, Any]:
    """The same for a reranker's recipe."""
    check_sources(recipe)
    training = open_training_set(recipe, leaks, progress)
    root = resolve_model(recipe.base, recipe.revision)
    reranker = load_reranker(
        root,
        Reading(recipe.head, recipe.max_tokens, recipe.template),
        dtype=torch.float32,
        device=torch.device("cpu"),
    )
    head = reranker.head_modules
    adapter = add_lora(
        reranker, recipe.method, seed=recipe.seed, task_type="SEQ_CLS" if head else "CAUSAL_LM", head=head
    )
    collection = training.collection
    precision = compute_dtype(recipe.precision, pick_device())
    per_epoch = -(-training.pairs // recipe.optim.batch_size)
    test = collection.qrels.get("test")
    return {
        "recipe": recipe.model_dump(mode="json"),
        "precision": str(precision).removeprefix("torch."),
        "head": reranker.layout.head,
        "fresh_head": reranker.fresh_head,
        "trainable_parameters": adapter.trainable,
        "all_parameters": adapter.total,
        "documents": len(collection.doc_ids),
        "judged_queries": {split: len(qrels) for split, qrels in sorted(collection.qrels.items())},
        "pairs_per_epoch": training.pairs,
        "steps": per_epoch * recipe.optim.epochs_for(per_epoch),
        "leaking_train_queries": training.leaks,
        "test_pairs": 0 if test is None else len(test) * recipe.depth,
    }


def _lengths(lengths: IntArray, limit: int) -> dict[str, float]:
    quantiles = dict(zip(("p50", "p90", "p99", "max"), np.quantile(lengths, [0.5, 0.9, 0.99, 1.0]), strict=True))
    return {name: round(float(value)) for name, value in quantiles.items()} | {
        "limit": limit,
        "share_cut": round(float((lengths > limit).mean()), 4),
    }


@dataclass(frozen=True)
class MemoryPlan:
    """What training would hold, in bytes, and what is trained; from the recipe and the base's `config.json` alone."""

    base: str
    precision: str
    quantise: Quantise
    recompute: bool
    """Whether the recipe computes each chunk again in the backward pass."""
    trainable_parameters: int
    all_parameters: int
    base_weights: int
    merged_copies: int
    """Second copies of adapted weights, with which each layer multiplies once."""
    adapter: int
    gradients: int
    optimiser: int
    activations_recomputed: int
    """The most that one chunk of `tokens_per_chunk` tokens takes."""
    activations_kept: int
    """The most that a whole batch takes, all of its texts as long as `max_tokens`."""
    logits: int
    kv_cache: int
    """Keys and values of `tokens_per_chunk` tokens, when texts are scored or written; 0 for an encoder."""

    @property
    def fixed(self) -> int:
        """What is held from the first step to the last."""
        return self.base_weights + self.merged_copies + self.adapter + self.gradients + self.optimiser

    @property
    def total(self) -> int:
        """The most that a training step holds, the recipe's way."""
        return self.fixed + self.logits + (self.activations_recomputed if self.recompute else self.activations_kept)

    def to_json(self) -> dict[str, Any]:
        return {
            **asdict(self),
            "total": self.total,
            "total_recomputed": self.fixed + self.logits + self.activations_recomputed,
            "gpu_gib_for_weights": smallest_device(self.base_weights),
            "gpu_gib_for_training": smallest_device(self.total),
            "advice": self.advice(),
        }

    def advice(self) -> list[str]:
        """What would make it fit, or fit a smaller GPU."""
        weights, whole = smallest_device(self.base_weights), smallest_device(self.total)
        lines = [
            f"the weights {'fit on a GPU of ' + str(weights) + ' GB' if weights else 'fit on no single GPU'}; "
            f"a training step {'on one of ' + str(whole) + ' GB' if whole else 'on none'}"
        ]
        if not self.recompute and self.activations_kept > self.activations_recomputed:
            saved = (self.activations_kept - self.activations_recomputed) / 2**30
            lines.append(f"gradient_caching: true would take {saved:.1f} GiB less, for a second forward pass")
        if self.quantise == "none" and whole != 8:
            lines.append("quantise: nf4 takes the base to about 4 bits a number and keeps no merged copies")
        if self.activations_recomputed > self.base_weights:
            lines.append("a chunk takes more than the weights: lower tokens_per_chunk, results do not depend on it")
        return lines


def plan_memory(recipe: Any) -> MemoryPlan:
    """The memory that a recipe of any kind would take on one device. Nothing is read but the base's `config.json`.

    Taken from the recipe: base, method, max_tokens, tokens_per_chunk, precision, batch size; head and quantise where
    there are such.

    Raises:
        ModelError: no such base, or one that is no language model or encoder.
        ConfigError: a target module that no layer has.
    """
    folder = resolve_config(recipe.base, recipe.revision)
    quantise: Quantise = getattr(recipe, "quantise", "none")
    shape = _shape(recipe, folder)
    dtype = compute_dtype(recipe.precision, pick_device())
    adapted = adapted_skeleton(folder, shape, recipe.method, dtype=dtype, quantise=quantise)
    trained = sum(parameter.numel() for parameter in trained_parameters(adapted.backbone, recipe.optim))
    width = min(recipe.max_tokens, recipe.tokens_per_chunk)
    texts = _texts_per_step(recipe)
    in_chunk = max(1, min(texts, recipe.tokens_per_chunk // width))
    chunk = activations(adapted, texts=in_chunk, width=width)
    chunks = -(-texts // in_chunk)
    wanted = getattr(recipe, "gradient_caching", "auto")
    config = adapted.backbone.config
    return MemoryPlan(
        base=recipe.base,
        precision=str(dtype).removeprefix("torch."),
        quantise=quantise,
        recompute=texts * width > recipe.tokens_per_chunk if wanted == "auto" else bool(wanted),
        trainable_parameters=trained,
        all_parameters=adapted.total,
        base_weights=adapted.base_bytes,
        merged_copies=adapted.copies_bytes,
        adapter=4 * adapted.trainable,
        gradients=4 * trained,
        optimiser=round(OPTIMISER_BYTES[recipe.optim.name] * trained),
        activations_recomputed=chunk.peak,
        activations_kept=chunks * chunk.kept + chunk.peak - chunk.kept,
        logits=_logits(recipe, config, in_chunk, width, dtype.itemsize) if shape == "causal" else 0,
        kv_cache=kv_cache_bytes(config, recipe.tokens_per_chunk, dtype.itemsize) if shape == "causal" else 0,
    )


def _shape(recipe: Any, folder: Path) -> Shape:
    """Which class opens the base: a reranker's head decides, as it does when it is trained."""
    if recipe.kind == "embed":
        return "encoder"
    causal = recipe.kind != "rerank" or (recipe.head or usual_head(folder)) == "yes-no"
    return "causal" if causal else "classifier"


def _texts_per_step(recipe: Any) -> int:
    """Texts that one optimiser step reads: pairs are two, groups as many as they have documents."""
    if recipe.kind == "embed":
        return int(recipe.optim.batch_size * (2 + recipe.objective.hard_negatives.per_query))
    each = 1 + recipe.objective.negatives.per_query if recipe.kind == "rerank" else 1
    return int(recipe.optim.batch_size * each)


def _logits(recipe: Any, config: Any, texts: int, width: int, itemsize: int) -> int:
    """A label needs two entries at the last token; the loss of a completion needs every entry at each of its tokens."""
    if recipe.kind in ("rerank", "judge"):
        return logit_bytes(2, texts, itemsize)
    rows = texts * min(width, getattr(recipe, "completion_tokens", width))
    return logit_bytes(config.get_text_config(decoder=True).vocab_size, rows, itemsize)
