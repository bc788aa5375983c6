"""A rewriter trained on what its rewrites find, from recipe to figures: train, learn when to abstain, save, measure."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.rewrites import task_turns
from searchtune.data.tasks import load_task, open_collection
from searchtune.metrics.significance import Estimate
from searchtune.models.backends import LocalBackend
from searchtune.models.generator import CausalLM
from searchtune.pipeline.rewriting import LlmRewriter
from searchtune.pipeline.stages import Rewriting
from searchtune.reading import user_path
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.reward import RetrievalReward
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.types import Collection, Run, Turn
from searchtune.workflows.adapter import Verification
from searchtune.workflows.open_rewriter import OpenRewriter, open_rewriter
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite import prompt_of
from searchtune.workflows.rewrite_abstain import (
    RewriteEffect,
    RewriteWatch,
    fit_abstention,
    measure_rewriting,
)
from searchtune.workflows.rewrite_by_reward import RewardPlan, RewardTrained, train_by_reward
from searchtune.workflows.rewrite_finish import TrainedRewriter, write_rewriter
from searchtune.workflows.rewrite_rule import Abstention
from searchtune.workflows.rewrite_run import rewrite_all
from searchtune.workflows.rewrite_search import RewriteSearch, open_retrieval
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks

FIGURES_FILE = "rewriting.json"


@dataclass(frozen=True)
class RewardedResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    verified: Verification
    rewards: Mapping[str, float]
    """What utterances, first and best candidates find on the training queries (see `reward_figures`)."""
    abstention: Abstention | None
    effects: Mapping[str, RewriteEffect]
    """On test, the rewriter used as fitted on dev: on `all` queries, and on those `unseen`, none of whose relevant
    documents training knew. Empty without a test split."""

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "dev": self.log.best_dev,
            "rewards": dict(self.rewards),
            "abstention": None if self.abstention is None else self.abstention.predictor.reading,
            "test": {name: _plain(effect.figures()) for name, effect in self.effects.items()},
        }

    def lines(self) -> list[str]:
        """The effect on test in words."""
        found = [] if self.abstention is None else [self.abstention.predictor.reading]
        for name, effect in self.effects.items():
            found += [f"{name}: {line}" for line in effect.lines()]
        return found


def train_rewarded(
    recipe: RewriteRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    cache: EmbeddingCache | None = None,
    progress: Progress = SILENT,
) -> RewardedResult | None:
    """Train by reward, fit on dev when a rewrite is used, save, verify, and measure on the task's test split.

    `out` gets what `train_by_reward` writes, `adapter/`, `rewriting.json` and the journal `tuned-rewrites.jsonl`.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        SearchtuneError: whatever a user can mend; see `searchtune.errors`.
    """
    reward = recipe.reward
    assert reward is not None
    source = _source(recipe)
    start = None if recipe.start is None else user_path(recipe.start)
    plan = RewardPlan(
        reward, source, prompt_of(recipe).conversation, _over(recipe), turns_of=task_turns, start=start, cache=cache
    )
    with training_run(recipe, out, policy, progress) as run:
        trained = train_by_reward(recipe, plan, run.out, policy=policy, leaks=leaks, progress=run.progress)
        if trained is None:
            return None
        return _finish(recipe, plan, trained, run)


def _finish(recipe: RewriteRecipe, plan: RewardPlan, trained: RewardTrained, run: TrainingRun) -> RewardedResult:
    out, progress, reward, cache = run.out, run.progress, plan.reward, plan.cache
    collection = open_collection(load_task(reward.task))
    watch = _watch(reward, collection, cache)
    abstention = _abstention(recipe, plan.over(trained.model), watch, progress)
    progress.stage("saving the adapter and opening it in a fresh process")
    verified = write_rewriter(out / "adapter", _to_write(recipe, trained, abstention))
    tuned = open_rewriter(str(out / "adapter"), base=str(trained.root), precision=recipe.precision)
    effects = _effects(reward, tuned, watch, abstention, trained.positives, out=out, progress=progress)
    result = RewardedResult(out, out / "adapter", trained.log, verified, trained.rewards, abstention, effects)
    write_json(out / FIGURES_FILE, result.summary())
    return result


def unseen(collection: Collection, split: str, positives: list[str]) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which judged queries of a split have no relevant document among `positives`. Shape: (queries,)."""
    qrels = collection.qrels[split]
    known = {collection.doc_index[one] for one in positives if one in collection.doc_index}
    rows = [qrels.row(row) for row in range(len(qrels))]
    return np.array(
        [known.isdisjoint(docs[grades >= collection.min_grade].tolist()) for docs, grades in rows], dtype=np.bool_
    )


def _source(recipe: RewriteRecipe) -> OpenRewriter:
    if recipe.start is not None:
        return open_rewriter(recipe.start, precision=recipe.precision)
    plain = open_rewriter(recipe.base, quantise=recipe.quantise, precision=recipe.precision, prompt=prompt_of(recipe))
    return replace(plain, max_new_tokens=recipe.max_new_tokens)


def _over(recipe: RewriteRecipe) -> Any:
    def over(model: CausalLM) -> Rewriting:
        backend = LocalBackend(model, {}, max_tokens=recipe.max_tokens, tokens_per_batch=recipe.tokens_per_chunk)
        return LlmRewriter(backend, prompt_of(recipe), max_new_tokens=recipe.max_new_tokens)

    return over


def _watch(reward: RetrievalReward, collection: Collection, cache: EmbeddingCache | None) -> RewriteWatch:
    opened = open_retrieval(reward.retrievers, collection, cache)
    return RewriteWatch(RewriteSearch(collection, opened, reward.mode, reward.depth))


def _turns(collection: Collection, split: str) -> list[Turn]:
    """Of each judged query of a split."""
    turns = task_turns(list(collection.query_ids), list(collection.query_texts))
    return [turns[int(query)] for query in collection.split(split).queries]


def _abstention(
    recipe: RewriteRecipe, rewriting: Rewriting, watch: RewriteWatch, progress: Progress
) -> Abstention | None:
    collection = watch.search.collection
    if recipe.abstain is None or recipe.reward is None or "dev" not in collection.qrels:
        return None
    progress.stage("learning on dev when to use a rewrite")
    turns = _turns(collection, "dev")
    found = fit_abstention(
        watch,
        rewriting.rewrite(turns),
        metric=recipe.reward.metric,
        utterances=[turn.utterance for turn in turns],
        spec=recipe.abstain,
    )
    progress.note(found.predictor.reading)
    return found


def _to_write(recipe: RewriteRecipe, trained: RewardTrained, abstention: Abstention | None) -> TrainedRewriter:
    assert recipe.reward is not None
    kinds = {"bm25" if name == "bm25" else "dense" for name in recipe.reward.retrievers}
    return TrainedRewriter(
        recipe,
        prompt_of(recipe),
        trained.root,
        trained.model,
        trained.adapter,
        trained.log,
        trained.log.best_dev or {},
        dict.fromkeys(sorted(kinds), recipe.reward.mode),
        trained.fingerprint,
        trained.examples,
        trained.positives,
        None if abstention is None else abstention.to_json(),
        trained.warnings,
    )


def _effects(
    reward: RetrievalReward,
    tuned: OpenRewriter,
    watch: RewriteWatch,
    abstention: Abstention | None,
    positives: list[str],
    *,
    out: Path,
    progress: Progress,
) -> dict[str, RewriteEffect]:
    collection = watch.search.collection
    if "test" not in collection.qrels:
        return {}
    progress.stage("rewriting test")
    turns = _turns(collection, "test")
    rewrites = rewrite_all(tuned, turns, out / "tuned-rewrites.jsonl", progress=progress).queries
    asked = [turn.utterance for turn in turns]
    effect = measure_rewriting(watch, rewrites, metric=reward.metric, utterances=asked, abstention=abstention)
    fresh = unseen(collection, "test", positives)
    return {"all": effect, "unseen": _part(effect, fresh)}


def _part(effect: RewriteEffect, keep: np.ndarray[Any, np.dtype[np.bool_]]) -> RewriteEffect:
    """The effect on some of its queries."""
    run = Run(effect.run.queries[keep], effect.run.docs[keep], effect.run.scores[keep])
    return replace(
        effect,
        queries=effect.queries[keep],
        original=effect.original[keep],
        rewritten=effect.rewritten[keep],
        used=effect.used[keep],
        run=run,
    )


def _plain(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Figures as JSON has them: what is not known is null."""
    told = {name: value._asdict() if isinstance(value, Estimate) else value for name, value in figures.items()}
    return {name: _plain(value) if isinstance(value, dict) else _known(value) for name, value in told.items()}


def _known(value: Any) -> Any:
    return None if isinstance(value, float) and math.isnan(value) else value
