"""What a training run would do: data, lengths, truncation, trainable parameters. Nothing is trained or written."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.models.adapters import add_lora
from searchtune.models.encoder import load_encoder
from searchtune.models.inputs import tokenise
from searchtune.models.precision import compute_dtype, pick_device
from searchtune.models.reranker import Reading, load_reranker
from searchtune.models.sources import resolve_model
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.types import IntArray
from searchtune.workflows.progress import Progress
from searchtune.workflows.training_set import Leaks, open_training_set


def plan_embedding(recipe: EmbedRecipe, leaks: Leaks, progress: Progress) -> dict[str, Any]:
    """The resolved recipe with all that can be known before training, as plain values.

    Raises:
        SearchtuneError: everything that would stop the run itself.
    """
    training = open_training_set(recipe, leaks, progress)
    root: Path = resolve_model(recipe.base, recipe.revision)
    encoder = load_encoder(root, dtype=torch.float32, device=torch.device("cpu"))
    adapter = add_lora(encoder, recipe.method, seed=recipe.seed)
    collection = training.collection
    unlimited = 1_000_000
    documents = tokenise(encoder.tokenizer, collection.documents, unlimited).lengths
    queries = tokenise(encoder.tokenizer, list(collection.query_texts), unlimited).lengths
    steps = -(-training.pairs // recipe.optim.batch_size) * recipe.optim.epochs
    precision = compute_dtype(recipe.precision, pick_device())
    return {
        "recipe": recipe.model_dump(mode="json"),
        "precision": str(precision).removeprefix("torch."),
        "trainable_parameters": adapter.trainable,
        "all_parameters": adapter.total,
        "documents": len(collection.doc_ids),
        "judged_queries": {split: len(qrels) for split, qrels in sorted(collection.qrels.items())},
        "pairs_per_epoch": training.pairs,
        "steps": steps,
        "leaking_train_queries": training.leaks,
        "document_tokens": _lengths(documents, recipe.max_tokens),
        "query_tokens": _lengths(queries, recipe.query_max_tokens or recipe.max_tokens),
        "prefix_cache_mb": round(2 * encoder.dim * int(np.minimum(documents, recipe.max_tokens).sum()) / 2**20)
        if recipe.frozen_prefix
        else 0,
    }


def plan_reranker(recipe: RerankRecipe, leaks: Leaks, progress: Progress) -> dict[str, Any]:
    """The same for a reranker's recipe."""
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
        "steps": -(-training.pairs // recipe.optim.batch_size) * recipe.optim.epochs,
        "leaking_train_queries": training.leaks,
        "test_pairs": 0 if test is None else len(test) * recipe.depth,
    }


def _lengths(lengths: IntArray, limit: int) -> dict[str, float]:
    quantiles = dict(zip(("p50", "p90", "p99", "max"), np.quantile(lengths, [0.5, 0.9, 0.99, 1.0]), strict=True))
    return {name: round(float(value)) for name, value in quantiles.items()} | {
        "limit": limit,
        "share_cut": round(float((lengths > limit).mean()), 4),
    }
