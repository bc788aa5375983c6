"""After training a judge: write its adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from searchtune.data.judging import JudgePairs
from searchtune.metrics.grade_calibration import GradeCalibration
from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
from searchtune.models.probes import QUERY_WORDS, spread, synthetic_texts
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.judge import VERSIONS
from searchtune.prompts.rubrics import Rubric
from searchtune.reading import user_path
from searchtune.specs.card import LlmCard
from searchtune.specs.judge import JudgeRecipe
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.document_texts import template_of
from searchtune.workflows.judge_fit import graded_examples
from searchtune.workflows.judge_pairs import fingerprint_of
from searchtune.workflows.provenance import dev_metrics, now, spec_sha256, versions


@dataclass(frozen=True)
class TrainedJudge:
    """What training left in memory."""

    recipe: JudgeRecipe
    rubric: Rubric
    root: Path
    model: CausalLM
    adapter: Adapter
    log: TrainLog
    calibration: GradeCalibration
    pairs: JudgePairs
    examples: list[ChatExample]
    """Parallel to the pairs."""
    warnings: Sequence[str] = ()
    """What the run warned of."""


def write_judge(folder: Path, trained: TrainedJudge) -> Verification:
    """Put the trained weights on a fresh float32 base, record its probe scores, save, and verify in a new process.

    Raises:
        ArtifactError: the saved adapter does not give back the recorded scores.
    """
    recipe = trained.recipe
    model = load_causal_lm(
        trained.root, dtype=torch.float32, device=torch.device("cpu"), quantise=recipe.quantise, attention="eager"
    )
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    adapter.load_state(trained.adapter.state())
    positives = _positives(trained)
    save_llm_adapter(folder, model, adapter, _card(trained, positives), train_positives=positives)
    return verify_in_fresh_process(folder)


def _positives(trained: TrainedJudge) -> list[str]:
    """Ids of the passages that people call relevant in training, each once."""
    pairs = trained.pairs
    relevant = np.unique(pairs.docs[pairs.grades >= trained.rubric.min_grade])
    return [pairs.doc_ids[int(doc)] for doc in relevant]


def _probes(trained: TrainedJudge) -> list[ChatExample]:
    """A few prompts as the judge reads them, of made-up texts or of its training pairs."""
    recipe, tokenizer = trained.recipe, trained.model.tokenizer
    if recipe.probe == "data":
        return spread(trained.examples)
    queries = synthetic_texts(tokenizer, QUERY_WORDS)
    passages = synthetic_texts(tokenizer, recipe.max_tokens, seed=1)
    places, ids = np.arange(len(queries)), [str(number) for number in range(len(queries))]
    pairs = JudgePairs(ids, queries, ids, passages, places, places, np.zeros(len(queries), np.int64))
    return graded_examples(recipe, pairs, trained.rubric)


def _card(trained: TrainedJudge, positives: list[str]) -> LlmCard:
    recipe, rubric = trained.recipe, trained.rubric
    return LlmCard(
        kind="judge",
        name=f"{rubric.name}-judge",
        base=recipe.base if not user_path(recipe.base).is_dir() else str(trained.root),
        revision=recipe.revision,
        base_weights_sha256=weights_sha256(trained.root),
        tokenizer_sha256=tokenizer_sha256(trained.root),
        chat_template_sha256=chat_template_sha256(trained.root),
        max_tokens=recipe.max_tokens,
        quantise=recipe.quantise,
        prompt=f"judge/{recipe.style}",
        prompt_version=str(VERSIONS[recipe.style]),
        labels=[] if recipe.style == "likelihood" else list(rubric.labels),
        rubric=rubric.fields(),
        calibration=trained.calibration.to_json(),
        trainable_parameters=trained.adapter.trainable,
        recipe_sha256=spec_sha256(recipe),
        data_fingerprint=fingerprint_of(trained.pairs),
        doc_template=template_of(recipe.train.task),
        train_positives_sha256=sha256_json(positives),
        probe=chat_probe(_probes(trained)),
        metrics=dev_metrics(trained.log),
        versions=versions(),
        created=now(),
        extra={"probe": recipe.probe, "warnings": list(trained.warnings)},
    )
