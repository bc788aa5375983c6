"""The rewriter: what was said before, one utterance, and the query that stands alone.

The prompt is short, because a tuned model needs no more and every token costs: an instruction, the titles, the last
turns with one line each, and the utterance. Its reply is the rewrite alone. The history loses its oldest turns first,
by `history_turns` and `history_words`, and long replies lose their ends; utterance and instruction are never cut.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any, Literal

from searchtune.clean_text import clean
from searchtune.errors import ConfigError, did_you_mean
from searchtune.prompts.chat import Conversation, Message, Part, Passage
from searchtune.prompts.reply_text import spoken
from searchtune.types import Turn

Style = Literal["short", "search", "full"]
"""`short` is for tuned models; `search` asks for a search query, for single questions; `full` says all that a large
model needs that is not tuned."""
VERSIONS: dict[Style, int] = {"short": 1, "search": 1, "full": 1}
"""Raised with every change of a style's words: rewrites of two versions are never mixed in one job."""

_INSTRUCTIONS: dict[Style, str] = {
    "short": "Rewrite the last question so that it stands alone.",
    "search": "Rewrite the question as a search query that finds what it asks for.",
    "full": (
        "You rewrite the last question of a conversation into one that can be understood without the conversation. "
        "Replace words such as it, they, that one or there by what they stand for, and add what was left out because "
        "it had been said before. Keep the question's own words wherever they are clear, add nothing else, and do not "
        "answer it. Where it stands alone already, repeat it. Reply with the rewritten question, and nothing else."
    ),
}
_LABEL = re.compile(
    r"^\s*(?:(?:here is|here's) (?:the|your|a) )?"
    r"(?:rewritten |rewrite|standalone |stand-alone |search |final |output|query|question)"
    r"(?: ?(?:rewrite|question|query|utterance|version))*\s*:\s*",
    re.IGNORECASE,
)
_QUOTES = {'"': '"', "'": "'", "`": "`", "\u201c": "\u201d", "\u2018": "\u2019", "\u00ab": "\u00bb"}


@dataclass(frozen=True)
class RewritePrompt:
    """How turns are put to a rewriter.

    Raises:
        ConfigError: no such style, or a bound below 0.
    """

    style: Style = "short"
    history_turns: int = 12
    """How many of the last turns are read, replies counted; titles are always read."""
    history_words: int = 160
    reply_words: int = 32
    """Of each reply in the history, from its beginning; 0 leaves replies out."""

    def __post_init__(self) -> None:
        if self.style not in VERSIONS:
            raise ConfigError(f"no prompt style {self.style!r}{did_you_mean(self.style, VERSIONS)}")
        for name in ("history_turns", "history_words", "reply_words"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must be 0 or more")

    def conversation(self, turn: Turn) -> Conversation:
        """What a rewriter is asked about one turn. Only titles and history may be shortened further."""
        parts: list[Part] = []
        titles = [_line(text) for role, text in turn.history if role == "title" and text.strip()]
        if titles:
            parts += ["Topic: ", Passage(", ".join(titles)), "\n"]
        for role, text in self._read(turn):
            parts += ["A: " if role == "assistant" else "Q: ", Passage(text), "\n"]
        parts.append(f"Rewrite: {_line(turn.utterance)}")
        return (Message("system", (_INSTRUCTIONS[self.style],)), Message("user", tuple(parts)))

    def shortened(self, turn: Turn) -> bool:
        """Whether the prompt leaves out something of the turn's history."""
        said = [(role, _line(text)) for role, text in turn.history if role != "title" and text.strip()]
        return self._read(turn) != said

    def identity(self) -> dict[str, Any]:
        """All that decides the prompt of a turn, as plain JSON: for cards and for the headers of journals."""
        return {"role": "rewrite", **asdict(self), "version": VERSIONS[self.style]}

    def _read(self, turn: Turn) -> list[tuple[str, str]]:
        """Who said what, the oldest first, of what is read; the newest turn loses its end before it is left out."""
        said = [(role, _line(text)) for role, text in turn.history if role != "title" and text.strip()]
        if not self.reply_words:
            said = [(role, text) for role, text in said if role != "assistant"]
        room = self.history_words
        found: list[tuple[str, str]] = []
        for role, text in reversed(said[-self.history_turns :] if self.history_turns else []):
            words = text.split(" ")
            if role == "assistant":
                words = words[: self.reply_words]
            if found and len(words) > room:
                break
            words = words[:room]
            room -= len(words)
            if words:
                found.append((role, " ".join(words)))
        return found[::-1]


def parse_rewrite(reply: str, utterance: str) -> str:
    """The query in a rewriter's reply: its first line, without a label such as `Rewrite:` and without quotes around it.

    Reasoning is left out, and so is what steers a terminal. Where no word is left, the utterance itself.
    """
    lines = [line.strip() for line in (spoken(clean(reply)).text or "").splitlines() if line.strip()]
    for line in lines:
        query = _unquoted(_LABEL.sub("", line).strip())
        if any(char.isalnum() for char in query):
            return query
    return _line(utterance)


def _unquoted(text: str) -> str:
    """Without the quotes that stand around the whole text."""
    while len(text) >= 2 and _QUOTES.get(text[0]) == text[-1] and text[-1] not in text[1:-1]:
        text = text[1:-1].strip()
    return text


def _line(text: str) -> str:
    """Everything on one line, with single spaces."""
    return " ".join(text.split())
