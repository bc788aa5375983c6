"""A backend without a model, and questions for it."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from searchtune.data.answering import AnswerSet, read_answers
from searchtune.models.backends import LabelReadings, Reply
from searchtune.prompts.answer import AnswerPrompt
from searchtune.workflows.open_answerer import OpenAnswerer


class Parrot:
    """Reads yes where the word `yes` is in a passage, no where it is not; replies with what it was told to."""

    def __init__(self, reply="It is so [1].", *, fail_after=None, error=None, silent=""):
        self.reply, self.fail_after, self.error, self.silent = reply, fail_after, error, silent
        self.read, self.asked = [], []

    @property
    def identity(self):
        return {"what": "parrot"}

    def read_labels(self, conversations, labels):
        self.read += conversations
        yes = [0.9 if "yes" in passages_of(one) else 0.2 for one in conversations]
        rows = np.array([[1 - share, share] if "unreadable" not in passages_of(one) else [np.nan] * 2
                         for one, share in zip(conversations, yes, strict=True)])  # fmt: skip
        reasons = tuple("not finite" if np.isnan(row).any() else None for row in rows)
        return LabelReadings(rows, reasons, np.zeros(len(rows)), 10 * len(rows), 0)

    def complete(self, conversations, sampling):
        for place, one in enumerate(conversations):
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise self.error
            self.asked.append(one)
            text = None if self.silent and self.silent in passages_of(one) else self.reply
            reason = "no answer in 6 attempts" if text is None else None
            yield Reply(place, 0, text, reason, "stop", 20, 5, 0.01)


def passages_of(conversation):
    """What stands in the fences of a conversation."""
    return " ".join(part.text for message in conversation for part in message.parts if not isinstance(part, str))


def opened(parrot, **prompt) -> OpenAnswerer:
    """The parrot by name."""
    return OpenAnswerer("parrot", parrot.identity, None, AnswerPrompt(**prompt), lambda form, limit: parrot)


def write_asked(path: Path, count=12, *, rows=()) -> Path:
    """Questions as JSON lines; every other one has a passage that says yes."""
    made = [
        {
            "id": f"q{i:02}",
            "question": f"question {hashlib.md5(str(i).encode()).hexdigest()}",
            "passages": [{"id": f"p{i}", "text": f"{'yes' if i % 2 else 'nothing'} {i}"}, {"id": "x", "text": "other"}],
            "gold": [f"p{i}"] if i % 2 else [],
            "answers": [f"It is {i}. So it is."] if i % 2 else [],
        }
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in [*made, *rows]), encoding="utf-8")
    return path


def some_questions(folder: Path, count=12) -> AnswerSet:
    """The same, read."""
    return read_answers(write_asked(folder / "asked.jsonl", count))
