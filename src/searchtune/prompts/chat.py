"""`Message` and `ChatExample`: a conversation as prompts write it and tokenizers' chat templates read it.

A part that is a `Passage` may be shortened where a conversation is too long for the model; everything else, such as the
instruction and the query, never is. Nothing here knows a tokenizer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Role = Literal["system", "user", "assistant"]


@dataclass(frozen=True)
class Passage:
    """Text that may lose its end: a document, or another text from a collection."""

    text: str


Part = str | Passage


@dataclass(frozen=True)
class Message:
    """One turn of a conversation. `parts` stand one after another with nothing between."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def content(self) -> str:
        """The whole text, nothing cut."""
        return "".join(part.text if isinstance(part, Passage) else part for part in self.parts)


Conversation = tuple[Message, ...]


@dataclass(frozen=True)
class ChatExample:
    """A conversation and what the assistant shall say next; for preference training, also what it shall not."""

    messages: Conversation
    completion: str
    rejected: str | None = None
