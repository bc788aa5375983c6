"""Replies held to a flat JSON object while they are generated: each key in its order, each value of its kind.

The object is followed character by character by a small automaton; a token may come next where the automaton can take
all of its characters. What may follow a state is found once and kept, and there are few states, so that the constraint
costs one pass over the vocabulary for each of them and next to nothing after that. White space stands only where
`json.dumps` puts it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

from searchtune.errors import ConfigError

Kind = Literal["text", "numbers", "flag"]
_HEX = frozenset("0123456789abcdefABCDEF")
_ESCAPED = frozenset('"\\/bfnrt')
_MOST_DIGITS, _MOST_NUMBERS = 3, 8


class _State(NamedTuple):
    """Where the object stands: what is written next, literally, and then how the value goes on."""

    field: int
    """Which value is being written, or is next."""
    literal: str
    """Characters that must come before anything else."""
    value: str = ""
    """Within a value: `text`, `escape`, `hex1` to `hex4`, or `list:COUNT:DIGITS`."""


class HeldJson:
    """An `Allowed` of `models.generation` for the object whose keys and kinds are `fields`, in that order.

    A text may go on until `closing` tokens are left of `max_new_tokens`; then it is closed, so that the object is whole
    when the reply ends. After the closing brace the reply ends.

    Raises:
        ConfigError: no field, or too few tokens for the object's own characters.
    """

    def __init__(self, tokenizer: Any, fields: Mapping[str, Kind], *, max_new_tokens: int, closing: int = 48) -> None:
        if not fields:
            raise ConfigError("an object without fields: name at least one")
        if max_new_tokens <= closing:
            raise ConfigError(f"max_new_tokens {max_new_tokens}: JSON takes more than {closing}")
        self._names, self._kinds = list(fields), list(fields.values())
        self._limit = max_new_tokens - closing
        self._tokenizer = tokenizer
        self._texts = _token_texts(tokenizer)
        self._next: dict[tuple[_State, bool], list[int]] = {}
        self._after: dict[tuple[_State, int], _State | None] = {}

    def __call__(self, tokens: list[int]) -> list[int]:
        """The tokens that may come next; none where the object is whole."""
        state: _State | None = self._start()
        for token in tokens:
            state = None if state is None else self._take(state, token)
        if state is None or self._whole(state):
            return []
        hurried = len(tokens) >= self._limit
        key = (state, hurried)
        if key not in self._next:
            after = {token: self._walk(state, token) for token in self._texts}
            found = [token for token, there in after.items() if there is not None]
            closing = [token for token in found if hurried and _closes(state, after[token])]
            self._next[key] = closing or found
        return self._next[key]

    def _start(self) -> _State:
        return _State(0, f'{{"{self._names[0]}": {self._opening(0)}')

    def _opening(self, field: int) -> str:
        return {"text": '"', "numbers": "[", "flag": ""}[self._kinds[field]]

    def _whole(self, state: _State) -> bool:
        return state.field == len(self._names) and not state.literal

    def _take(self, state: _State, token: int) -> _State | None:
        """The state after a token; None where it may not come."""
        key = (state, token)
        if key not in self._after:
            self._after[key] = self._walk(state, token)
        return self._after[key]

    def _walk(self, state: _State, token: int) -> _State | None:
        text, after = self._texts.get(token, ""), state
        for char in text:
            following = self._step(after, char)
            if following is None:
                return None
            after = following
        return after if text else None

    def _step(self, state: _State, char: str) -> _State | None:
        if state.literal:
            if char != state.literal[0]:
                return None
            rest = state.literal[1:]
            return state._replace(literal=rest) if rest else self._entered(state)
        if state.field == len(self._names):
            return None
        kind = self._kinds[state.field]
        if kind == "text":
            return self._in_text(state, char)
        return self._in_list(state, char) if kind == "numbers" else self._in_flag(state, char)

    def _entered(self, state: _State) -> _State:
        """The state right after a literal: within a value, or at its end."""
        if state.field == len(self._names) or state.value:
            return _State(state.field, "", state.value)
        kind = self._kinds[state.field]
        return _State(state.field, "", {"text": "text", "numbers": "list:0:0", "flag": "flag"}[kind])

    def _left(self, state: _State) -> _State:
        """The state after a value's last character."""
        field = state.field + 1
        if field == len(self._names):
            return _State(field, "}")
        return _State(field, f', "{self._names[field]}": {self._opening(field)}')

    def _in_text(self, state: _State, char: str) -> _State | None:
        where = state.value
        if where == "escape":
            if char == "u":
                return state._replace(value="hex4")
            return state._replace(value="text") if char in _ESCAPED else None
        if where.startswith("hex"):
            left = int(where[3:]) - 1
            return state._replace(value=f"hex{left}" if left else "text") if char in _HEX else None
        if char == '"':
            return self._left(state)
        if char == "\\":
            return state._replace(value="escape")
        return None if ord(char) < 0x20 else state

    def _in_list(self, state: _State, char: str) -> _State | None:
        _, count, digits = state.value.split(":")
        numbers, written = int(count), int(digits)
        if char == "]":
            return self._left(state) if written or not numbers else None
        if char == "," and written and numbers < _MOST_NUMBERS:
            return _State(state.field, " ", f"list:{numbers}:0")
        if not char.isascii() or not char.isdigit() or written >= _MOST_DIGITS or (not written and char == "0"):
            return None
        return state._replace(value=f"list:{numbers + (not written)}:{written + 1}")

    def _in_flag(self, state: _State, char: str) -> _State | None:
        word = {"t": "rue", "f": "alse"}.get(char)
        if state.value != "flag" or word is None:
            return None
        after = self._left(state)
        return after._replace(literal=word + after.literal)


def _closes(state: _State, after: _State | None) -> bool:
    """Whether a step brings the object nearer to its end: within a value, only one that leaves it."""
    return after is not None and (after.field > state.field or bool(state.literal or after.literal))


def _token_texts(tokenizer: Any) -> dict[int, str]:
    """The characters that each ordinary token adds to a text; those of special and empty tokens are left out.

    A token that is part of a character stands for a character that is no mark of JSON.
    """
    special = set(tokenizer.all_special_ids)
    anchor = tokenizer("a", add_special_tokens=False)["input_ids"]
    before = len(tokenizer.decode(anchor))
    ids = [token for token in range(len(tokenizer)) if token not in special]
    texts = tokenizer.batch_decode([[*anchor, token] for token in ids], skip_special_tokens=False)
    return {token: text[before:] for token, text in zip(ids, texts, strict=True) if text[before:]}
