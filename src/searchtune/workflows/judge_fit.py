"""The training of a judge itself: its prompts, its objective, and how it reads dev on the way.

Most styles ask for a grade and learn from its label; the style `likelihood` asks for the query and learns from what the
passage makes of its likelihood.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from searchtune.data.judging import JudgePairs
from searchtune.metrics.grade_calibration import best_threshold
from searchtune.metrics.query_likelihood import grade_shares
from searchtune.models.backends import LocalBackend, label_tokens
from searchtune.models.chat import chat_store, example_store
from searchtune.models.generator import CausalLM
from searchtune.pipeline.judging import read_told
from searchtune.prompts.canaries import TRAINING_CANARIES, plant_all
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import judge_conversation
from searchtune.prompts.query_likelihood import bare_example, query_example
from searchtune.prompts.rubrics import Rubric
from searchtune.specs.judge import JudgeRecipe
from searchtune.training.fit import TrainLog
from searchtune.training.labels import LabelExamples, LabelReading
from searchtune.training.query_likelihood import LikelihoodExamples, QueryLikelihood
from searchtune.types import FloatArray64
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.run_folder import TrainingRun


@dataclass(frozen=True, eq=False)
class Split:
    """Pairs as a judge reads them: parallel to `examples`, whose completion is empty where a label is asked for."""

    pairs: JudgePairs
    examples: list[ChatExample]


class JudgeData(NamedTuple):
    """What a judge is fitted on, under which rubric."""

    train: Split
    dev: Split
    rubric: Rubric


def graded_examples(recipe: JudgeRecipe, pairs: JudgePairs, rubric: Rubric) -> list[ChatExample]:
    """One prompt a pair; all pairs of a query share a nonce, so that their prompts begin alike."""
    return [_example(recipe, pairs, i, pairs.texts(i)[1], rubric) for i in range(len(pairs))]


def training_examples(recipe: JudgeRecipe, pairs: JudgePairs, rubric: Rubric) -> list[ChatExample]:
    """The prompts, with canaries planted into a share of the pairs that are not relevant."""
    examples = graded_examples(recipe, pairs, rubric)
    low = np.flatnonzero(pairs.grades < rubric.min_grade)
    chosen = np.random.default_rng(recipe.seed).permutation(low)[: round(recipe.canary_share * len(low))]
    if len(chosen):
        queries, passages = zip(*(pairs.texts(int(i)) for i in chosen), strict=True)
        for one in plant_all(queries, passages, rubric, seed=recipe.seed, canaries=TRAINING_CANARIES):
            place = int(chosen[one.pair])
            examples[place] = _example(recipe, pairs, place, one.passage, rubric)
    return examples


def fit_judge(recipe: JudgeRecipe, run: TrainingRun, model: CausalLM, data: JudgeData) -> TrainLog:
    """Train the adapter that `model` carries; the best weights on dev are kept."""
    train, dev, rubric = data
    make = _likelihood_objective if recipe.style == "likelihood" else _label_objective
    objective, truncated = make(recipe, model, train, rubric)
    tell_cut(
        run.progress, CutTexts(truncated, len(train.examples), "training passages"), "max_tokens", recipe.max_tokens
    )
    watch = DevWatch(
        lambda: dev_figures(read_split(model, recipe, dev, rubric), dev.pairs, rubric.min_grade),
        recipe.dev.metric,
        recipe.dev.times,
        len(np.unique(dev.pairs.queries)),
        recipe.dev.min_queries,
    )
    return fit_watched(objective, recipe.optim, run, watch)


def read_split(model: CausalLM, recipe: JudgeRecipe, split: Split, rubric: Rubric) -> FloatArray64:
    """How likely each grade is. Shape: (pairs, grades)."""
    if recipe.style == "likelihood":
        backend = LocalBackend(model, {}, max_tokens=recipe.max_tokens, tokens_per_batch=recipe.tokens_per_chunk)
        told = read_told(backend, split.examples, _bare(recipe, split.pairs), split.pairs.queries)
        return grade_shares(told.shares, len(rubric.labels), rubric.min_grade)
    prompts = [example.messages for example in split.examples]
    store = chat_store(model.tokenizer, prompts, recipe.max_tokens)
    labels = label_tokens(model.tokenizer, prompts, rubric.labels)
    logits = model.score_store(
        store, labels, groups=split.pairs.queries, tokens_per_chunk=recipe.tokens_per_chunk
    ).astype(np.float64)
    shares = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True), dtype=np.float64)


def dev_figures(probabilities: FloatArray64, pairs: JudgePairs, min_grade: int) -> dict[str, float]:
    """How far readings agree with people; higher is better for all of them.

    `kappa` at the best threshold, `auc` within queries, and `log_likelihood` of the person's grade, mean over pairs.
    """
    relevant = pairs.grades >= min_grade
    chance = probabilities[:, min_grade:].sum(axis=1)
    areas = []
    for query in np.unique(pairs.queries):
        own = pairs.queries == query
        high, low = chance[own & relevant], chance[own & ~relevant]
        if len(high) and len(low):
            above = (high[:, None] > low).mean() + (high[:, None] == low).mean() / 2
            areas.append(float(above))
    likely = np.log(np.maximum(probabilities[np.arange(len(pairs)), pairs.grades], 1e-9))
    return {
        "kappa": best_threshold(chance, relevant).kappa,
        "auc": float(np.mean(areas)) if areas else float("nan"),
        "log_likelihood": float(likely.mean()),
    }


def _nonce(recipe: JudgeRecipe, query_id: str) -> str:
    return draw_nonce(f"{recipe.seed} {query_id}")


def _example(recipe: JudgeRecipe, pairs: JudgePairs, i: int, passage: str, rubric: Rubric) -> ChatExample:
    query, nonce = pairs.texts(i)[0], _nonce(recipe, pairs.ids(i)[0])
    if recipe.style == "likelihood":
        return query_example(query, passage, nonce)
    return ChatExample(judge_conversation(query, passage, rubric, nonce, style=recipe.style), "")


def _bare(recipe: JudgeRecipe, pairs: JudgePairs) -> list[ChatExample]:
    """Every query after no passage, in the order of the pairs' queries."""
    return [
        bare_example(text, _nonce(recipe, query))
        for query, text in zip(pairs.query_ids, pairs.query_texts, strict=True)
    ]


def _label_objective(recipe: JudgeRecipe, model: CausalLM, train: Split, rubric: Rubric) -> tuple[LabelReading, int]:
    """The objective, and how many prompts were cut."""
    prompts = [example.messages for example in train.examples]
    store = chat_store(model.tokenizer, prompts, recipe.max_tokens)
    labels = label_tokens(model.tokenizer, prompts, rubric.labels)
    targets = np.zeros((len(prompts), len(labels)), dtype=np.float32)
    targets[np.arange(len(targets)), train.pairs.grades] = 1
    objective = LabelReading(
        model,
        LabelExamples(store, labels, targets),
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        seed=recipe.seed,
        recompute=recipe.recompute,
    )
    return objective, store.truncated


def _likelihood_objective(
    recipe: JudgeRecipe, model: CausalLM, train: Split, rubric: Rubric
) -> tuple[QueryLikelihood, int]:
    """The objective, and how many prompts were cut."""
    texts = [*train.examples, *_bare(recipe, train.pairs)]
    store = example_store(model.tokenizer, texts, recipe.max_tokens, ended=False).chosen
    objective = QueryLikelihood(
        model,
        LikelihoodExamples(store, train.pairs.queries, train.pairs.grades, len(rubric.labels), rubric.min_grade),
        batch_size=recipe.optim.batch_size,
        tokens_per_chunk=recipe.tokens_per_chunk,
        seed=recipe.seed,
        recompute=recipe.recompute,
    )
    return objective, store.tokens.truncated
