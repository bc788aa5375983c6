"""After training a rewriter: write its adapter, prove in a fresh process that it reloads as trained."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from searchtune.models.adapters import Adapter, add_lora
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.llm_artifact import chat_probe, save_llm_adapter
from searchtune.models.probes import QUERY_WORDS, spread, synthetic_texts
from searchtune.models.sources import chat_template_sha256, tokenizer_sha256, weights_sha256
from searchtune.prompts.chat import ChatExample
from searchtune.prompts.rewrite import VERSIONS, RewritePrompt
from searchtune.reading import user_path
from searchtune.specs.card import LlmCard, RewriteUse
from searchtune.specs.rewrite import Mode, RewriteRecipe
from searchtune.storage.fingerprint import sha256_json
from searchtune.training.fit import TrainLog
from searchtune.types import Turn
from searchtune.workflows.adapter import Verification, verify_in_fresh_process
from searchtune.workflows.provenance import dev_metrics, now, spec_sha256, versions


@dataclass(frozen=True)
class TrainedRewriter:
    """What training left in memory."""

    recipe: RewriteRecipe
    prompt: RewritePrompt
    root: Path
    model: CausalLM
    adapter: Adapter
    log: TrainLog
    dev: Mapping[str, float]
    modes: Mapping[str, Mode]
    """Retriever -> how rewrites serve it best on dev."""
    data_fingerprint: str
    examples: Sequence[ChatExample]
    positives: Sequence[str] = ()
    """Ids of the documents that training knew as relevant."""
    abstention: Mapping[str, Any] | None = None
    """When its rewrites are used, as plain JSON."""
    warnings: Sequence[str] = ()
    """What the run warned of."""


def write_rewriter(folder: Path, trained: TrainedRewriter) -> Verification:
    """Put the trained weights on a fresh float32 base, record probe scores, save, and verify in a new process.

    Raises:
        ArtifactError: the saved adapter does not give back the recorded log-probabilities.
    """
    recipe = trained.recipe
    model = load_causal_lm(
        trained.root, dtype=torch.float32, device=torch.device("cpu"), quantise=recipe.quantise, attention="eager"
    )
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    adapter.load_state(trained.adapter.state())
    save_llm_adapter(folder, model, adapter, _card(trained), train_positives=list(trained.positives))
    return verify_in_fresh_process(folder)


def _probes(trained: TrainedRewriter) -> list[ChatExample]:
    """A few turns as the rewriter reads them, with a rewrite each: of made-up texts, or of the training set."""
    if trained.recipe.probe == "data":
        return spread(trained.examples)
    tokenizer = trained.model.tokenizer
    asked, rewritten, said = (synthetic_texts(tokenizer, QUERY_WORDS, seed=seed) for seed in range(3))
    replies = synthetic_texts(tokenizer, trained.recipe.max_tokens, seed=3)
    turns = [
        Turn(utterance, (("user", before), ("assistant", reply)))
        for utterance, before, reply in zip(asked, said, replies, strict=True)
    ]
    return [
        ChatExample(trained.prompt.conversation(turn), rewrite) for turn, rewrite in zip(turns, rewritten, strict=True)
    ]


def _card(trained: TrainedRewriter) -> LlmCard:
    recipe, prompt = trained.recipe, trained.prompt
    return LlmCard(
        kind="rewrite",
        name="rewriter",
        base=recipe.base if not user_path(recipe.base).is_dir() else str(trained.root),
        revision=recipe.revision,
        base_weights_sha256=weights_sha256(trained.root),
        tokenizer_sha256=tokenizer_sha256(trained.root),
        chat_template_sha256=chat_template_sha256(trained.root),
        max_tokens=recipe.max_tokens,
        quantise=recipe.quantise,
        prompt=f"rewrite/{prompt.style}",
        prompt_version=str(VERSIONS[prompt.style]),
        rewriting=RewriteUse(
            history_turns=prompt.history_turns,
            history_words=prompt.history_words,
            reply_words=prompt.reply_words,
            max_new_tokens=recipe.max_new_tokens,
            modes=dict(trained.modes),
        ),
        abstention=None if trained.abstention is None else dict(trained.abstention),
        trainable_parameters=trained.adapter.trainable,
        recipe_sha256=spec_sha256(recipe),
        data_fingerprint=trained.data_fingerprint,
        train_positives_sha256=sha256_json(list(trained.positives)),
        probe=chat_probe(_probes(trained)),
        metrics={**dev_metrics(trained.log), **{f"dev {name}": value for name, value in trained.dev.items()}},
        versions=versions(),
        created=now(),
        extra={"probe": recipe.probe, "warnings": list(trained.warnings)},
    )
