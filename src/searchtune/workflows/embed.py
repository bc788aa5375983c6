"""The main story: adapt an embedding model to a collection, prove that the adapter reloads, report what it gained."""

from __future__ import annotations

import shutil
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.data.mining import mine_hard_negatives
from searchtune.errors import ConfigError
from searchtune.evaluation import Report
from searchtune.models.adapters import Adapter, add_lora, scaled
from searchtune.models.encoder import Encoder, load_encoder
from searchtune.models.layers import without_prefix
from searchtune.models.sources import resolve_model
from searchtune.retrieval.dense import DenseIndex
from searchtune.specs.recipe import EmbedRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.contrastive import FixedDocumentContrastive, InBatchContrastive, Pairs, Texts
from searchtune.training.fit import TrainLog
from searchtune.training.objective import Objective
from searchtune.types import FloatArray, IntArray, Qrels
from searchtune.workflows.bank import CACHE, Bank, build_bank
from searchtune.workflows.costs import encoding_times
from searchtune.workflows.dev import build_dev_pool, some_queries
from searchtune.workflows.finish import Trained, write_adapter
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.measure import Subject, Vectors, measure
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import command, hardware, now, spec_sha256, versions
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks, TrainingSet, open_training_set

TEST = "test"


@dataclass(frozen=True)
class EmbedResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    report: Report | None
    """None where the collection has no test split."""

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        test = {
            name: {metric: figure.mean for metric, figure in system.metrics.items()}
            for name, system in (self.report.systems.items() if self.report else ())
        }
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "training_seconds": round(self.log.seconds, 2),
            "test": test,
        }


@dataclass
class _Workshop:
    """What the steps of one run hand to each other."""

    recipe: EmbedRecipe
    run: TrainingRun
    training: TrainingSet
    root: Path
    encoder: Encoder
    adapter: Adapter
    bank: Bank

    @property
    def out(self) -> Path:
        return self.run.out

    @property
    def progress(self) -> Progress:
        return self.run.progress

    def with_prefix_off(self) -> AbstractContextManager[None]:
        """Within this, the encoder reads cached states where the recipe caches them."""
        layers = self.recipe.method.top_layers
        return without_prefix(self.encoder, layers) if self.recipe.frozen_prefix and layers else nullcontext()

    def vectors(self) -> Vectors:
        """Vectors of all documents and of the test queries under the encoder as it now is."""
        start = time.perf_counter()
        documents = self.bank.encode_documents(self.encoder)
        seconds = time.perf_counter() - start
        return Vectors(documents, self.queries(self.test), seconds, dev=self.queries(self.dev))

    def queries(self, qrels: Qrels | None) -> FloatArray:
        """Vectors of the judged queries under the encoder as it now is. Shape: (judged, dim)."""
        return self.bank.encode_queries(self.encoder, qrels.queries if qrels else np.zeros(0, np.int64))

    @property
    def test(self) -> Qrels | None:
        return self.training.collection.qrels.get(TEST)

    @property
    def dev(self) -> Qrels | None:
        """The dev queries that training is watched on; they fit the hybrids' weights, too."""
        collection = self.training.collection
        return some_queries(collection, self.recipe.dev.max_queries) if "dev" in collection.qrels else None


def train_embedding(
    recipe: EmbedRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    progress: Progress = SILENT,
) -> EmbedResult | None:
    """Train, save and verify an adapter, and report what it gained on the test split.

    `out` gets `adapter/`, `report.json`, `report.html`, `recipe.json`, `train_log.json` and `checkpoints/`.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        SearchtuneError: whatever a user can mend; see `searchtune.errors`.
    """
    with training_run(recipe, out, policy, progress) as run:
        run.progress.stage(f"opening {recipe.task}")
        training = open_training_set(recipe, leaks, run.progress)
        root = resolve_model(recipe.base, recipe.revision)
        dtype = run.begin(training.collection.fingerprint)
        shop = _open_workshop(recipe, run, training, root, dtype=dtype)
        with shop.with_prefix_off():
            run.progress.stage("encoding the collection with the base model")
            base = shop.vectors()
            log = _train(shop, base.documents)
            if not run.main:
                return None
            tuned = _tuned_vectors(shop, base)
        write_json(run.out / "train_log.json", log.to_json())
        return _finish(shop, log, base, tuned)


def _open_workshop(
    recipe: EmbedRecipe, run: TrainingRun, training: TrainingSet, root: Path, *, dtype: torch.dtype
) -> _Workshop:
    """Load the base, put the adapter on it (it changes nothing yet), and make the texts ready."""
    progress = run.progress
    progress.stage("loading the base model")
    encoder = load_encoder(root, dtype=dtype, device=run.device, attention="eager")
    layout = encoder.layout
    if layout.max_positions is not None and recipe.max_tokens > layout.max_positions:
        raise ConfigError(f"max_tokens is {recipe.max_tokens}, but {recipe.base} has {layout.max_positions} positions")
    encoder.layout = replace(
        layout,
        query_prompt=layout.query_prompt if recipe.query_prompt is None else recipe.query_prompt,
        document_prompt=layout.document_prompt if recipe.document_prompt is None else recipe.document_prompt,
    )
    adapter = add_lora(encoder, recipe.method, seed=recipe.seed)
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    progress.stage("reading the texts" + (", caching the frozen layers' states" if recipe.frozen_prefix else ""))
    bank = build_bank(training.collection, encoder, recipe, run.out, positives=training.relevant)
    if bank.truncated:
        texts = CutTexts(bank.truncated, bank.queries + bank.documents, "texts")
        tell_cut(progress, texts, "max_tokens", recipe.max_tokens, layout.max_positions)
    return _Workshop(recipe, run, training, root, encoder, adapter, bank)


def _train(shop: _Workshop, base_documents: FloatArray) -> TrainLog:
    recipe = shop.recipe
    dev = build_dev_pool(shop.training.collection, recipe, shop.bank, shop.encoder, base_documents)
    watch = None
    if dev is not None:
        watch = DevWatch(
            lambda: dev.figures(shop.encoder, shop.bank),
            recipe.dev.metric,
            recipe.dev.times,
            len(dev.qrels),
            recipe.dev.min_queries,
            base_figures=dev.base_figures,
        )
    objective = _objective(shop, base_documents)
    return fit_watched(objective, recipe.optim, shop.run, watch, settle=lambda log: _settle_strength(shop, watch, log))


def _settle_strength(shop: _Workshop, watch: DevWatch | None, log: TrainLog) -> None:
    """Leave the adapter at the strength that is best on dev, and say in the log which that is."""
    strengths, metric = shop.recipe.dev.strengths, shop.recipe.dev.metric
    log.strength = strengths[0]
    trained, found = shop.adapter.state(), dict[float, dict[str, float]]()
    if watch is not None and watch.chooses and len(strengths) > 1:
        for strength in strengths:
            shop.adapter.load_state(scaled(trained, strength))
            found[strength] = dict(watch.figures())
        log.strength = max(found, key=lambda strength: found[strength][metric])
        log.best_dev = found[log.strength]
        words = ", ".join(f"{strength:g}: {figures[metric]:.4f}" for strength, figures in found.items())
        shop.progress.note(f"dev {metric} by strength of the adapter: {words}; kept {log.strength:g}")
    if log.strength != 1.0:
        shop.adapter.load_state(scaled(trained, log.strength))
        if watch is not None and log.best_dev is not None and log.strength not in found:
            log.best_dev = dict(watch.figures())


def _objective(shop: _Workshop, base_documents: FloatArray) -> Objective:
    recipe, training, spec = shop.recipe, shop.training, shop.recipe.objective
    pairs = Pairs(training.relevant, training.known, _mined(shop, base_documents))
    recompute = None if recipe.gradient_caching == "auto" else recipe.gradient_caching
    texts = Texts(shop.bank.training, shop.bank.queries, recipe.tokens_per_chunk, recompute)
    if recipe.side == "both":
        return InBatchContrastive(
            shop.encoder, texts, pairs, spec, batch_size=recipe.optim.batch_size, seed=recipe.seed
        )
    candidates = np.arange(len(base_documents))
    if spec.candidates != "corpus":
        candidates = np.unique(np.concatenate([training.relevant.docs, *pairs.negatives.values()]))
    return FixedDocumentContrastive(
        shop.encoder,
        texts,
        pairs,
        spec,
        documents=candidates,
        vectors=base_documents[candidates],
        batch_size=recipe.optim.batch_size,
        seed=recipe.seed,
    )


def _mined(shop: _Workshop, base_documents: FloatArray) -> dict[int, IntArray]:
    """Hard negatives by query, from the base model's own ranking of the training queries."""
    spec, training = shop.recipe.objective.hard_negatives, shop.training
    if not spec.per_query:
        return {}
    shop.progress.stage("mining hard negatives")
    queries = training.relevant.queries
    most_positives = int(np.diff(training.relevant.offsets).max())
    vectors = shop.bank.encode_queries(shop.encoder, queries)
    run = DenseIndex(base_documents).search(queries, vectors, spec.last_rank + most_positives)
    mined = mine_hard_negatives(run, training.relevant, training.known, spec)
    without = sum(not len(docs) for docs in mined.values())
    if without:
        shop.progress.note(f"{without} training queries have no hard negative inside the window and margin")
    return mined


def _tuned_vectors(shop: _Workshop, base: Vectors) -> Vectors:
    shop.progress.stage("encoding the collection with the tuned model")
    if shop.recipe.side == "query":
        return Vectors(base.documents, shop.queries(shop.test), base.seconds, dev=shop.queries(shop.dev))
    return shop.vectors()


def _finish(shop: _Workshop, log: TrainLog, base: Vectors, tuned: Vectors) -> EmbedResult:
    recipe, training = shop.recipe, shop.training
    shop.progress.stage("saving the adapter and opening it in a fresh process")
    trained = Trained(
        recipe,
        training,
        shop.root,
        shop.encoder,
        shop.adapter.state(),
        shop.adapter.trainable,
        log,
        shop.run.warnings,
    )
    verified = write_adapter(shop.out / "adapter", trained)
    shutil.rmtree(shop.out / CACHE, ignore_errors=True)
    worst = max(verified.sentence_transformers, verified.peft)
    shop.progress.note(f"reloaded = trained: probe vectors differ by {worst:.1e} at most")
    report = None
    if TEST in training.collection.qrels:
        shop.progress.stage("measuring on the test split")
        query_ms = _query_times(shop)
        subject = Subject(
            training.collection,
            TEST,
            replace(base, query_ms=query_ms),
            replace(tuned, query_ms=query_ms),
            training.positives,
            training=_training_facts(shop, log),
            provenance=_provenance(shop, worst),
            notes=shop.run.warnings,
            dev=shop.dev,
        )
        report = measure(subject, shop.out, seed=recipe.seed)
    return EmbedResult(shop.out, shop.out / "adapter", log, report)


def _query_times(shop: _Workshop) -> list[float]:
    """Milliseconds to encode a test query from its text, adapter in place; merged, it takes what the base does."""
    collection, layout = shop.training.collection, shop.encoder.layout
    texts = [collection.query_texts[int(query)] for query in collection.qrels[TEST].queries]
    limit = min(shop.recipe.max_tokens, shop.recipe.query_max_tokens or shop.recipe.max_tokens)
    return encoding_times(lambda some: shop.encoder.encode(some, max_tokens=limit, prompt=layout.query_prompt), texts)


def _training_facts(shop: _Workshop, log: TrainLog) -> dict[str, Any]:
    recipe = shop.recipe
    return {
        "curve": log.to_json()["steps"],
        "dev_metric": recipe.dev.metric,
        "best_step": log.best_step,
        "dev_base": log.base_dev,
        "strength": log.strength,
        "seconds": round(log.seconds, 1),
        "preparation_seconds": {name: round(value, 1) for name, value in shop.bank.seconds.items()},
        "pairs_per_epoch": shop.training.pairs,
        "trainable_parameters": shop.adapter.trainable,
        "all_parameters": shop.adapter.total,
        "frozen_prefix_difference": shop.bank.prefix_difference,
        "truncated_texts": shop.bank.truncated,
        "leaking_train_queries": shop.training.leaks,
    }


def _provenance(shop: _Workshop, verified: float) -> dict[str, Any]:
    recipe, collection = shop.recipe, shop.training.collection
    return {
        "command": command(),
        "created": now(),
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": spec_sha256(recipe),
        "data_fingerprint": collection.fingerprint,
        "documents": len(collection.doc_ids),
        "precision": str(shop.encoder.dtype).removeprefix("torch."),
        "reload_difference": verified,
        "versions": versions(),
        "hardware": hardware(),
    }
