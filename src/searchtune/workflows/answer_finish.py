"""After training an answerer: write its adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from searchtune.data.answering import AnswerExample
from searchtune.metrics.abstention import AbstentionRule
from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
from searchtune.models.probes import QUERY_WORDS, spread, synthetic_texts
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.answer import LABELS, VERSIONS
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.fences import draw_nonce
from searchtune.reading import user_path
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.card import LlmCard
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.answer_sets import AnswerPart, answer_prompt
from searchtune.workflows.document_texts import template_of
from searchtune.workflows.provenance import dev_metrics, now, spec_sha256, versions


@dataclass(frozen=True)
class TrainedAnswerer:
    """What training left in memory."""

    recipe: AnswerRecipe
    root: Path
    model: CausalLM
    adapter: Adapter
    log: TrainLog
    rule: AbstentionRule | None
    train: AnswerPart
    data_fingerprint: str
    warnings: Sequence[str] = ()
    """What the run warned of."""


def write_answerer(folder: Path, trained: TrainedAnswerer) -> Verification:
    """Put the trained weights on a fresh float32 base, record probe scores, save, and verify in a new process.

    Raises:
        ArtifactError: the saved adapter does not give back the recorded scores.
    """
    recipe = trained.recipe
    model = load_causal_lm(
        trained.root, dtype=torch.float32, device=torch.device("cpu"), quantise=recipe.quantise, attention="eager"
    )
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    adapter.load_state(trained.adapter.state())
    positives = _positives(trained.train)
    save_llm_adapter(folder, model, adapter, _card(trained, positives), train_positives=positives)
    return verify_in_fresh_process(folder)


def _positives(part: AnswerPart) -> list[str]:
    """Ids of the gold passages of training, each once."""
    return sorted({one.passage_ids[place] for one in part.examples for place in one.gold})


def _probes(trained: TrainedAnswerer) -> list[ChatExample]:
    """A few conversations whose word is read, or whole answers: of made-up texts, or of the training set."""
    part = trained.train if trained.recipe.probe == "data" else _made_up(trained)
    return spread(part.labelled() or part.written())


def _made_up(trained: TrainedAnswerer) -> AnswerPart:
    """Questions that mean nothing, with two passages each, the first of which answers."""
    tokenizer, prompt = trained.model.tokenizer, answer_prompt(trained.recipe)
    questions = synthetic_texts(tokenizer, QUERY_WORDS)
    first, second = (synthetic_texts(tokenizer, trained.recipe.max_tokens, seed=seed) for seed in (1, 2))
    answers = synthetic_texts(tokenizer, QUERY_WORDS, seed=3)
    examples = [
        AnswerExample(str(number), question, tuple(passages), (0,), (answer,), ("0", "1"))
        for number, (question, answer, *passages) in enumerate(zip(questions, answers, first, second, strict=True))
    ]
    return AnswerPart(examples, [prompt.under(draw_nonce(one.id)) for one in examples])


def _card(trained: TrainedAnswerer, positives: list[str]) -> LlmCard:
    recipe = trained.recipe
    extra: dict[str, Any] = {
        "format": recipe.format,
        "abstain": recipe.abstain,
        "max_new_tokens": recipe.max_new_tokens,
        "probe": recipe.probe,
        "warnings": list(trained.warnings),
    }
    return LlmCard(
        kind="answer",
        name="answerer",
        base=recipe.base if not user_path(recipe.base).is_dir() else str(trained.root),
        revision=recipe.revision,
        base_weights_sha256=weights_sha256(trained.root),
        tokenizer_sha256=tokenizer_sha256(trained.root),
        chat_template_sha256=chat_template_sha256(trained.root),
        max_tokens=recipe.max_tokens,
        quantise=recipe.quantise,
        prompt=f"answer/{recipe.style}",
        prompt_version=str(VERSIONS[recipe.style]),
        labels=list(LABELS) if recipe.abstain == "read" else [],
        calibration=None if trained.rule is None else trained.rule.to_json(),
        trainable_parameters=trained.adapter.trainable,
        recipe_sha256=spec_sha256(recipe),
        data_fingerprint=trained.data_fingerprint,
        doc_template=template_of(recipe.train.task),
        train_positives_sha256=sha256_json(positives),
        probe=chat_probe(_probes(trained)),
        metrics=dev_metrics(trained.log),
        versions=versions(),
        created=now(),
        extra=extra,
    )
