"""`AdapterBank`: one causal language model in memory under several LoRA adapters, one of them at a time.

Rewriter, answerer and judge of a pipeline are often adapters of one base. The bank holds that base once, in float32,
bf16 or 4 bits, with every adapter's matrices beside it, unmerged, and switches between them for each request: what an
adapter adds to memory is its own matrices and nothing else. Switching moves no weight, so that a prompt has the same
scores to the last bit before and after. Requests wait for each other.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from searchtune.errors import ArtifactError, ConfigError, did_you_mean
from searchtune.models.backends import LabelReadings, Likelihoods, LocalBackend, Reply
from searchtune.models.cards import check_base, read_llm_card, score_difference
from searchtune.models.generation import Allowed, Sampling
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.identity import identify_generator
from searchtune.models.llm_artifact import llm_probe_scores
from searchtune.models.opening import opening
from searchtune.models.quantisation import Quantise
from searchtune.models.quiet import quiet
from searchtune.models.sources import resolve_model
from searchtune.prompts.chat import ChatExample, Conversation
from searchtune.specs.card import LlmCard, adapter_folder

PLAIN_TOKENS = 4096
"""Of a prompt for the base without an adapter, which has no card that says; passages of longer ones lose their ends."""
_WINDOW = 256
"""Conversations between which others get their turn."""


@dataclass
class Spent:
    """What requests have taken so far."""

    prompt_tokens: int = 0
    completion_tokens: int = 0

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens


class AdapterBank:
    """A base with adapters, by names of the caller's choice. Threads may share it."""

    def __init__(self, model: CausalLM, root: Path, quantise: Quantise) -> None:
        """A bank without adapters around a model that was loaded from `root`; use `open_bank`."""
        self.model = model
        self.root = root
        self.quantise: Quantise = quantise
        self.cards: dict[str, LlmCard] = {}
        self.folders: dict[str, Path] = {}
        self._peft: Any = None
        self._turn = threading.RLock()
        self._active: str | None = None

    @quiet()
    def add(self, name: str, folder: Path | str) -> LlmCard:
        """Put the adapter in `folder` (or in that run's folder) beside the base, to be called `name`.

        Raises:
            ArtifactError: it is damaged, no language model's adapter, or was trained on another base, tokenizer or
                chat template.
            ConfigError: the name is taken, or not one that peft takes.
        """
        if name in self.cards or not name.isidentifier():
            raise ConfigError(f"adapter name {name!r}: names are identifiers, each one once (there: {self._names()})")
        folder = adapter_folder(folder)
        card = read_llm_card(folder)
        check_base(card, self.root)
        with self._turn:
            with opening(folder, f"peft cannot put this adapter onto {self.root}", ArtifactError):
                if self._peft is None:
                    self._peft = PeftModel.from_pretrained(self.model.backbone, str(folder), adapter_name=name)
                else:
                    self._peft.load_adapter(str(folder), adapter_name=name)
            self._to_dtype(name)
            self.cards[name], self.folders[name] = card, folder
            self._active = ""  # nothing known: the next request switches
        return card

    @contextmanager
    def using(self, name: str | None) -> Iterator[CausalLM]:
        """The model as the adapter `name` makes it, None for the base alone; others wait until the block ends.

        Raises:
            ConfigError: no such adapter.
        """
        if name is not None and name not in self.cards:
            raise ConfigError(f"no adapter {name!r} in this bank{did_you_mean(name, self.cards)}")
        with self._turn:
            before = self._active
            self._switch(name)
            try:
                yield self.model
            finally:
                if before != self._active and before != "":  # a request within another one's block
                    self._switch(before)

    def backend(
        self, name: str | None, *, allowed: Allowed | None = None, max_tokens: int | None = None
    ) -> BankBackend:
        """What a stage asks: the model under one adapter, or the base. `max_tokens` bounds prompts [the card's]."""
        if name is not None and name not in self.cards:
            raise ConfigError(f"no adapter {name!r} in this bank{did_you_mean(name, self.cards)}")
        settled = max_tokens or (PLAIN_TOKENS if name is None else self.cards[name].max_tokens)
        identity = identify_generator(
            self.root,
            adapter=None if name is None else self.folders[name],
            quantise=self.quantise,
            dtype=str(self.model.dtype).removeprefix("torch."),
        )
        return BankBackend(self, name, LocalBackend(self.model, identity, max_tokens=settled, allowed=allowed))

    def verify(self) -> dict[str, float]:
        """By adapter: how far the scores of its probe are from those recorded at training, largest difference.

        In float32 on the base that it was trained on they are within the card's tolerance; bf16 rounds more coarsely.
        """
        found = {}
        for name, card in self.cards.items():
            with self.using(name) as model:
                found[name] = score_difference(self.folders[name], card.probe, llm_probe_scores(model, card))
        return found

    def _switch(self, name: str | None) -> None:
        if self._peft is None or name == self._active:
            self._active = name
            return
        if name is None:
            self._peft.base_model.disable_adapter_layers()
        else:
            self._peft.base_model.enable_adapter_layers()
            self._peft.set_adapter(name, inference_mode=True)
        self._active = name

    def _to_dtype(self, name: str) -> None:
        """Hold an adapter's matrices in the type that the base computes in, and train none of them."""
        for path, parameter in self._peft.named_parameters():
            if f".{name}." in path or path.endswith(f".{name}"):
                parameter.data = parameter.data.to(self.model.dtype)
                parameter.requires_grad_(False)

    def _names(self) -> str:
        return ", ".join(self.cards) or "none"


class BankBackend:
    """A `Backend` whose model is a bank's under one adapter. `spent` grows with every request."""

    def __init__(self, bank: AdapterBank, name: str | None, local: LocalBackend) -> None:
        self.bank = bank
        self.name = name
        self.spent = Spent()
        self._local = local

    @property
    def identity(self) -> Mapping[str, str]:
        return self._local.identity

    @property
    def max_tokens(self) -> int:
        return self._local.max_tokens

    def read_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> LabelReadings:
        """As `LocalBackend.read_labels`."""
        with self.bank.using(self.name):
            found = self._local.read_labels(conversations, labels)
        self.spent.prompt_tokens += found.prompt_tokens
        return found

    def log_likelihoods(self, examples: Sequence[ChatExample]) -> Likelihoods:
        """As `LocalBackend.log_likelihoods`."""
        with self.bank.using(self.name):
            found = self._local.log_likelihoods(examples)
        self.spent.prompt_tokens += found.prompt_tokens
        return found

    def complete(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[Reply]:
        """As `LocalBackend.complete`; between windows of conversations other requests have their turn."""
        for start in range(0, len(conversations), _WINDOW):
            with self.bank.using(self.name):  # not held while the caller looks at replies
                replies = list(self._local.complete(conversations[start : start + _WINDOW], sampling))
            for reply in replies:
                self.spent.prompt_tokens += reply.prompt_tokens
                self.spent.completion_tokens += reply.completion_tokens
                yield replace(reply, conversation=start + reply.conversation)


def open_bank(
    adapters: Mapping[str, Path | str],
    *,
    dtype: torch.dtype,
    device: torch.device,
    base: str | None = None,
    quantise: Quantise | None = None,
) -> AdapterBank:
    """One base with the adapters of these folders (or runs), by name.

    `base` is the model where there is no adapter, or where it is not where the cards say; None takes the cards' own.
    `quantise` None takes what the adapters were trained on.

    Raises:
        ArtifactError: an adapter is damaged, or its base is another one than the first one's.
        ConfigError: neither base nor adapter, or adapters that were trained on the base in different bits.
        ModelError, MissingExtraError: the base cannot be opened.
    """
    cards = {name: read_llm_card(adapter_folder(folder)) for name, folder in adapters.items()}
    first = next(iter(cards.values()), None)
    if base is not None:
        root = resolve_model(base)
    elif first is not None:
        root = resolve_model(first.base, first.revision)
    else:
        raise ConfigError("a bank needs a base: name a model, or an adapter whose card names one")
    for card in cards.values():
        check_base(card, root)
    bits = {card.quantise for card in cards.values()}
    if quantise is None and len(bits) > 1:
        told = ", ".join(f"{name}: {card.quantise}" for name, card in cards.items())
        raise ConfigError(f"adapters were trained on their base in different bits ({told}): set quantise: none or nf4")
    settled: Quantise = "nf4" if (quantise or next(iter(bits), "none")) == "nf4" else "none"
    bank = AdapterBank(load_causal_lm(root, dtype=dtype, device=device, quantise=settled), root, settled)
    for name, folder in adapters.items():
        bank.add(name, folder)
    bank.model.eval()
    return bank
