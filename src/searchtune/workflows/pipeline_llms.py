"""The language models of a pipeline: one base in memory for all stages that have the same, and each stage's adapter."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchtune.errors import ArtifactError, ConfigError
from searchtune.models.precision import dtype_name, pick_device
from searchtune.models.sources import resolve_model
from searchtune.specs.card import CARD_FILE, LlmCard, adapter_folder
from searchtune.specs.pipeline import PipelineSpec

if TYPE_CHECKING:
    from searchtune.models.adapter_bank import AdapterBank, BankBackend
    from searchtune.models.generation import Allowed
    from searchtune.pipeline.judging import LlmJudge
    from searchtune.pipeline.stages import Answering
    from searchtune.workflows.open_rewriter import OpenRewriter


@dataclass(frozen=True)
class Role:
    """A language model's part in a pipeline: a base, with an adapter or without."""

    kind: str
    """`rewrite`, `answer` or `judge`."""
    root: Path
    """The base's folder."""
    adapter: Path | None
    card: LlmCard | None

    @property
    def name(self) -> str:
        """What it is opened by where a stage's own opener settles prompts: the adapter's folder, or the base's."""
        return str(self.adapter or self.root)


@dataclass
class LanguageModels:
    """Every role's model, those of one base in one bank. Weights are loaded for the first stage that asks."""

    roles: Mapping[str, Role]
    spec: PipelineSpec
    banks: dict[Path, AdapterBank] = field(default_factory=dict)
    backends: dict[str, BankBackend] = field(default_factory=dict)

    def backend(self, role: str, *, held_to_json: int | None = None) -> BankBackend:
        """What the stage of this role asks; `held_to_json` holds replies of so many tokens to an answer's JSON."""
        if role not in self.backends:
            one = self.roles[role]
            bank = self._bank(one.root)
            allowed = None if held_to_json is None else _answer_json(bank.model.tokenizer, held_to_json)
            self.backends[role] = bank.backend(None if one.adapter is None else role, allowed=allowed)
        return self.backends[role]

    def meter(self, *roles: str) -> Callable[[], int]:
        """How many tokens these roles have taken so far."""
        return lambda: sum(self.backends[role].spent.tokens for role in roles if role in self.backends)

    def _bank(self, root: Path) -> AdapterBank:
        if root not in self.banks:
            import torch

            from searchtune.models.adapter_bank import open_bank

            device = pick_device()
            adapters = {name: one.adapter for name, one in self.roles.items() if one.root == root and one.adapter}
            self.banks[root] = open_bank(
                adapters,
                base=str(root),
                dtype=getattr(torch, dtype_name(self.spec.precision, device.type)),
                device=device,
                quantise=self.spec.quantise,
            )
        return self.banks[root]


def _answer_json(tokenizer: Any, max_new_tokens: int) -> Allowed:
    from searchtune.models.held_json import HeldJson, Kind

    fields: dict[str, Kind] = {"answer": "text", "citations": "numbers", "abstained": "flag"}
    return HeldJson(tokenizer, fields, max_new_tokens=max_new_tokens)


def find_roles(spec: PipelineSpec) -> dict[str, Role]:
    """The language models that a pipeline asks for, by names; no weights are loaded.

    Raises:
        ArtifactError: an adapter is damaged, of another kind than its stage, or on another base than the stage names.
        ModelError: a base cannot be found.
    """
    found: dict[str, Role] = {}
    if spec.rewrite is not None:
        found["rewrite"] = _role("rewrite", spec.rewrite.adapter, spec.rewrite.base)
    if spec.answer is not None and spec.answer.adapter is not None:
        found["answer"] = _role("answer", spec.answer.adapter, None)
    if spec.answer is not None and spec.answer.base is not None:
        found["answer_base"] = _role("answer", None, spec.answer.base)
    if spec.judge is not None:
        is_adapter = (adapter_folder(spec.judge.adapter) / CARD_FILE).is_file()
        name = spec.judge.adapter
        found["judge"] = _role("judge", name, None) if is_adapter else _role("judge", None, name)
    return found


def _role(kind: str, adapter: str | None, base: str | None) -> Role:
    from searchtune.models.cards import check_base, read_llm_card

    if adapter is None:
        assert base is not None
        return Role(kind, resolve_model(base), None, None)
    folder = adapter_folder(adapter)
    card = read_llm_card(folder)
    if card.kind != kind:
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r} in the place of the stage {kind!r}; name one")
    root = resolve_model(base or card.base, None if base else card.revision)
    check_base(card, root)
    return Role(kind, root, folder, card)


def _options(spec: PipelineSpec, role: Role) -> dict[str, Any]:
    """What an opener is told, so that the identity it finds, on which marks in prompts depend, is that of the bank."""
    if role.adapter is not None:
        return {"base": str(role.root), "precision": spec.precision}
    return {"precision": spec.precision, "quantise": spec.quantise}


def make_rewriter(models: LanguageModels, max_new_tokens: int | None) -> OpenRewriter:
    """The rewriting stage under its own prompt, its model the bank's, which is loaded when it is asked for."""
    from searchtune.workflows.open_rewriter import open_rewriter

    role = models.roles["rewrite"]
    opened = open_rewriter(role.name, **_options(models.spec, role))
    return replace(
        opened, load=lambda: models.backend("rewrite"), max_new_tokens=max_new_tokens or opened.max_new_tokens
    )


def make_answerer(models: LanguageModels, role: str, max_new_tokens: int | None) -> Answering:
    """The answering stage of a role (`answer`, or `answer_base` without the adapter) under its own prompt."""
    from searchtune.workflows.open_answerer import open_answerer

    one = models.roles[role]
    opened = open_answerer(one.name, max_new_tokens=max_new_tokens, **_options(models.spec, one))

    def held(form: str, limit: int) -> BankBackend:
        return models.backend(role, held_to_json=limit if form == "json" else None)

    return replace(opened, load=held)


def make_judge(models: LanguageModels) -> LlmJudge:
    """The judging stage under its adapter's rubric and style."""
    from searchtune.pipeline.judging import LlmJudge
    from searchtune.workflows.open_judge import open_judge

    role = models.roles["judge"]
    opened = open_judge(role.name, **_options(models.spec, role))
    if opened.style is None:
        raise ConfigError(f"{role.name}: a reranker grades no passages in a pipeline; name a judge's adapter")
    return LlmJudge(models.backend("judge"), opened.rubric, opened.style, calibration=opened.calibration)
