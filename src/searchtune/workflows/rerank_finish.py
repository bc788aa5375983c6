"""After training a reranker: write its adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.cards import pick_probe
from searchtune.models.probes import QUERY_WORDS, synthetic_texts
from searchtune.models.reranker import Reading, Reranker, load_reranker
from searchtune.models.reranker_artifact import probe_scores, save_reranker
from searchtune.models.sources import tokenizer_sha256, weights_sha256
from searchtune.reading import user_path
from searchtune.specs.card import PairProbe, RerankerCard
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.provenance import dev_metrics, now, spec_sha256, versions
from searchtune.workflows.rerank_dev import Fitted, exit_facts
from searchtune.workflows.training_set import TrainingSet

_TOLERANCE = 1e-5
"""Of the largest score: logits have no fixed size, and float32 rounds in proportion."""


@dataclass(frozen=True)
class TrainedReranker:
    """What training left in memory."""

    recipe: RerankRecipe
    training: TrainingSet
    root: Path
    reranker: Reranker
    """The reranker that was trained, in training precision."""
    adapter: Adapter
    log: TrainLog
    fitted: Fitted
    warnings: Sequence[str] = ()
    """What the run warned of."""


def write_reranker(folder: Path, trained: TrainedReranker) -> Verification:
    """Put the trained weights on a fresh float32 base, record probe scores, save, and verify in a new process.

    Raises:
        ArtifactError: the saved adapter does not give back the recorded scores.
    """
    recipe, layout = trained.recipe, trained.reranker.layout
    reranker = load_reranker(
        trained.root,
        Reading(layout.head, layout.max_tokens, layout.template or None, recipe.quantise),
        dtype=torch.float32,
        device=torch.device("cpu"),
        seed=recipe.seed,
    )
    task_type = "SEQ_CLS" if layout.head == "classifier" else "CAUSAL_LM"
    adapter = add_lora(reranker, recipe.method, seed=recipe.seed, task_type=task_type, head=reranker.head_modules)
    adapter.load_state(trained.adapter.state())
    card = _card(trained)
    probe = probe_scores(reranker, card)
    drift = float(np.abs(probe - probe_scores(trained.reranker, card)).max())
    tolerance = _TOLERANCE * max(1.0, float(np.abs(probe).max()))
    card = card.model_copy(
        update={
            "extra": {**card.extra, "max_probe_difference_in_training_precision": round(drift, 6)},
            "probe": card.probe.model_copy(update={"tolerance": tolerance}),
        }
    )
    collection = trained.training.collection
    positives = [collection.doc_ids[int(doc)] for doc in trained.training.positives]
    save_reranker(folder, reranker, adapter, card, probe=probe, train_positives=positives)
    return verify_in_fresh_process(folder)


def _probe(trained: TrainedReranker) -> PairProbe:
    recipe, training = trained.recipe, trained.training
    if recipe.probe == "synthetic":
        tokenizer = trained.reranker.tokenizer
        documents = synthetic_texts(tokenizer, recipe.max_tokens, seed=1)
        return PairProbe(queries=synthetic_texts(tokenizer, QUERY_WORDS), documents=documents)
    collection = training.collection
    queries = pick_probe([collection.query_texts[int(query)] for query in training.relevant.queries])
    documents = pick_probe([collection.documents[int(doc)] for doc in training.positives])
    pairs = min(len(queries), len(documents))
    return PairProbe(queries=queries[:pairs], documents=documents[:pairs])


def _card(trained: TrainedReranker) -> RerankerCard:
    recipe, training, layout, fitted = trained.recipe, trained.training, trained.reranker.layout, trained.fitted
    collection = training.collection
    positives = [collection.doc_ids[int(doc)] for doc in training.positives]
    return RerankerCard(
        name=f"{collection.name}-{recipe.kind}",
        base=recipe.base if not user_path(recipe.base).is_dir() else str(trained.root),
        revision=recipe.revision,
        base_weights_sha256=weights_sha256(trained.root),
        tokenizer_sha256=tokenizer_sha256(trained.root),
        head=layout.head,
        template=layout.template,
        quantise=recipe.quantise,
        max_tokens=layout.max_tokens,
        depth=recipe.depth,
        blend=fitted.card_blend,
        calibration=None if fitted.calibration is None else fitted.calibration.to_json(),
        early_exit=None if fitted.rule is None else exit_facts(fitted.rule),
        trainable_parameters=trained.adapter.trainable,
        recipe_sha256=spec_sha256(recipe),
        data_fingerprint=collection.fingerprint,
        doc_template=collection.doc_template,
        train_positives_sha256=sha256_json(positives),
        probe=_probe(trained),
        metrics=dev_metrics(trained.log),
        versions=versions(),
        created=now(),
        extra={"probe": recipe.probe, "warnings": list(trained.warnings)},
    )
