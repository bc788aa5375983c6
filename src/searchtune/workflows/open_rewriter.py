"""Opening a rewriter by name: a rewriter's adapter, a plain language model, or a model behind an address."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache as once
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from searchtune.errors import ArtifactError, ConfigError
from searchtune.models.identity import identify_generator
from searchtune.models.precision import Precision, device_type, dtype_name, pick_device
from searchtune.prompts.rewrite import VERSIONS, RewritePrompt, Style
from searchtune.specs.card import CARD_FILE, LlmCard, RewriteUse, adapter_folder
from searchtune.specs.rewrite import Mode
from searchtune.types import Turn

if TYPE_CHECKING:
    from searchtune.models.backends import Backend
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.quantisation import Quantise
    from searchtune.models.remote import Budget
    from searchtune.pipeline.rewriting import LlmRewriter, Rewritten

_FAR_TOKENS = 128
"""Of a rewrite by a model behind an address, which may begin with a line of its own."""
_MAX_TOKENS = 1024
"""Of a prompt, for a plain language model; histories of longer ones are cut."""


@dataclass(frozen=True)
class OpenRewriter:
    """A rewriter by name. Its weights are loaded when the first turn is rewritten."""

    name: str
    model: Mapping[str, str]
    """What the model's replies depend on, beside the prompt."""
    card: LlmCard | None
    """None for a model without an adapter."""
    prompt: RewritePrompt
    load: Callable[[], Backend]
    max_new_tokens: int = 64

    @property
    def identity(self) -> dict[str, str]:
        """All that a turn's rewrite depends on, beside the turn."""
        prompt = {name: str(value) for name, value in self.prompt.identity().items()}
        return {**self.model, **prompt, "max_new_tokens": str(self.max_new_tokens)}

    @property
    def backend(self) -> Backend:
        """The model itself."""
        return self.load()

    @cached_property
    def stage(self) -> LlmRewriter:
        """The model under its prompt."""
        from searchtune.pipeline.rewriting import LlmRewriter

        return LlmRewriter(self.backend, self.prompt, max_new_tokens=self.max_new_tokens)

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        """The query for each turn, in order; the utterance itself where the model says nothing."""
        return self.stage.rewrite(turns)

    def stream(self, turns: Sequence[Turn]) -> Iterator[Rewritten]:
        """The same one by one, with tokens and time."""
        yield from self.stage.stream(turns)

    def candidates(self, turns: Sequence[Turn], samples: int, temperature: float, seed: int) -> list[list[str]]:
        """Distinct queries for each turn: the likeliest first, then those of `samples` draws."""
        return self.stage.candidates(turns, samples, temperature, seed)

    def mode(self, retriever: str) -> Mode:
        """How its rewrites serve a retriever (`bm25`, `dense`) best, as its card says; `replace` where none does."""
        use = None if self.card is None else self.card.rewriting
        return "replace" if use is None else use.modes.get(retriever, "replace")


def open_rewriter(
    name: str,
    *,
    base: str | None = None,
    precision: Precision = "auto",
    quantise: Quantise | None = None,
    prompt: RewritePrompt | None = None,
) -> OpenRewriter:
    """A rewriter's adapter, or a plain language model (folder, `package:NAME/path`, hub id).

    `base` is for an adapter whose base is not where its card says; `quantise` and `prompt` (by default the style
    `full`) are for a plain model, since an adapter's card settles them.

    Raises:
        ModelError: there is no such model.
        ArtifactError: the adapter is damaged, of another kind, trained under another prompt, or its base is another.
        ConfigError: settings that the card settles.
    """
    folder = adapter_folder(name)
    if not (folder / CARD_FILE).is_file():
        return _plain(name, quantise or "none", precision, prompt or RewritePrompt("full"))
    from searchtune.models.cards import read_any_card

    card = read_any_card(folder)
    if not isinstance(card, LlmCard) or card.kind != "rewrite" or card.rewriting is None:
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}; a rewriter's is needed here")
    if prompt is not None:
        raise ConfigError(f"{folder}: its card settles the prompt, {card.prompt} {card.prompt_version}; leave it out")
    if quantise is not None and quantise != card.quantise:
        raise ConfigError(f"{folder}: its card settles quantise: {card.quantise}; leave it out")
    return _tuned(folder, card, card.rewriting, base, precision)


def open_remote_rewriter(endpoint: Endpoint, budget: Budget, prompt: RewritePrompt | None = None) -> OpenRewriter:
    """A rewriter behind an OpenAI-compatible address; a model that thinks first needs more than its 128 new tokens.

    Raises:
        MissingExtraError: httpx is not installed.
        ConfigError: the environment variable of the key is not set.
    """
    from searchtune.models.remote import RemoteBackend

    backend = RemoteBackend(endpoint, budget=budget)
    return OpenRewriter(
        endpoint.model, dict(backend.identity), None, prompt or RewritePrompt("full"), lambda: backend, _FAR_TOKENS
    )


def _plain(name: str, quantise: Quantise, precision: Precision, prompt: RewritePrompt) -> OpenRewriter:
    from searchtune.models.sources import resolve_model

    root, dtype = resolve_model(name), dtype_name(precision, device_type())
    identity = identify_generator(root, adapter=None, quantise=quantise, dtype=dtype)
    identity |= {"max_tokens": str(_MAX_TOKENS)}

    def load() -> Backend:
        import torch

        from searchtune.models.backends import LocalBackend
        from searchtune.models.generator import load_causal_lm

        model = load_causal_lm(root, dtype=getattr(torch, dtype), device=pick_device(), quantise=quantise)
        return LocalBackend(model, identity, max_tokens=_MAX_TOKENS)

    return OpenRewriter(name, identity, None, prompt, once(load))


def _tuned(folder: Path, card: LlmCard, use: RewriteUse, base: str | None, precision: Precision) -> OpenRewriter:
    from searchtune.models.cards import check_base
    from searchtune.models.sources import resolve_model

    root, dtype = (
        resolve_model(base or card.base, None if base else card.revision),
        dtype_name(precision, device_type()),
    )
    check_base(card, root)
    prompt = RewritePrompt(_style(folder, card), use.history_turns, use.history_words, use.reply_words)
    identity = identify_generator(root, adapter=folder, quantise=card.quantise, dtype=dtype)
    identity |= {"max_tokens": str(card.max_tokens)}
    load = once(partial(_load_tuned, folder, base, dtype, identity, card.max_tokens))
    return OpenRewriter(str(folder), identity, card, prompt, load, use.max_new_tokens)


def _load_tuned(folder: Path, base: str | None, dtype: str, identity: Mapping[str, str], max_tokens: int) -> Backend:
    import torch

    from searchtune.models.backends import LocalBackend
    from searchtune.models.llm_artifact import load_llm_adapter

    model, _ = load_llm_adapter(folder, dtype=getattr(torch, dtype), device=pick_device(), base=base)
    return LocalBackend(model, identity, max_tokens=max_tokens)


def _style(folder: Path, card: LlmCard) -> Style:
    """The style of its prompt, whose words must still be the ones it was trained under."""
    for style in get_args(Style):
        if card.prompt == f"rewrite/{style}" and card.prompt_version == str(VERSIONS[style]):
            found: Style = style
            return found
    raise ArtifactError(
        f"{folder}: trained under version {card.prompt_version} of the prompt {card.prompt!r}, which is not here: use "
        "the searchtune that trained it, or train it anew"
    )
