"""Train a writer of answers that cite their passages and abstain, fit when it abstains, prove that it reloads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.answering import AnswerSet
from searchtune.metrics.abstention import (
    AbstentionRule,
    abstention_f1,
    answerable_auc,
    fit_abstention,
)
from searchtune.models.adapters import add_lora
from searchtune.models.backends import label_tokens
from searchtune.models.chat import chat_store, example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.sources import resolve_model
from searchtune.prompts.answer import LABELS
from searchtune.specs.answer import AnswerRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.training.generation import CompletionWriting
from searchtune.types import FloatArray64
from searchtune.workflows.adapter import Verification
from searchtune.workflows.answer_finish import TrainedAnswerer, write_answerer
from searchtune.workflows.answer_sets import AnswerPart, mixed_parts, open_answer_data
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks


@dataclass(frozen=True)
class AnswerResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    rule: AbstentionRule | None
    """When it abstains; None where it writes so by itself."""
    verified: Verification
    test: AnswerSet | None
    """What its answers are to be measured on, as its passages are in the source."""

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "training_seconds": round(self.log.seconds, 2),
            "dev": self.log.best_dev,
            "rule": None if self.rule is None else self.rule.to_json(),
            "test_questions": 0 if self.test is None else len(self.test),
        }


def train_answerer(
    recipe: AnswerRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    progress: Progress = SILENT,
) -> AnswerResult | None:
    """Train, fit on dev from which likelihood on a question is answered, save and verify an answerer's adapter.

    `out` gets `adapter/`, `recipe.json`, `train_log.json` and `checkpoints/`.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        LeakError: a training question is also, or nearly, a test question, and `leaks` is "fail".
        SearchtuneError: whatever else a user can mend; see `searchtune.errors`.
    """
    with training_run(recipe, out, policy, progress) as run:
        return _trained(recipe, run, leaks)


def _trained(recipe: AnswerRecipe, run: TrainingRun, leaks: Leaks) -> AnswerResult | None:
    progress, out = run.progress, run.out
    progress.stage("reading the questions")
    data = open_answer_data(recipe, leaks, progress)
    train, dev = mixed_parts(recipe, data)
    root = resolve_model(recipe.base, recipe.revision)
    fingerprint = sha256_json([data.train.fingerprint, data.dev.fingerprint])
    dtype = run.begin(fingerprint)
    progress.stage("loading the base model")
    model = load_causal_lm(root, dtype=dtype, device=run.device, quantise=recipe.quantise, attention="eager")
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    log = _train(recipe, run, model, train, dev)
    if not run.main:
        return None
    write_json(out / "train_log.json", log.to_json())
    rule = None
    if recipe.abstain == "read":
        progress.stage("fitting on dev when to abstain")
        rule = fit_abstention(_read(model, recipe, dev), dev.evidence, train.evidence if recipe.coverage else None)
        progress.note(f"answers from a likelihood of {rule.threshold:.2f} on, for the highest F1 of abstaining")
    progress.stage("saving the adapter and opening it in a fresh process")
    trained = TrainedAnswerer(recipe, root, model, adapter, log, rule, train, fingerprint, run.warnings)
    verified = write_answerer(out / "adapter", trained)
    worst = max(verified.sentence_transformers, verified.peft)
    progress.note(f"reloaded = trained: probe scores differ by {worst:.1e} at most")
    return AnswerResult(out, out / "adapter", log, rule, verified, data.test)


def _train(recipe: AnswerRecipe, run: TrainingRun, model: CausalLM, train: AnswerPart, dev: AnswerPart) -> TrainLog:
    labelled, written = train.labelled(), train.written()
    store = example_store(model.tokenizer, [*labelled, *written], recipe.max_tokens).chosen
    cut = CutTexts(store.tokens.truncated, len(store.prompts), "prompts")
    tell_cut(run.progress, cut, "max_tokens", recipe.max_tokens)
    weights = np.repeat(np.array([recipe.label_weight, 1.0], np.float32), [len(labelled), len(written)])
    objective = CompletionWriting(
        model,
        store,
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        seed=recipe.seed,
        recompute=recipe.recompute,
        weights=weights,
    )
    watch = DevWatch(
        lambda: dev_figures(model, recipe, train, dev),
        recipe.dev.metric,
        recipe.dev.times,
        len(dev.examples),
        recipe.dev.min_queries,
        "questions",
    )
    return fit_watched(objective, recipe.optim, run, watch)


def dev_figures(model: CausalLM, recipe: AnswerRecipe, train: AnswerPart, dev: AnswerPart) -> dict[str, float]:
    """How well the model does on dev; higher is better for all of them.

    `log_likelihood` of people's answers, mean over their tokens; where abstention is read also the `auc` of the reading
    alone, and the `abstention_f1` of the rule that is fitted on dev itself.
    """
    store = example_store(model.tokenizer, dev.written(), recipe.max_tokens).chosen
    found = CompletionReader(model).read_store(store, tokens_per_chunk=recipe.tokens_per_chunk)
    tokens = int((store.tokens.lengths - store.prompts).sum())
    figures = {"log_likelihood": float(found.sum() / max(1, tokens))}
    if recipe.abstain == "read":
        shares = _read(model, recipe, dev)
        rule = fit_abstention(shares, dev.evidence, train.evidence if recipe.coverage else None)
        figures["auc"] = answerable_auc(shares[:, 1], dev.answerable)
        figures["abstention_f1"] = abstention_f1(~rule.answers(shares, dev.evidence.others), dev.answerable)
    return figures


def _read(model: CausalLM, recipe: AnswerRecipe, part: AnswerPart) -> FloatArray64:
    """How likely no and yes are of each question. Shape: (questions, 2)."""
    asked = part.asked
    store = chat_store(model.tokenizer, asked, recipe.max_tokens)
    labels = label_tokens(model.tokenizer, asked, LABELS)
    logits = model.score_store(store, labels, tokens_per_chunk=recipe.tokens_per_chunk).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)
