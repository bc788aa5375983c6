"""Opening an answerer by name: an answerer's adapter, a plain language model, or a model behind an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache as once
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

from searchtune.errors import ArtifactError, ConfigError
from searchtune.metrics.abstention import DEFAULT_RULE, AbstentionRule
from searchtune.models.identity import identify_generator
from searchtune.models.precision import Precision, device_type, dtype_name, pick_device
from searchtune.prompts.answer import ANSWER_SCHEMA, VERSIONS, Abstain, AnswerPrompt, Format, Style
from searchtune.prompts.fences import draw_nonce
from searchtune.specs.card import CARD_FILE, LlmCard, adapter_folder
from searchtune.storage.fingerprint import sha256_json
from searchtune.types import Answer

if TYPE_CHECKING:
    from searchtune.models.backends import Backend
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.generator import CausalLM
    from searchtune.models.quantisation import Quantise
    from searchtune.models.remote import Budget
    from searchtune.pipeline.answering import AnswerRow, LlmAnswerer

_MAX_TOKENS = 4096
"""Of a prompt, for a plain language model; passages of longer ones lose their ends."""
_MAX_NEW_TOKENS = 160


@dataclass(frozen=True)
class OpenAnswerer:
    """An answerer by name; it is an `Answering` of `pipeline.stages`. Its weights are loaded at the first question."""

    name: str
    identity: Mapping[str, str]
    """All that its answers depend on, beside prompt, question and passages."""
    card: LlmCard | None
    """An adapter's."""
    prompt: AnswerPrompt
    load: Callable[[Format, int], Backend]
    """From the format that replies are held to, and how long they may be, to what is asked; loads once."""
    max_new_tokens: int = _MAX_NEW_TOKENS
    rule: AbstentionRule = DEFAULT_RULE
    """What it answers, where that is read."""
    close: Callable[[], None] = lambda: None

    @property
    def backend(self) -> Backend:
        """What is asked."""
        return self.load(self.prompt.format, self.max_new_tokens)

    @property
    def model(self) -> LlmAnswerer:
        """Backend and prompt together."""
        from searchtune.pipeline.answering import LlmAnswerer

        return LlmAnswerer(self.backend, self.prompt, self.max_new_tokens, self.rule)

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        """The answer to each question from its own passages; see `LlmAnswerer.answer`."""
        return self.model.answer(questions, passages)

    def stream(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> Iterator[AnswerRow]:
        """The same with all that is known of each; see `LlmAnswerer.stream`."""
        return self.model.stream(questions, passages)

    def under(self, prompt: AnswerPrompt, rule: AbstentionRule | None = None) -> OpenAnswerer:
        """The same model asked otherwise; the rule that was its own is then not kept."""
        return replace(self, prompt=prompt, rule=rule or DEFAULT_RULE)


def open_answerer(
    name: str,
    *,
    base: str | None = None,
    precision: Precision = "auto",
    quantise: Quantise | None = None,
    prompt: AnswerPrompt | None = None,
    max_new_tokens: int | None = None,
) -> OpenAnswerer:
    """An answerer's adapter, or a plain language model (folder, `package:NAME/path`, hub id).

    `base` is for an adapter whose base is not where its card says; `quantise` and `prompt` are for a plain model, since
    an adapter's card settles them. A plain model is asked under the prompt `full` and writes its abstentions.

    Raises:
        ModelError: there is no such model.
        ArtifactError: the adapter is damaged, of another kind, or its base is another one.
        ConfigError: settings that the card settles.
    """
    folder = adapter_folder(name)
    if not (folder / CARD_FILE).is_file():
        opened = _plain(name, quantise or "none", precision, prompt or AnswerPrompt("full"))
        return replace(opened, max_new_tokens=max_new_tokens or _MAX_NEW_TOKENS)
    from searchtune.models.cards import read_any_card

    card = read_any_card(folder)
    if not isinstance(card, LlmCard) or card.kind != "answer":
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}; an answerer's is needed here")
    if quantise is not None and quantise != card.quantise:
        raise ConfigError(f"{folder}: its card settles quantise: {card.quantise}; leave it out")
    if prompt is not None:
        raise ConfigError(f"{folder}: its card settles the prompt: {card.prompt}; leave it out")
    opened = _tuned(folder, card, base, precision)
    return opened if max_new_tokens is None else replace(opened, max_new_tokens=max_new_tokens)


def open_remote_answerer(
    endpoint: Endpoint, budget: Budget, prompt: AnswerPrompt | None = None, *, max_new_tokens: int | None = None
) -> OpenAnswerer:
    """An answerer behind an OpenAI-compatible address; JSON is asked for by its schema (`response_format`)."""
    from searchtune.models.remote import RemoteBackend

    prompt = prompt or AnswerPrompt("full")
    if prompt.format == "json":
        held = {"type": "json_schema", "json_schema": {"name": "answer", "strict": True, "schema": ANSWER_SCHEMA}}
        endpoint = replace(endpoint, extra={"response_format": held, **endpoint.extra})
    backend = RemoteBackend(endpoint, budget=budget)
    return OpenAnswerer(
        name=endpoint.model,
        identity=dict(backend.identity),
        card=None,
        prompt=_marked(prompt, backend.identity),
        load=lambda form, limit: backend,
        max_new_tokens=max_new_tokens or _MAX_NEW_TOKENS,
        close=backend.close,
    )


def _plain(name: str, quantise: Quantise, precision: Precision, prompt: AnswerPrompt) -> OpenAnswerer:
    from searchtune.models.sources import resolve_model

    root, dtype = resolve_model(name), dtype_name(precision, device_type())
    identity = identify_generator(root, adapter=None, quantise=quantise, dtype=dtype)
    identity |= {"max_tokens": str(_MAX_TOKENS)}

    def load() -> CausalLM:
        import torch

        from searchtune.models.generator import load_causal_lm

        return load_causal_lm(root, dtype=getattr(torch, dtype), device=pick_device(), quantise=quantise)

    return OpenAnswerer(name, identity, None, _marked(prompt, identity), _held(load, identity, _MAX_TOKENS))


def _tuned(folder: Path, card: LlmCard, base: str | None, precision: Precision) -> OpenAnswerer:
    from searchtune.models.cards import check_base
    from searchtune.models.sources import resolve_model

    root, dtype = (
        resolve_model(base or card.base, None if base else card.revision),
        dtype_name(precision, device_type()),
    )
    check_base(card, root)
    prompt = prompt_of(folder, card)
    identity = identify_generator(root, adapter=folder, quantise=card.quantise, dtype=dtype)
    identity |= {"max_tokens": str(card.max_tokens)}

    def load() -> CausalLM:
        import torch

        from searchtune.models.llm_artifact import load_llm_adapter

        return load_llm_adapter(folder, dtype=getattr(torch, dtype), device=pick_device(), base=base)[0]

    return OpenAnswerer(
        name=card.name,
        identity=identity,
        card=card,
        prompt=_marked(prompt, identity),
        load=_held(load, identity, card.max_tokens),
        max_new_tokens=int(card.extra.get("max_new_tokens", _MAX_NEW_TOKENS)),
        rule=rule_of(card),
    )


def prompt_of(folder: Path, card: LlmCard) -> AnswerPrompt:
    """The prompt that an answerer's card names, whose words must still be the ones it was trained under.

    Raises:
        ArtifactError: they are not, or the card's settings are unknown here.
    """
    named: dict[str, Any] = {name: card.extra.get(name) for name in ("format", "abstain")}
    for style in get_args(Style):
        known = card.prompt == f"answer/{style}" and card.prompt_version == str(VERSIONS[style])
        if known and named["format"] in get_args(Format) and named["abstain"] in get_args(Abstain):
            return AnswerPrompt(style, **named)
    raise ArtifactError(
        f"{folder}: trained under version {card.prompt_version} of the prompt {card.prompt!r} {named}, which is not "
        "here: use the searchtune that trained it, or train it anew"
    )


def rule_of(card: LlmCard) -> AbstentionRule:
    """What an answerer answers, as its card says; the default rule where it says nothing."""
    return DEFAULT_RULE if card.calibration is None else AbstentionRule.from_json(card.calibration)


def _marked(prompt: AnswerPrompt, identity: Mapping[str, str]) -> AnswerPrompt:
    return prompt.under(draw_nonce(sha256_json(dict(identity))))


def _held(
    load: Callable[[], CausalLM], identity: Mapping[str, str], max_tokens: int
) -> Callable[[Format, int], Backend]:
    """Loads the model once, and holds its replies to JSON where that is the format."""
    model = once(load)

    @once
    def backend(form: Format, max_new_tokens: int) -> Backend:
        from searchtune.models.backends import LocalBackend
        from searchtune.models.held_json import HeldJson, Kind

        own = model()
        held = None
        if form == "json":
            fields: dict[str, Kind] = {"answer": "text", "citations": "numbers", "abstained": "flag"}
            held = HeldJson(own.tokenizer, fields, max_new_tokens=max_new_tokens)
        return LocalBackend(own, identity, max_tokens=max_tokens, allowed=held)

    return backend
