"""After training an answerer: write its adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from searchtune.metrics.abstention import AbstentionRule
from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.answer import LABELS, VERSIONS
from searchtune.prompts.chat import ChatExample
from searchtune.reading import user_path
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.card import LlmCard
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.answer_sets import AnswerPart
from searchtune.workflows.document_texts import template_of
from searchtune.workflows.provenance import now, spec_sha256, versions

_PROBES = 8


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


def _probes(part: AnswerPart) -> list[ChatExample]:
    """A few examples, spread over the training set: conversations whose word is read, or whole answers."""
    examples = part.labelled() or part.written()
    places = np.unique(np.linspace(0, len(examples) - 1, num=_PROBES).astype(int))
    return [examples[int(place)] for place in places]


def _card(trained: TrainedAnswerer, positives: list[str]) -> LlmCard:
    recipe = trained.recipe
    extra: dict[str, Any] = {
        "format": recipe.format,
        "abstain": recipe.abstain,
        "max_new_tokens": recipe.max_new_tokens,
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
        probe=chat_probe(_probes(trained.train)),
        metrics={f"dev {name}": value for name, value in (trained.log.best_dev or {}).items()},
        versions=versions(),
        created=now(),
        extra=extra,
    )
