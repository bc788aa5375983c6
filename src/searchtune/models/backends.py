"""`Backend`: a language model that reads conversations, here or far away, behind two questions.

`read_labels` asks how likely each of a few labels is as the whole reply; `complete` asks for the reply itself. What
answers depend on is said by `identity`, so that answers can be kept and told apart. `LocalBackend` is a model in this
process; `models/remote.py` has one behind an address. Nothing here knows a task.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import numpy as np

from searchtune.errors import ConfigError, ModelError
from searchtune.models.chat import ChatFormat, PromptTooLongError, chat_store, example_store, too_long
from searchtune.models.completions import CompletionReader
from searchtune.models.cut_count import CutCount
from searchtune.models.generation import Allowed, Finish, Sampling, generate
from searchtune.models.generator import CausalLM
from searchtune.models.inputs import TokenStore
from searchtune.prompts.chat import ChatExample, Conversation
from searchtune.prompts.reply_text import ReplyText, spoken
from searchtune.types import FloatArray64

Source = Literal["probabilities", "text"]
"""What a label was read from: the model's distribution, or the words of its reply."""

_WINDOW = 256
"""Conversations that are read together: enough to put similar lengths side by side, few enough to hand on soon."""


@dataclass(frozen=True, eq=False)
class LabelReadings:
    """How likely each label is as the reply to each conversation.

    Shape: probabilities (conversations, labels), each row sums to 1 or is NaN; outside (conversations,).
    """

    probabilities: FloatArray64
    reasons: tuple[str | None, ...]
    """Why a row could not be read; None where it could."""
    outside: FloatArray64
    """The share of the model's whole distribution that is on no label; NaN where that is not known."""
    prompt_tokens: int
    completion_tokens: int
    refused: frozenset[int] = frozenset()
    """Conversations that were turned down for what they hold, as too long ones are."""
    unanswered: frozenset[int] = frozenset()
    """Those for which no reply came at all."""


class LabelRow(NamedTuple):
    """What was read of one conversation, for those who want each as soon as it is there."""

    conversation: int
    """Its place among those asked."""
    shares: FloatArray64 | None
    """The distribution over the labels; None where it could not be read. Shape: (labels,)."""
    outside: float
    reason: str | None
    """Why it could not be read; None where it could."""
    answered: bool
    """False where no reply came at all, so that asking again may help."""
    prompt_tokens: int
    completion_tokens: int
    seconds: float
    """Since the reading before; for conversations read together, each one's share of the batch."""
    refused: bool = False
    """Turned down for what it holds, so that asking again would not help, as far as others are answered."""
    source: Source | None = None
    """What it was read from; None where it could not be read."""


@dataclass(frozen=True)
class Reply:
    """One reply to one conversation."""

    conversation: int
    """Its place among those asked."""
    sample: int
    text: str | None
    reason: str | None
    """Why there is no text; None where there is."""
    finish: Finish | None
    """`length` where the reply was cut off."""
    prompt_tokens: int
    """Of the conversation: counted with its first sample only, so that sums are right."""
    completion_tokens: int
    seconds: float
    """From question to reply; for replies generated together, each one's share of the batch."""
    settled: bool = False
    """Where there is no text: whether one came that cannot be used, so that asking again would not help."""
    refused: bool = False
    """As in `LabelRow`."""


def spoken_reply(reply: Reply) -> ReplyText:
    """What a reply says without its reasoning, or why it says nothing."""
    return ReplyText(None, reply.reason or "no reply") if reply.text is None else spoken(reply.text)


class Backend(Protocol):
    """Anything that answers conversations."""

    @property
    def identity(self) -> Mapping[str, str]:
        """What answers depend on besides conversation, labels and sampling."""

    def read_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> LabelReadings:
        """The distribution over `labels` as the beginning of each reply."""

    def complete(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[Reply]:
        """Replies in the order of the conversations, samples one after another, as soon as they are there."""


class Likelihoods(NamedTuple):
    """How likely given replies are."""

    values: FloatArray64
    """Natural log-probability of each reply's words, without the end of turn. Shape: (examples,)."""
    prompt_tokens: int
    completion_tokens: int
    long: frozenset[int] = frozenset()
    """Examples that are too long whatever is cut; their values are NaN."""


@runtime_checkable
class LikelihoodBackend(Protocol):
    """A backend that also says how likely a reply is that it did not write."""

    def log_likelihoods(self, examples: Sequence[ChatExample]) -> Likelihoods:
        """Log-probability of the completion of each example."""


class LocalBackend:
    """A causal language model in this process.

    `max_tokens` bounds a conversation's prompt; passages of longer ones lose their ends. `max_tokens` is part of the
    identity, with what the caller knows of the model (see `identify_generator`).
    """

    def __init__(
        self,
        model: CausalLM,
        identity: Mapping[str, str],
        *,
        max_tokens: int = 4096,
        tokens_per_batch: int = 8192,
        allowed: Allowed | None = None,
        cuts: CutCount | None = None,
    ) -> None:
        """`cuts` counts the prompts that are read, and those whose passages lost their ends."""
        self.model = model
        self.cuts = CutCount() if cuts is None else cuts
        self.max_tokens = max_tokens
        self.tokens_per_batch = tokens_per_batch
        self.allowed = allowed
        self._identity = {**identity, "max_tokens": str(max_tokens)}

    @property
    def identity(self) -> Mapping[str, str]:
        return dict(self._identity)

    def read_labels(self, conversations: Sequence[Conversation], labels: Sequence[str]) -> LabelReadings:
        """One forward pass over what conversations do not share; no token is generated.

        What all conversations begin with is read once, then what those of one query begin with, which are found by
        their first messages being alike up to a passage. A conversation whose fixed text alone is too long is refused.

        Raises:
            ConfigError: a label twice, or no label.
            ModelError: a label that is not one token after the prompt, or a template that cannot write these turns.
        """
        check_labels(labels)
        places, store, long = self._store(conversations, self.max_tokens)
        if long:
            return _with_long_ones(self.read_labels([conversations[i] for i in places], labels), places, long)
        self.cuts.add(len(conversations), store.truncated)
        entries = label_tokens(self.model.tokenizer, conversations, labels)
        scores = self.model.score_store(
            store,
            entries,
            groups=np.array(_beginnings(conversations), dtype=np.int64),
            tokens_per_chunk=self.tokens_per_batch,
            normalised=True,
        ).astype(np.float64)
        probabilities, outside = restricted(scores)
        return LabelReadings(
            probabilities=probabilities,
            reasons=tuple(
                "the model's numbers are not finite" if np.isnan(row).any() else None for row in probabilities
            ),
            outside=outside,
            prompt_tokens=int(store.lengths.sum()),
            completion_tokens=0,
        )

    def log_likelihoods(self, examples: Sequence[ChatExample]) -> Likelihoods:
        """One forward pass over prompts and replies, those of similar length together.

        Raises:
            ConfigError, ModelError: as `read_labels`.
        """
        if not examples:
            return Likelihoods(np.zeros(0), 0, 0)
        try:
            chosen = example_store(self.model.tokenizer, examples, self.max_tokens, ended=False).chosen
        except PromptTooLongError:
            return self._short_likelihoods(examples)
        self.cuts.add(len(examples), chosen.tokens.truncated)
        values = CompletionReader(self.model).read_store(chosen, tokens_per_chunk=self.tokens_per_batch)
        prompts = int(chosen.prompts.sum())
        return Likelihoods(values.astype(np.float64), prompts, int(chosen.tokens.lengths.sum()) - prompts)

    def complete(self, conversations: Sequence[Conversation], sampling: Sampling) -> Iterator[Reply]:
        """Replies, 256 conversations at a time, those of similar length together.

        Prompts are cut so that there is room for `max_new_tokens`; one that cannot be is refused.

        Raises:
            ConfigError, ModelError: as `read_labels`, and a `max_new_tokens` that leaves no room for any prompt.
        """
        limit = self._prompt_limit(sampling.max_new_tokens) if conversations else self.max_tokens
        for start in range(0, len(conversations), _WINDOW):
            window = conversations[start : start + _WINDOW]
            places, store, long = self._store(window, limit)
            self.cuts.add(len(window), store.truncated)
            replies = {place: _refusals(start + place, why, sampling.samples) for place, why in long.items()}
            began = time.perf_counter()
            for row, own in generate(
                self.model, store, sampling, allowed=self.allowed, tokens_per_batch=self.tokens_per_batch
            ):
                place = places[row]
                replies[place] = [
                    Reply(
                        conversation=start + place,
                        sample=sample,
                        text=one.text,
                        reason=None,
                        finish=one.finish,
                        prompt_tokens=0 if sample else int(store.lengths[row]),
                        completion_tokens=one.tokens,
                        seconds=0.0,
                    )
                    for sample, one in enumerate(own)
                ]
            share = (time.perf_counter() - began) / max(1, sum(map(len, replies.values())))
            for place in range(len(window)):
                yield from (Reply(**{**vars(reply), "seconds": share}) for reply in replies[place])

    def _short_likelihoods(self, examples: Sequence[ChatExample]) -> Likelihoods:
        """`log_likelihoods` of those that fit."""
        long = set()
        for place, example in enumerate(examples):
            try:
                example_store(self.model.tokenizer, [example], self.max_tokens, ended=False)
            except PromptTooLongError:
                long.add(place)
        places = [i for i in range(len(examples)) if i not in long]
        found = self.log_likelihoods([examples[i] for i in places])
        values = np.full(len(examples), np.nan)
        values[places] = found.values
        return found._replace(values=values, long=frozenset(long))

    def _prompt_limit(self, new: int) -> int:
        """How long a prompt may be that so many tokens are to follow."""
        config = self.model.backbone.config.get_text_config(decoder=True)
        room = getattr(config, "max_position_embeddings", None) or self.max_tokens + new
        if room <= new:
            raise ConfigError(f"the model has {room:,} positions: {new:,} new tokens leave no room for a prompt")
        return min(self.max_tokens, room - new)

    def _store(self, conversations: Sequence[Conversation], limit: int) -> tuple[list[int], TokenStore, dict[int, str]]:
        """The places of the conversations that fit, their prompts, and why the others do not."""
        try:
            return list(range(len(conversations))), chat_store(self.model.tokenizer, conversations, limit), {}
        except PromptTooLongError:
            long = too_long(self.model.tokenizer, conversations, limit)
        places = [i for i in range(len(conversations)) if i not in long]
        return places, chat_store(self.model.tokenizer, [conversations[i] for i in places], limit), long


def _refusals(conversation: int, reason: str, samples: int) -> list[Reply]:
    return [Reply(conversation, sample, None, reason, None, 0, 0, 0.0, refused=True) for sample in range(samples)]


def _with_long_ones(read: LabelReadings, places: Sequence[int], long: Mapping[int, str]) -> LabelReadings:
    """Readings of the conversations at `places`, and the others refused with their reasons."""
    count = len(places) + len(long)
    rows, outside = np.full((count, read.probabilities.shape[1]), np.nan), np.full(count, np.nan)
    rows[places], outside[places] = read.probabilities, read.outside
    reasons = {**long, **dict(zip(places, read.reasons, strict=True))}
    return LabelReadings(
        probabilities=rows,
        reasons=tuple(reasons[i] for i in range(count)),
        outside=outside,
        prompt_tokens=read.prompt_tokens,
        completion_tokens=read.completion_tokens,
        refused=frozenset(long),
    )


def check_labels(labels: Sequence[str]) -> None:
    """See that there are labels, that none is empty, and that all differ.

    Raises:
        ConfigError: they are not so.
    """
    if not labels or not all(labels) or len(set(labels)) < len(labels):
        raise ConfigError(f"labels are {list(labels)}; give at least one, none empty and none twice")


def label_tokens(tokenizer: Any, conversations: Sequence[Conversation], labels: Sequence[str]) -> list[int]:
    """The token that each label is right after the prompt, where tokenizers may split it in a way of their own.

    Raises:
        ModelError: a label that is split or swallowed there, or two that begin with one token.
    """
    form = ChatFormat(tokenizer)
    found: list[int] = []
    seen: set[str] = set()
    for conversation in conversations or ():
        tail = form.pieces(conversation)[-1].text
        if tail in seen:
            continue
        seen.add(tail)
        ids = [_label_token(tokenizer, tail, label) for label in labels]
        if found and ids != found:
            raise ModelError(f"labels {list(labels)} are tokens {found} after one prompt and {ids} after another")
        found = ids
    found = found or form.single_tokens(labels)
    if len(set(found)) < len(found):
        raise ModelError(f"labels {list(labels)} are tokens {found}, not all different; choose other labels")
    return found


def _label_token(tokenizer: Any, tail: str, label: str) -> int:
    before = tokenizer(tail, add_special_tokens=False)["input_ids"]
    whole = tokenizer(tail + label, add_special_tokens=False)["input_ids"]
    if whole[:-1] != before:
        shown = tokenizer.convert_ids_to_tokens(whole[-4:])
        raise ModelError(
            f"label {label!r} is not one token after the prompt's end {tail[-20:]!r}: the tokenizer makes it {shown}; "
            "choose labels that are one token each, such as single digits or letters"
        )
    return int(whole[-1])


def restricted(scores: FloatArray64) -> tuple[FloatArray64, FloatArray64]:
    """Log-probabilities of labels as a distribution over them alone, and the share of all others.

    Shape: (texts, labels) -> (texts, labels), NaN where a score is; (texts,).
    """
    with np.errstate(invalid="ignore"):
        top = scores.max(axis=1, keepdims=True, initial=-np.inf)
        shares = np.exp(scores - top)
        total = shares.sum(axis=1, keepdims=True)
        return shares / total, 1 - np.minimum(1.0, (np.exp(top) * total)[:, 0])


def _beginnings(conversations: Sequence[Conversation]) -> list[int]:
    """A number for each conversation, the same for those whose texts are alike up to the first passage."""
    numbers: dict[tuple[tuple[str, ...], ...], int] = {}
    found = []
    for conversation in conversations:
        found.append(numbers.setdefault(_beginning(conversation), len(numbers)))
    return found


def _beginning(conversation: Conversation) -> tuple[tuple[str, ...], ...]:
    said: list[tuple[str, ...]] = []
    for message in conversation:
        texts: list[str] = []
        for part in message.parts:
            if not isinstance(part, str):
                return (*said, (message.role, *texts))
            texts.append(part)
        said.append((message.role, *texts))
    return tuple(said)
