"""Rewriters without a model, and searches that count what they are asked, for tests of rewriting by reward."""

from __future__ import annotations

from collections import Counter

from searchtune.data.collection import build_collection
from searchtune.models.generation import Sampling
from searchtune.prompts.chat import Message
from searchtune.workflows.rewrite_search import OpenRetrieval, open_retrieval

DOCUMENTS = {
    "d0": ("os.walk", "directory tree walk top down"),
    "d1": ("os.path.join", "join path parts with separator"),
    "d2": ("shutil.copy", "copy file bytes to target path"),
    "d3": ("json.dump", "write object to file as text"),
    "d4": ("json.load", "read object from file text"),
    "d5": ("os.remove", "remove a path"),
}
QUERIES = {
    "q0": "visit every folder",
    "q1": "join path pieces",
    "q2": "duplicate a file",
    "q3": "serialise an object",
    "q4": "visit every folder below",
    "q5": "delete something",
}
LABELS = {
    "train": [("q0", "d0", 2), ("q0", "d1", 1), ("q1", "d1", 1), ("q2", "d2", 1), ("q3", "d3", 1)],
    "dev": [("q4", "d0", 1)],
    "test": [("q5", "d5", 1)],
}


def collection():
    """Six functions and six questions; some share no word with what they ask for."""
    return build_collection("toy", DOCUMENTS, QUERIES, LABELS)


class Counting:
    """A retriever that remembers every text it was asked for, and may fail."""

    def __init__(self, inner, fail_after=None):
        self.inner, self.fail_after = inner, fail_after
        self.asked = Counter()

    def retrieve(self, queries, depth):
        if self.fail_after is not None and self.asked.total() >= self.fail_after:
            raise KeyboardInterrupt
        self.asked.update(queries)
        return self.inner.retrieve(queries, depth)


def counting(toy, fail_after=None):
    """BM25 over a collection, counted."""
    opened = open_retrieval(["bm25"], toy)
    return OpenRetrieval(Counting(opened.retrieval, fail_after), opened.identity)


class Scripted:
    """A rewriter that says what it was told to; keeps what it was asked, and may fail."""

    def __init__(self, says, name="scripted", fail_after=None):
        self.says, self.fail_after = says, fail_after
        self.identity = {"what": name}
        self.asked = []

    def rewrite(self, turns):
        return [texts[0] for texts in self.candidates(turns, 0, 1.0, 0)]

    def candidates(self, turns, samples, temperature, seed):
        if self.fail_after is not None and len(self.asked) >= self.fail_after:
            raise KeyboardInterrupt
        self.asked += [turn.utterance for turn in turns]
        return [list(self.says.get(turn.utterance, [turn.utterance])) for turn in turns]


def ask(turn):
    """A turn as a prompt."""
    return (Message("user", (f"Rewrite: {turn.utterance}",)),)


class Greedy:
    """A model's likeliest replies as rewrites."""

    def __init__(self, backend):
        self.backend = backend

    def rewrite(self, turns):
        replies = self.backend.complete([ask(turn) for turn in turns], Sampling(max_new_tokens=4))
        return [(reply.text or "").strip() or turn.utterance for reply, turn in zip(replies, turns, strict=True)]
