"""Train a rewriter on people's rewrites, prove that it reloads, and search with what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.rewrites import RewriteExample
from searchtune.evaluation import Report
from searchtune.metrics.text_overlap import exact_match, token_f1
from searchtune.models.adapters import add_lora
from searchtune.models.backends import LocalBackend
from searchtune.models.chat import CompletionStore, example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.sources import resolve_model
from searchtune.pipeline.rewriting import LlmRewriter
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.rewrite import RewritePrompt
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.rewrite import Mode, RewriteRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.training.generation import CompletionWriting
from searchtune.workflows.adapter import Verification
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.open_rewriter import open_rewriter
from searchtune.workflows.progress import SILENT, Progress, figures_in_words
from searchtune.workflows.provenance import spec_sha256
from searchtune.workflows.rewrite_data import RewriteData, SearchTurns, open_rewrite_data
from searchtune.workflows.rewrite_finish import TrainedRewriter, write_rewriter
from searchtune.workflows.rewrite_measure import (
    Choice,
    Rewritten,
    TextSearch,
    choose_modes,
    measure_rewriter,
    open_searches,
)
from searchtune.workflows.rewrite_run import rewrite_all
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks

LIKELIHOOD = "log_likelihood"
"""Dev figure: of people's rewrites, natural logarithm, mean over their tokens: the loss with its sign turned."""


@dataclass(frozen=True)
class RewriteResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    dev: dict[str, float]
    """Of the kept weights: exact match and token F1 of what they write, and the log-likelihood of people's rewrites."""
    verified: Verification
    report: Report | None
    """None where the recipe has no test."""

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "training_seconds": round(self.log.seconds, 2),
            "dev": self.dev,
            "test": {}
            if self.report is None
            else {name: self.report.estimate(name).mean for name in self.report.systems},
        }


def _means(report: Report | None) -> dict[str, float]:
    """nDCG@10 by system."""
    return {} if report is None else {name: report.estimate(name).mean for name in report.systems}


def prompt_of(recipe: RewriteRecipe) -> RewritePrompt:
    """How a recipe puts turns to its rewriter."""
    return RewritePrompt(recipe.style, recipe.history_turns, recipe.history_words, recipe.reply_words)


def train_rewriter(
    recipe: RewriteRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    cache: EmbeddingCache | None = None,
    progress: Progress = SILENT,
) -> RewriteResult | None:
    """Train, save and verify a rewriter's adapter; search with the test turns as base and tuned model rewrite them.

    `out` gets `adapter/`, `recipe.json`, `train_log.json`, `checkpoints/` and, with a test, `report.json`,
    `report.html`, `rewriting.json`, `rewrites.jsonl` and the journals `base-rewrites.jsonl`, `tuned-rewrites.jsonl`.
    With a cache, texts that a dense retriever has seen are not encoded again.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        LeakError: a training turn is also, or nearly, a test turn, and `leaks` is "fail".
        SearchtuneError: whatever else a user can mend; see `searchtune.errors`.
    """
    with training_run(recipe, out, policy, progress) as run:
        return _trained(recipe, run, leaks, cache)


def _trained(
    recipe: RewriteRecipe, run: TrainingRun, leaks: Leaks, cache: EmbeddingCache | None
) -> RewriteResult | None:
    progress, out = run.progress, run.out
    progress.stage("reading the turns")
    data = open_rewrite_data(recipe, leaks, progress)
    root = resolve_model(recipe.base, recipe.revision)
    dtype = run.begin(data.fingerprint)
    progress.stage("loading the base model")
    model = load_causal_lm(root, dtype=dtype, device=run.device, quantise=recipe.quantise, attention="eager")
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    examples = chat_examples(prompt_of(recipe), data.train)
    log = _train(recipe, run, model, data, examples)
    if not run.main:
        return None
    write_json(out / "train_log.json", log.to_json())
    progress.stage("rewriting dev")
    dev = dev_figures(model, recipe, data.dev, write=True)
    progress.note(f"dev: {figures_in_words(dev)}")
    search = None if data.test is None else _open_search(model, recipe, data.test, cache, progress)
    progress.stage("saving the adapter and opening it in a fresh process")
    modes = {} if search is None else search.modes
    trained = TrainedRewriter(
        recipe,
        prompt_of(recipe),
        root,
        model,
        adapter,
        log,
        dev,
        modes,
        data.fingerprint,
        examples,
        warnings=run.warnings,
    )
    verified = write_rewriter(out / "adapter", trained)
    worst = max(verified.sentence_transformers, verified.peft)
    progress.note(f"reloaded = trained: probe log-probabilities differ by {worst:.1e} at most")
    report = None if search is None else _measure(recipe, root, search, log, out, progress)
    return RewriteResult(out, out / "adapter", log, dev, verified, report)


def chat_examples(prompt: RewritePrompt, examples: Sequence[RewriteExample]) -> list[ChatExample]:
    """What a rewriter reads, and what it shall say."""
    return [ChatExample(prompt.conversation(one.turn), " ".join(one.rewrite.split())) for one in examples]


def dev_figures(
    model: CausalLM, recipe: RewriteRecipe, examples: Sequence[RewriteExample], *, write: bool
) -> dict[str, float]:
    """How well a model rewrites; higher is better for all figures.

    `log_likelihood` always; with `write`, a rewrite is written for each turn, and `exact_match` and `token_f1` are
    means over turns, against the person's.
    """
    prompt = prompt_of(recipe)
    store = example_store(model.tokenizer, chat_examples(prompt, examples), recipe.max_tokens).chosen
    figures = {LIKELIHOOD: _likelihood(model, store, recipe.tokens_per_chunk)}
    if write:
        queries = _rewriter(model, recipe).rewrite([one.turn for one in examples])
        written = list(zip(queries, examples, strict=True))
        figures["exact_match"] = float(np.mean([exact_match(query, one.rewrite) for query, one in written]))
        figures["token_f1"] = float(np.mean([token_f1(query, one.rewrite) for query, one in written]))
    return figures


def fit_metric(recipe: RewriteRecipe) -> str:
    """The dev figure by which the best weights are known."""
    return LIKELIHOOD if recipe.dev.metric == "loss" else recipe.dev.metric


def _rewriter(model: CausalLM, recipe: RewriteRecipe) -> LlmRewriter:
    backend = LocalBackend(model, {}, max_tokens=recipe.max_tokens, tokens_per_batch=recipe.tokens_per_chunk)
    return LlmRewriter(backend, prompt_of(recipe), max_new_tokens=recipe.max_new_tokens)


def _likelihood(model: CausalLM, store: CompletionStore, tokens_per_chunk: int) -> float:
    found = CompletionReader(model).read_store(store, tokens_per_chunk=tokens_per_chunk)
    return float(found.sum() / (store.tokens.lengths - store.prompts).sum())


def _train(
    recipe: RewriteRecipe, run: TrainingRun, model: CausalLM, data: RewriteData, examples: Sequence[ChatExample]
) -> TrainLog:
    prompt, progress = prompt_of(recipe), run.progress
    left_out = sum(prompt.shortened(one.turn) for one in data.train)
    store = example_store(model.tokenizer, examples, recipe.max_tokens).chosen
    progress.note(
        f"{left_out:,} of {len(examples):,} training prompts leave out some of the history; "
        f"{int(store.tokens.lengths.sum()):,} tokens in one epoch"
    )
    tell_cut(progress, CutTexts(store.tokens.truncated, len(examples), "prompts"), "max_tokens", recipe.max_tokens)
    objective = CompletionWriting(
        model,
        store,
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        seed=recipe.seed,
        recompute=recipe.recompute,
    )
    watch = DevWatch(
        partial(dev_figures, model, recipe, data.dev, write=recipe.dev.metric != "loss"),
        fit_metric(recipe),
        recipe.dev.times,
        len(data.dev),
        recipe.dev.min_queries,
        "turns",
    )
    return fit_watched(objective, recipe.optim, run, watch)


@dataclass(frozen=True, eq=False)
class _Search:
    """A task's turns, what searches for them, and how."""

    turns: SearchTurns
    searches: list[TextSearch]
    choices: dict[str, Choice]

    @property
    def modes(self) -> dict[str, Mode]:
        """Kind of retriever -> the best mode on dev; of several of a kind, the first named one's."""
        return {one.kind: self.choices[one.name].mode for one in self.searches[::-1] if one.name in self.choices}


def _open_search(
    model: CausalLM, recipe: RewriteRecipe, turns: SearchTurns, cache: EmbeddingCache | None, progress: Progress
) -> _Search:
    """Open the recipe's retrievers, and choose for each how it is best searched with what the model writes on dev."""
    assert recipe.test is not None
    searches = open_searches(recipe.test.retrievers, turns.collection, cache, progress)
    progress.stage("choosing how to search with rewrites, on dev")
    choices = choose_modes(searches, turns, _rewriter(model, recipe).rewrite)
    for name, choice in choices.items():
        progress.note(f"{name}: {choice.mode} is best on dev ({figures_in_words(choice.figures)})")
    return _Search(turns, searches, choices)


def _measure(
    recipe: RewriteRecipe, root: Path, search: _Search, log: TrainLog, out: Path, progress: Progress
) -> Report:
    """Rewrite the judged test turns with base and tuned model, search with all of it, and report."""
    turns = search.turns
    asked = [turns.turns[place] for place in turns.test.queries.tolist()]
    plain = open_rewriter(str(root), quantise=recipe.quantise, precision=recipe.precision, prompt=prompt_of(recipe))
    plain = replace(plain, name=recipe.base, max_new_tokens=recipe.max_new_tokens)
    progress.stage("rewriting test with the base")
    base = rewrite_all(plain, asked, out / "base-rewrites.jsonl", progress=progress)
    opened = open_rewriter(str(out / "adapter"), base=str(root), precision=recipe.precision)
    progress.stage("rewriting test with the tuned rewriter")
    tuned = rewrite_all(opened, asked, out / "tuned-rewrites.jsonl", progress=progress)
    progress.stage("searching with them")
    training = {
        "curve": [{"step": step.step, "loss": step.loss, "lr": step.lr} for step in log.steps],
        "seconds": round(log.seconds, 1),
        "best_step": log.best_step,
        "dev_base": log.base_dev,
        **{f"dev {name}": round(value, 4) for name, value in (log.best_dev or {}).items()},
    }
    facts = {
        "recipe": recipe.model_dump(mode="json"),
        "recipe_sha256": spec_sha256(recipe),
        "retrievers": {one.name: one.model for one in search.searches},
    }
    subject = Rewritten(turns, search.searches, search.choices, base, tuned, training, facts, recipe.seed)
    subject = replace(subject, notes=progress.warnings)
    return measure_rewriter(subject, out)
