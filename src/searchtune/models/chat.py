"""Conversations as token ids: the tokenizer's own chat template around messages, and passages cut where they must be.

A template is read once for each sequence of roles, with marks in the place of the contents; contents are then put in
as they are, so a document that spells `<|im_end|>` stays text and ends no turn. What stands between two passages is
tokenised as one piece and each passage as one of its own, so prompts that begin with the same text begin with the same
tokens, and each distinct piece is tokenised once. Nothing here knows a model or a task.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from jinja2 import TemplateError

from searchtune.errors import ConfigError, DataError, ModelError
from searchtune.models.inputs import TokenStore
from searchtune.prompts.chat import ChatExample, Conversation, Message, Passage, Role
from searchtune.types import IntArray

_MARK = re.compile("\ue000(\\d+)\ue001")
_DAY = "26 Jul 2024"
_SET_DAY = "{%- macro strftime_now(format) -%}" + _DAY + "{%- endmacro -%}"
"""Templates that write the date write this one: a prompt shall not depend on the day on which it is put together."""
_BATCH = 4096
LEAST_OF_PASSAGES = 16
"""A prompt that leaves its passages less than a quarter of their tokens, and less than so many, is not read."""


class Piece(NamedTuple):
    """A stretch of a prompt that is tokenised as one."""

    text: str
    control: bool
    """Whether special tokens spelled in it are meant as such."""
    passage: bool
    """Whether it may lose its end."""


class ChatFormat:
    """How a tokenizer writes turns.

    With a chat template: that, asked for the beginning of a reply, without a reasoning part where the template knows
    `enable_thinking`. A system message that the template refuses or leaves out is put at the head of the first user
    turn, a blank line after it. Without a template: each turn as `User:`, the content on a new line, and a blank line,
    then `Assistant:` and a new line; what the tokenizer puts before any text stands first.

    Raises (its methods):
        ModelError: the template cannot write these turns.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self._frames: dict[tuple[tuple[Role, ...], bool], tuple[str, ...] | None] = {}
        spelled = sorted(map(re.escape, tokenizer.all_special_tokens + list(tokenizer.get_added_vocab())))
        self._special = re.compile("|".join(spelled)) if spelled else None

    def pieces(self, conversation: Conversation) -> list[Piece]:
        """The prompt that asks for the next reply, in order."""
        conversation = self._folded(conversation)
        frame = self._frame(tuple(message.role for message in conversation))
        if frame is None:
            raise ModelError(f"the chat template cannot write turns of {[message.role for message in conversation]}")
        pieces = [Piece(frame[0], control=True, passage=False)]
        for message, after in zip(conversation, frame[1:], strict=True):
            for part in message.parts:
                if isinstance(part, Passage):
                    pieces.append(Piece(self._space(pieces) + part.text, control=False, passage=True))
                elif self._special is not None and self._special.search(part):
                    pieces.append(Piece(part, control=False, passage=False))
                else:
                    self._put(pieces, part)
            self._put(pieces, after)
        return [piece for piece in pieces if piece.text]

    @property
    def start(self) -> list[int]:
        """Token ids before the first piece: a template writes its own, else what the tokenizer puts before any text."""
        if self.tokenizer.chat_template:
            return []
        whole, bare = self.tokenizer("a")["input_ids"], self.tokenizer("a", add_special_tokens=False)["input_ids"]
        return list(whole[: next((i for i in range(len(whole)) if whole[i : i + len(bare)] == bare), 0)])

    @property
    def end(self) -> list[int]:
        """Token ids by which a reply ends: what the template writes up to a special token, or the tokenizer's own."""
        special = set(self.tokenizer.all_special_ids)
        frame = self._frame(("user", "assistant"), reply=False) if self.tokenizer.chat_template else None
        written = self.tokenizer(frame[-1], add_special_tokens=False)["input_ids"] if frame else []
        for place, token in enumerate(written):
            if token in special:
                return list(written[: place + 1])
        final = self.tokenizer.eos_token_id
        final = self.tokenizer.sep_token_id if final is None else final
        if final is None:
            raise ModelError("the tokenizer has no token that ends a text (eos_token): a reply could not be ended")
        return [final]

    def single_tokens(self, labels: Sequence[str]) -> list[int]:
        """The token id of each label as the beginning of a reply.

        Raises:
            ModelError: a label that is not one token, or two labels with the same.
        """
        found: dict[int, str] = {}
        for label, ids in zip(labels, _tokenised(self.tokenizer, labels, control=False), strict=True):
            if len(ids) != 1:
                raise ModelError(f"label {label!r} is {len(ids)} tokens {ids}; choose labels that are one token each")
            if ids[0] in found:
                raise ModelError(f"labels {found[ids[0]]!r} and {label!r} are the same token {ids[0]}; choose others")
            found[ids[0]] = label
        return list(found)

    def _space(self, pieces: list[Piece]) -> str:
        """Take a space from the end of the last piece: tokenizers know a word with the space before it best."""
        if not pieces or not pieces[-1].text.endswith(" "):
            return ""
        pieces[-1] = pieces[-1]._replace(text=pieces[-1].text[:-1])
        return " "

    def _put(self, pieces: list[Piece], text: str) -> None:
        """Add text to the last piece if that is of the same kind."""
        if pieces and pieces[-1].control:
            text = pieces.pop().text + text
        pieces.append(Piece(text, control=True, passage=False))

    def _folded(self, conversation: Conversation) -> Conversation:
        """The conversation, its system message in the first user turn if the template does not take one."""
        if not conversation:
            raise DataError("a conversation without messages; give it a user message at least")
        roles = tuple(message.role for message in conversation)
        if roles[0] != "system" or self._frame(roles) is not None or roles[1:2] != ("user",):
            return conversation
        system, user = conversation[:2]
        return (Message("user", (*system.parts, "\n\n", *user.parts)), *conversation[2:])

    def _frame(self, roles: tuple[Role, ...], *, reply: bool = True) -> tuple[str, ...] | None:
        """What stands before, between and after the contents; None where the template does not write all of them."""
        if not self.tokenizer.chat_template:
            heads = [f"{role.capitalize()}:\n" for role in roles] + ["Assistant:\n"]
            return (heads[0], *(f"\n\n{head}" for head in heads[1:]))
        key = (roles, reply)
        if key not in self._frames:
            messages = [{"role": role, "content": f"\ue000{i}\ue001"} for i, role in enumerate(roles)]
            try:
                written = self.tokenizer.apply_chat_template(
                    messages,
                    tokenize=False,
                    add_generation_prompt=reply,
                    enable_thinking=False,
                    date_string=_DAY,
                    chat_template=_SET_DAY + self.tokenizer.get_chat_template(),
                )
            except (TemplateError, TypeError, ValueError):
                written = ""
            parts = _MARK.split(written)  # text, number, text, number, ..., text
            in_order = [int(number) for number in parts[1::2]] == list(range(len(roles)))
            self._frames[key] = tuple(parts[::2]) if in_order else None
        return self._frames[key]


@dataclass(frozen=True, eq=False)
class CompletionStore:
    """Prompts with the replies that follow them, one text each."""

    tokens: TokenStore
    """Prompt, completion and end of turn; `truncated` counts the prompts whose passages were cut."""
    prompts: IntArray
    """Tokens of each prompt. Shape: (texts,)."""


@dataclass(frozen=True, eq=False)
class ExampleStore:
    """Training examples as tokens; the rejected replies, where there are some, follow the very same prompts."""

    chosen: CompletionStore
    rejected: CompletionStore | None


class PromptTooLongError(ConfigError):
    """What may not be cut of a prompt is longer than the whole may be."""


def too_long(tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int) -> dict[int, str]:
    """By position, why a conversation has no room in `max_tokens`; those that can be cut to fit are not there."""
    found = {}
    for i, (ids, cuttable) in enumerate(_parts(ChatFormat(tokenizer), conversations)):
        prompt = _Prompt(ids, cuttable)
        if not prompt.fits(max_tokens):
            fixed = prompt.tokens - sum(len(ids[place]) for place in prompt.passages)
            found[i] = f"too long: {fixed:,} tokens of its prompt cannot be cut, and {max_tokens:,} fit"
    return found


def chat_store(tokenizer: Any, conversations: Sequence[Conversation], max_tokens: int) -> TokenStore:
    """The prompt of each conversation; `truncated` counts those whose passages lost their ends.

    Where a prompt is longer than `max_tokens`, its longest passage is cut first, then all that are longer than a common
    length, until the prompt has exactly that many tokens. Instructions and queries stay whole.

    Raises:
        PromptTooLongError: a prompt whose passages would have less than one token each, or all of them together less
            than a quarter of theirs and than `LEAST_OF_PASSAGES`: a long query would leave nothing to read.
        ModelError: the template cannot write these turns.
    """
    prompts = [_Prompt(ids, cuttable) for ids, cuttable in _parts(ChatFormat(tokenizer), conversations)]
    rows = [prompt.cut(max_tokens, f"conversation {i}") for i, prompt in enumerate(prompts)]
    return _store(rows, sum(prompt.tokens > max_tokens for prompt in prompts))


def example_store(
    tokenizer: Any, examples: Sequence[ChatExample], max_tokens: int, *, ended: bool = True
) -> ExampleStore:
    """Prompts with completions and rejected completions, each of at most `max_tokens` tokens, end of turn included.

    `ended` False leaves the end of turn away, where only the words shall count.

    Prompts are cut as in `chat_store`; room is kept for the longer of the two replies.

    Raises:
        DataError: only some examples have a rejected completion, or one is the same as the completion.
        ConfigError, ModelError: as `chat_store`.
    """
    with_rejected = [example.rejected is not None for example in examples]
    if any(with_rejected) and not all(with_rejected):
        raise DataError(f"example {with_rejected.index(False)} has no rejected completion, and others have one")
    same = [i for i, example in enumerate(examples) if example.rejected == example.completion]
    if same:
        raise DataError(f"example {same[0]}: its rejected completion is the same text {examples[same[0]].completion!r}")
    form = ChatFormat(tokenizer)
    end = np.asarray(form.end if ended else [], dtype=np.int64)
    replies = [
        [np.concatenate([np.asarray(ids, dtype=np.int64), end]) for ids in _tokenised(tokenizer, texts, control=False)]
        for texts in ([e.completion for e in examples], [e.rejected for e in examples if e.rejected is not None])
    ]
    prompts, shortened = [], 0
    for i, (ids, cuttable) in enumerate(_parts(form, [example.messages for example in examples])):
        room = max_tokens - max(len(side[i]) for side in replies if side)
        prompt = _Prompt(ids, cuttable)
        prompts.append(prompt.cut(room, f"example {i}, its reply of {max_tokens - room} tokens left out"))
        shortened += prompt.tokens > room
    chosen, rejected = (_completed(prompts, side, shortened) if len(side) == len(prompts) else None for side in replies)
    return ExampleStore(chosen or _completed([], [], 0), rejected if examples else None)


def _completed(prompts: Sequence[IntArray], replies: Sequence[IntArray], shortened: int) -> CompletionStore:
    rows = [np.concatenate(pair) for pair in zip(prompts, replies, strict=True)]
    return CompletionStore(_store(rows, shortened), np.fromiter(map(len, prompts), dtype=np.int64, count=len(prompts)))


@dataclass(frozen=True)
class _Prompt:
    """The token ids of one prompt, piece by piece."""

    ids: list[IntArray]
    cuttable: list[bool]

    @property
    def tokens(self) -> int:
        return sum(map(len, self.ids))

    @property
    def passages(self) -> IntArray:
        """Places of the pieces that may be cut. Shape: (passages,)."""
        return np.flatnonzero(self.cuttable & (np.array([len(ids) for ids in self.ids]) > 0))

    def fits(self, limit: int) -> bool:
        """Whether it has at most `limit` tokens, or can be cut to so many with enough left of its passages.

        Enough is one token of each, and of all together a quarter, or `LEAST_OF_PASSAGES` where that is less.
        """
        if self.tokens <= limit:
            return True
        passages = self.passages
        whole = sum(len(self.ids[place]) for place in passages)
        least = max(len(passages), min(-(-whole // 4), LEAST_OF_PASSAGES))
        return len(passages) > 0 and limit - (self.tokens - whole) >= least

    def cut(self, limit: int, name: str) -> IntArray:
        """All ids, the ends of passages left out so that there are at most `limit`. Shape: (tokens,)."""
        if self.tokens <= limit:
            return np.concatenate(self.ids)
        lengths = np.array([len(ids) for ids in self.ids])
        passages = self.passages
        room = limit - int(lengths.sum() - lengths[passages].sum())
        if not self.fits(limit):
            raise PromptTooLongError(
                f"{name}: {self.tokens} tokens, {self.tokens - int(lengths[passages].sum())} of them outside its "
                f"{len(passages)} passages, and {limit} fit; raise max_tokens, or shorten instruction, query or reply"
            )
        lengths[passages] = _levelled(lengths[passages], room)
        return np.concatenate([ids[:length] for ids, length in zip(self.ids, lengths, strict=True)])


def _levelled(lengths: IntArray, room: int) -> IntArray:
    """Lengths with the same sum as `room`: those above a common length are cut to it, a few of them one token above."""
    rising = np.sort(lengths)
    before = np.concatenate(([0], np.cumsum(rising)[:-1]))
    levels = (room - before) // np.arange(len(rising), 0, -1)  # if all shorter ones stay whole, the rest get so many
    level = int(levels[np.argmax(levels < rising)])
    cut: IntArray = np.minimum(lengths, level)
    above = np.flatnonzero(lengths > level)[: room - int(cut.sum())]
    cut[above] += 1
    return cut


def _parts(form: ChatFormat, conversations: Sequence[Conversation]) -> list[tuple[list[IntArray], list[bool]]]:
    """Ids of the pieces of each conversation, and which of them may be cut; each distinct piece is tokenised once."""
    written = [form.pieces(conversation) for conversation in conversations]
    known: dict[tuple[str, bool], IntArray] = {}
    for control in (True, False):
        texts = list(dict.fromkeys(p.text for pieces in written for p in pieces if p.control is control))
        ids = _tokenised(form.tokenizer, texts, control=control)
        known |= {(text, control): np.asarray(one, dtype=np.int64) for text, one in zip(texts, ids, strict=True)}
    start = np.asarray(form.start, dtype=np.int64)
    return [
        ([start, *(known[p.text, p.control] for p in pieces)], [False, *(p.passage for p in pieces)])
        for pieces in written
    ]


def _tokenised(tokenizer: Any, texts: Sequence[str], *, control: bool) -> list[list[int]]:
    """Ids of each text without added special tokens; those that are spelled in it count only where `control`."""
    found: list[list[int]] = []
    for start in range(0, len(texts), _BATCH):
        encoded = tokenizer(
            list(texts[start : start + _BATCH]),
            add_special_tokens=False,
            split_special_tokens=not control,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,
        )
        found.extend(encoded["input_ids"])
    return found


def _store(rows: Sequence[IntArray], truncated: int) -> TokenStore:
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    flat = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
    return TokenStore(flat, np.concatenate(([0], np.cumsum(lengths))), truncated)
