"""After training: write the adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from searchtune.models.adapters import add_lora
from searchtune.models.artifact import probe_store, save_artifact
from searchtune.models.cards import pick_probe
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.probes import QUERY_WORDS, synthetic_texts
from searchtune.models.sources import tokenizer_sha256, weights_sha256
from searchtune.reading import user_path
from searchtune.specs.card import AdapterCard, Probe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.provenance import dev_metrics, now, spec_sha256, versions
from searchtune.workflows.training_set import TrainingSet


@dataclass(frozen=True)
class Trained:
    """What training left in memory."""

    recipe: EmbedRecipe
    training: TrainingSet
    root: Path
    encoder: Encoder
    """The encoder that was trained, whole, in training precision."""
    weights: dict[str, Tensor]
    trainable_parameters: int
    log: TrainLog
    warnings: Sequence[str] = ()
    """What the run warned of."""


def write_adapter(folder: Path, trained: Trained) -> Verification:
    """Put the trained weights on a fresh float32 base, record probe vectors, save, and verify in a new process.

    Raises:
        ArtifactError: the saved adapter does not give back the recorded vectors.
    """
    recipe, layout = trained.recipe, trained.encoder.layout
    encoder = load_encoder(trained.root, dtype=torch.float32, device=torch.device("cpu"))
    encoder.layout = layout
    adapter = add_lora(encoder, recipe.method, seed=recipe.seed)
    adapter.load_state(trained.weights)
    card = _card(trained, encoder.dim)
    store = probe_store(encoder.tokenizer, card)
    probe = encoder.encode_store(store)
    as_trained = trained.encoder.encode_store(store)
    agreement = float((probe * as_trained).sum(1).min() / max(1e-12, np.linalg.norm(probe, axis=1).min() ** 2))
    measured = {"min_probe_cosine_to_training_precision": round(min(1.0, agreement), 6)}
    card = card.model_copy(update={"extra": card.extra | measured})
    collection = trained.training.collection
    positives = [collection.doc_ids[int(doc)] for doc in trained.training.positives]
    save_artifact(folder, encoder, adapter, card, probe=probe, train_positives=positives)
    return verify_in_fresh_process(folder)


def _probe(trained: Trained) -> Probe:
    recipe, training = trained.recipe, trained.training
    if recipe.probe == "synthetic":
        tokenizer = trained.encoder.tokenizer
        documents = synthetic_texts(tokenizer, recipe.max_tokens, seed=1)
        return Probe(queries=synthetic_texts(tokenizer, QUERY_WORDS), documents=documents)
    collection = training.collection
    return Probe(
        queries=pick_probe([collection.query_texts[int(query)] for query in training.relevant.queries]),
        documents=pick_probe([collection.documents[int(doc)] for doc in training.positives]),
    )


def _card(trained: Trained, dim: int) -> AdapterCard:
    recipe, training, layout = trained.recipe, trained.training, trained.encoder.layout
    collection = training.collection
    positives = [collection.doc_ids[int(doc)] for doc in training.positives]
    probe = _probe(trained)
    return AdapterCard(
        name=f"{collection.name}-{recipe.kind}",
        base=recipe.base if not user_path(recipe.base).is_dir() else str(trained.root),
        revision=recipe.revision,
        base_weights_sha256=weights_sha256(trained.root),
        tokenizer_sha256=tokenizer_sha256(trained.root),
        side=recipe.side,
        pooling=layout.pooling,
        normalise=layout.normalise,
        query_prompt=layout.query_prompt,
        document_prompt=layout.document_prompt,
        max_tokens=recipe.max_tokens,
        query_max_tokens=min(recipe.max_tokens, recipe.query_max_tokens or recipe.max_tokens),
        dim=dim,
        matryoshka=recipe.objective.matryoshka,
        trainable_parameters=trained.trainable_parameters,
        recipe_sha256=spec_sha256(recipe),
        data_fingerprint=collection.fingerprint,
        doc_template=collection.doc_template,
        train_positives_sha256=sha256_json(positives),
        probe=probe if recipe.side == "both" else probe.model_copy(update={"documents": []}),
        metrics=dev_metrics(trained.log),
        versions=versions(),
        created=now(),
        extra={"probe": recipe.probe, "warnings": list(trained.warnings)},
    )
