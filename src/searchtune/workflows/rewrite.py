"""Train a rewriter on people's rewrites, prove that it reloads, and search with what it writes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import PartialState

from searchtune.data.rewrites import RewriteExample
from searchtune.metrics.text_overlap import exact_match, token_f1
from searchtune.models.adapters import add_lora
from searchtune.models.backends import LocalBackend
from searchtune.models.chat import CompletionStore, example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.precision import pick_device
from searchtune.models.sources import resolve_model
from searchtune.pipeline.rewriting import LlmRewriter
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.rewrite import RewritePrompt
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy, prepare_output
from searchtune.training.fit import FitPlan, Step, TrainLog, fit
from searchtune.training.generation import CompletionWriting
from searchtune.workflows.adapter import Verification
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite_data import RewriteData, open_rewrite_data
from searchtune.workflows.rewrite_finish import TrainedRewriter, write_rewriter
from searchtune.workflows.run_folder import settle_run
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

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "training_seconds": round(self.log.seconds, 2),
            "dev": self.dev,
        }


def prompt_of(recipe: RewriteRecipe) -> RewritePrompt:
    """How a recipe puts turns to its rewriter."""
    return RewritePrompt(recipe.style, recipe.history_turns, recipe.history_words, recipe.reply_words)


def train_rewriter(
    recipe: RewriteRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    progress: Progress = SILENT,
) -> RewriteResult | None:
    """Train, save and verify a rewriter's adapter; search with the test turns as base and tuned model rewrite them.

    `out` gets `adapter/`, `recipe.json`, `train_log.json`, `checkpoints/`.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        LeakError: a training turn is also, or nearly, a test turn, and `leaks` is "fail".
        SearchtuneError: whatever else a user can mend; see `searchtune.errors`.
    """
    device = pick_device()
    state = PartialState(cpu=device.type == "cpu")
    progress = progress if state.is_main_process else SILENT
    progress.stage("reading the turns")
    data = open_rewrite_data(recipe, leaks, progress)
    root = resolve_model(recipe.base, recipe.revision)
    out = Path(out).expanduser().resolve()
    if state.is_main_process:
        prepare_output(out, policy)
    dtype = settle_run(recipe, data.fingerprint, out, policy=policy, device=device)
    progress.stage("loading the base model")
    model = load_causal_lm(root, dtype=dtype, device=device, quantise=recipe.quantise, attention="eager")
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    examples = chat_examples(prompt_of(recipe), data.train)
    log = _train(recipe, out, model, data, examples, progress, resume=policy == "resume")
    if not state.is_main_process:
        return None
    write_json(out / "train_log.json", log.to_json())
    progress.stage("rewriting dev")
    dev = dev_figures(model, recipe, data.dev, write=True)
    progress.note("dev: " + ", ".join(f"{name} {value:.4f}" for name, value in dev.items()))
    progress.stage("saving the adapter and opening it in a fresh process")
    trained = TrainedRewriter(recipe, prompt_of(recipe), root, model, adapter, log, dev, data.fingerprint, examples)
    verified = write_rewriter(out / "adapter", trained)
    worst = max(verified.sentence_transformers, verified.peft)
    progress.note(f"reloaded = trained: probe log-probabilities differ by {worst:.1e} at most")
    return RewriteResult(out, out / "adapter", log, dev, verified)


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
        backend = LocalBackend(model, {}, max_tokens=recipe.max_tokens, tokens_per_batch=recipe.tokens_per_chunk)
        rewriter = LlmRewriter(backend, prompt, max_new_tokens=recipe.max_new_tokens)
        written = list(zip(rewriter.rewrite([one.turn for one in examples]), examples, strict=True))
        figures["exact_match"] = float(np.mean([exact_match(query, one.rewrite) for query, one in written]))
        figures["token_f1"] = float(np.mean([token_f1(query, one.rewrite) for query, one in written]))
    return figures


def _likelihood(model: CausalLM, store: CompletionStore, tokens_per_chunk: int) -> float:
    found = CompletionReader(model).read_store(store, tokens_per_chunk=tokens_per_chunk)
    return float(found.sum() / (store.tokens.lengths - store.prompts).sum())


def _train(
    recipe: RewriteRecipe,
    out: Path,
    model: CausalLM,
    data: RewriteData,
    examples: Sequence[ChatExample],
    progress: Progress,
    *,
    resume: bool,
) -> TrainLog:
    prompt = prompt_of(recipe)
    left_out = sum(prompt.shortened(one.turn) for one in data.train)
    store = example_store(model.tokenizer, examples, recipe.max_tokens).chosen
    progress.note(
        f"{left_out:,} of {len(examples):,} training prompts leave out some of the history, and "
        f"{store.tokens.truncated:,} are cut further to fit {recipe.max_tokens} tokens; "
        f"{int(store.tokens.lengths.sum()):,} tokens in one epoch"
    )
    objective = CompletionWriting(
        model,
        store,
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        seed=recipe.seed,
        recompute=recipe.recompute,
    )
    metric = LIKELIHOOD if recipe.dev.metric == "loss" else recipe.dev.metric
    progress.stage("training")
    return fit(
        objective,
        recipe.optim,
        FitPlan(out, recipe.seed, metric, recipe.dev.times, resume),
        on_eval=partial(dev_figures, model, recipe, data.dev, write=recipe.dev.metric != "loss"),
        on_step=lambda step, total: _tell(progress, step, total),
    )


def _tell(progress: Progress, step: Step, total: int) -> None:
    progress.step(step.step, total, f"loss {step.loss:.3f}")
    if step.dev:
        words = ", ".join(f"{name} {value:.4f}" for name, value in step.dev.items())
        progress.note(f"step {step.step} of {total}: loss {step.loss:.3f}, dev {words}")
