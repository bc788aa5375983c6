"""Adapt a reranker to a collection, prove that it reloads, and report what it gains behind its retriever."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.data.groups import GroupSampler, GroupShape, PairScores, mine_ranking_negatives
from searchtune.data.named import NamedQrels, align_to_collection
from searchtune.data.trec import read_trec_run
from searchtune.evaluation import Report
from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.pairs import PairStore, pair_store
from searchtune.models.reranker import Reading, Reranker, load_reranker
from searchtune.models.sources import resolve_model
from searchtune.reading import user_path
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.training.ranking import GroupRanking
from searchtune.types import Collection
from searchtune.workflows.first_stage import FirstStage
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rerank_dev import DevRankings, Fitted, dev_rankings, fit_on_dev
from searchtune.workflows.rerank_finish import TrainedReranker, write_reranker
from searchtune.workflows.rerank_measure import Reranked, measure_reranker
from searchtune.workflows.reranking import PairScorer
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks, TrainingSet, open_training_set

TEST, DEV, TRAIN = "test", "dev", "train"


@dataclass(frozen=True)
class RerankResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    fitted: Fitted
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
            **self.fitted.facts(),
            "test": test,
        }


@dataclass
class _Workshop:
    """What the steps of one run hand to each other."""

    recipe: RerankRecipe
    run: TrainingRun
    training: TrainingSet
    root: Path
    first: FirstStage
    reranker: Reranker
    adapter: Adapter
    store: PairStore

    @property
    def out(self) -> Path:
        return self.run.out

    @property
    def progress(self) -> Progress:
        return self.run.progress

    @property
    def collection(self) -> Collection:
        return self.training.collection


def train_reranker(
    recipe: RerankRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    cache: EmbeddingCache | None = None,
    progress: Progress = SILENT,
) -> RerankResult | None:
    """Train, save and verify a reranker's adapter, and report what it gains on the test split.

    `out` gets `adapter/`, `report.json`, `report.html`, `recipe.json`, `train_log.json` and `checkpoints/`. The cache
    serves the vectors of the first stage.

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
        shop = _open_workshop(recipe, run, training, root, cache, dtype=dtype)
        base = None if shop.reranker.fresh_head else _on_test(shop, "base reranker")
        dev = dev_rankings(shop.collection, recipe, shop.first) if DEV in shop.collection.qrels else None
        log = _train(shop, dev)
        if not run.main:
            return None
        write_json(run.out / "train_log.json", log.to_json())
        return _finish(shop, log, dev, base)


def _open_workshop(
    recipe: RerankRecipe,
    run: TrainingRun,
    training: TrainingSet,
    root: Path,
    cache: EmbeddingCache | None,
    *,
    dtype: torch.dtype,
) -> _Workshop:
    """Open the first stage, load the base, put the adapter on it (it changes nothing yet), and read the texts."""
    collection, progress = training.collection, run.progress
    splits = [split for split in (TRAIN, DEV, TEST) if split in collection.qrels]
    first = FirstStage(recipe.first_stage, collection, splits, cache, progress)
    progress.stage("loading the base model")
    reranker = load_reranker(
        root,
        Reading(recipe.head, recipe.max_tokens, recipe.template, recipe.quantise),
        dtype=dtype,
        device=run.device,
        attention="eager",
        seed=recipe.seed,
    )
    if reranker.fresh_head:
        progress.note("the base has no head for ranking: a new one is drawn, trained and saved")
    task_type = "SEQ_CLS" if reranker.layout.head == "classifier" else "CAUSAL_LM"
    head = reranker.head_modules
    adapter = add_lora(reranker, recipe.method, seed=recipe.seed, task_type=task_type, head=head)
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    progress.stage("reading the texts")
    store = pair_store(reranker.tokenizer, list(collection.query_texts), collection.documents, reranker.form)
    return _Workshop(recipe, run, training, root, first, reranker, adapter, store)


def _train(shop: _Workshop, dev: DevRankings | None) -> TrainLog:
    recipe, progress = shop.recipe, shop.progress
    sampler = _sampler(shop)
    if sampler.left_out:
        progress.note(f"{sampler.left_out} training queries have no negative inside the window and margin: left out")
    objective = GroupRanking(
        shop.reranker,
        shop.store,
        sampler,
        recipe.objective,
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        recompute=None if recipe.gradient_caching == "auto" else recipe.gradient_caching,
    )
    _note_lengths(shop, sampler)
    watch = None
    if dev is not None:
        watch = DevWatch(
            lambda: dev.figures(shop.reranker, shop.store),
            recipe.dev.metric,
            recipe.dev.times,
            len(dev.watched),
            recipe.dev.min_queries,
            measure_base=not shop.reranker.fresh_head,
            rivals={"the first stage alone": dev.first_stage},
        )
    return fit_watched(objective, recipe.optim, shop.run, watch)


def _sampler(shop: _Workshop) -> GroupSampler:
    """Groups of the training queries, with negatives at the ranks that will be reranked."""
    recipe, training, collection = shop.recipe, shop.training, shop.collection
    spec = recipe.objective
    shop.progress.stage("mining negatives")
    most_positives = int(np.diff(training.relevant.offsets).max())
    runs = shop.first.runs(training.relevant.queries, spec.negatives.last_rank + most_positives)
    run = runs[spec.negatives.system or recipe.reranked]
    pools = mine_ranking_negatives(run, training.train, training.relevant, training.known, spec.negatives)
    graded = spec.name in ("regression", "lambda", "margin")
    shape = GroupShape(spec.positives_per_query, 1, spec.negatives.per_query, graded=graded)
    teacher = _teacher(spec.teacher, collection) if spec.teacher else None
    sampler = GroupSampler(
        training.train, pools, shape, min_grade=collection.min_grade, seed=recipe.seed, teacher=teacher
    )
    if teacher is not None:
        sampler.check_teacher(collection.query_ids, collection.doc_ids)
    return sampler


def _teacher(file: str, collection: Collection) -> PairScores:
    """The scores of a TREC run file."""
    named = read_trec_run(user_path(file))
    run = align_to_collection(collection, NamedQrels.of(collection, TRAIN), {"teacher": named}).runs["teacher"]
    return PairScores(np.repeat(run.queries, run.depth), run.docs.ravel(), run.scores.ravel())


def _note_lengths(shop: _Workshop, sampler: GroupSampler) -> None:
    groups = sampler.epoch(0)
    cut = shop.store.truncated(groups.row_queries, groups.docs)
    texts = CutTexts(cut, len(groups.docs), "training pairs")
    most = getattr(shop.reranker.backbone.config, "max_position_embeddings", None)
    tell_cut(shop.progress, texts, "max_tokens", shop.recipe.max_tokens, most)


def _on_test(shop: _Workshop, what: str) -> PairScorer | None:
    """All test pairs scored by the reranker as it now is; None without a test split."""
    qrels = shop.collection.qrels.get(TEST)
    if qrels is None:
        return None
    shop.progress.stage(f"scoring the test pairs with the {what}")
    scorer = PairScorer(shop.collection, lambda: shop.reranker, store=shop.store)
    runs = shop.first.runs(qrels.queries, shop.recipe.depth)
    scorer.of_run(runs[shop.recipe.reranked], shop.recipe.depth)
    return scorer


def _finish(shop: _Workshop, log: TrainLog, dev: DevRankings | None, base: PairScorer | None) -> RerankResult:
    recipe, collection, progress = shop.recipe, shop.collection, shop.progress
    fitted = Fitted()
    if dev is not None:
        progress.stage("fitting blend, early exit and calibration on dev")
        fitted = fit_on_dev(dev, shop.reranker, shop.store)
        for line in fitted.describe():
            progress.note(line)
    progress.stage("saving the adapter and opening it in a fresh process")
    trained = TrainedReranker(
        recipe, shop.training, shop.root, shop.reranker, shop.adapter, log, fitted, shop.run.warnings
    )
    verified = write_reranker(shop.out / "adapter", trained)
    worst = max(verified.sentence_transformers, verified.peft)
    progress.note(f"reloaded = trained: probe scores differ by {worst:.1e} at most")
    report = None
    if TEST in collection.qrels:
        tuned = _on_test(shop, "tuned reranker")
        assert tuned is not None
        progress.stage("measuring on the test split")
        subject = Reranked(
            recipe=recipe,
            collection=collection,
            split=TEST,
            first=shop.first,
            base=base,
            tuned=tuned,
            fitted=fitted,
            train_positives=shop.training.positives,
            training=_facts(shop, log),
            reload_difference=worst,
            precision=str(shop.reranker.dtype).removeprefix("torch."),
            notes=shop.run.warnings,
        )
        report = measure_reranker(subject, shop.out)
    return RerankResult(shop.out, shop.out / "adapter", log, fitted, report)


def _facts(shop: _Workshop, log: TrainLog) -> dict[str, Any]:
    return {
        "curve": log.to_json()["steps"],
        "dev_metric": shop.recipe.dev.metric,
        "best_step": log.best_step,
        "dev_base": log.base_dev,
        "seconds": round(log.seconds, 1),
        "pairs_per_epoch": shop.training.pairs,
        "trainable_parameters": shop.adapter.trainable,
        "all_parameters": shop.adapter.total,
        "leaking_train_queries": shop.training.leaks,
    }
