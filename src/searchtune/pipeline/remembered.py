"""Stages that do every distinct piece of work once, however often and by whom it is asked for.

A piece of work is a turn to rewrite, a text to retrieve for, a pair of text and document to score, a question with its
passages to answer. `WorkStore` keeps each result under a key that names all it depends on, in a journal, so that work
goes on where it was killed; the classes below put a store in front of a stage and have the same methods as the stage.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from searchtune.pipeline.stages import Answering, Retrieval, Rewriting
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import Journal
from searchtune.types import NO_DOC, Answer, FloatArray, IntArray, Run, Turn


class ScoringReranker(Protocol):
    """A reranker whose order follows from scores of pairs, such as `PairReranker`."""

    def places(self, run: Run) -> npt.NDArray[np.bool_]:
        """Which places of a run are scored. Shape: (texts, run depth)."""

    def scores(self, queries: Sequence[str], rows: IntArray, docs: IntArray) -> FloatArray:
        """The score of each pair of a text, by its row, and a document. Shape: (pairs,) all."""

    def ordered(self, run: Run, scores: FloatArray) -> Run:
        """The run in the order of these scores, one for each place, row by row."""


@dataclass
class Work:
    """What was asked of one stage in one setting."""

    asked: int = 0
    """Pieces that were wanted, repeats counted."""
    done: int = 0
    """Pieces that had to be worked on by this process."""
    kept: int = 0
    """Distinct pieces that an earlier process had done."""
    seconds: float = 0.0
    """What all distinct pieces have taken, those of earlier processes included."""
    tokens: int = 0

    @property
    def distinct(self) -> int:
        """Pieces that were worked on at all."""
        return self.done + self.kept


@dataclass
class WorkStore:
    """Results by kind of work and key. What a journal held at the start is not done again."""

    journal: Journal
    works: dict[str, Work] = field(default_factory=dict)
    """By kind of work, such as `answer on`."""
    _values: dict[str, dict[str, Any]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for key, value in self.journal.items():
            work = self.works.setdefault(value["kind"], Work())
            work.kept, work.seconds = work.kept + value["pieces"], work.seconds + value["seconds"]
            work.tokens += value["tokens"]
            self._values[key] = value

    def get(self, kind: str, what: Any) -> Any:
        """The result of a piece of work; None where it is still to be done."""
        found = self._values.get(_key(kind, what))
        return None if found is None else found["value"]

    def values(self, kind: str) -> list[Any]:
        """Every result of a kind that is kept so far."""
        return [value["value"] for value in self._values.values() if value["kind"] == kind]

    def put(self, kind: str, what: Any, value: Any, *, seconds: float, tokens: int = 0, pieces: int = 1) -> None:
        """Keep a result, which stands for so many pieces and took so many seconds and tokens."""
        work = self.works.setdefault(kind, Work())
        work.done += pieces
        work.seconds, work.tokens = work.seconds + seconds, work.tokens + tokens
        line = {"kind": kind, "value": value, "seconds": round(seconds, 6), "tokens": tokens, "pieces": pieces}
        key = _key(kind, what)
        self.journal.append(key, line)
        self._values[key] = line

    def ask(self, kind: str, pieces: int) -> None:
        """Count what is wanted."""
        self.works.setdefault(kind, Work()).asked += pieces


def _key(kind: str, what: Any) -> str:
    return sha256_json([kind, what])


@dataclass
class RememberedRewriter:
    """A rewriter that writes each turn once."""

    inner: Rewriting
    store: WorkStore
    kind: str
    meter: Callable[[], int] = lambda: 0

    def rewrite(self, turns: Sequence[Turn]) -> list[str]:
        keys = [[turn.utterance, [list(said) for said in turn.history]] for turn in turns]
        self.store.ask(self.kind, len(turns))
        missing = _missing(self.store, self.kind, keys)
        if missing:
            clock = _Clock(self.meter, len(missing))
            written = self.inner.rewrite([turns[place] for place in missing])
            seconds, tokens = clock.shares()
            for place, text, own in zip(missing, written, tokens, strict=True):
                self.store.put(self.kind, keys[place], text, seconds=seconds, tokens=own)
        return [str(self.store.get(self.kind, key)) for key in keys]


@dataclass
class RememberedRetrieval:
    """A retriever that is asked for each text once."""

    inner: Retrieval
    store: WorkStore
    kind: str

    def retrieve(self, queries: Sequence[str], depth: int) -> Run:
        keys = [[text, depth] for text in queries]
        self.store.ask(self.kind, len(queries))
        missing = _missing(self.store, self.kind, keys)
        if missing:
            clock = _Clock(lambda: 0, len(missing))
            run = self.inner.retrieve([queries[place] for place in missing], depth)
            seconds, _ = clock.shares()
            for row, place in enumerate(missing):
                there = run.docs[row] != NO_DOC
                found = [run.docs[row, there].tolist(), run.scores[row, there].tolist()]
                self.store.put(self.kind, keys[place], found, seconds=seconds)
        return _as_run([self.store.get(self.kind, key) for key in keys])


@dataclass
class RememberedReranker:
    """A reranker that scores each pair of text and document once."""

    inner: ScoringReranker
    store: WorkStore
    kind: str
    _known: dict[tuple[str, int], float] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        for text, docs, scores in self.store.values(self.kind):
            self._known.update({(text, doc): score for doc, score in zip(docs, scores, strict=True)})

    def rerank(self, queries: Sequence[str], run: Run) -> Run:
        places = self.inner.places(run)
        rows, _ = np.nonzero(places)
        pairs = [(queries[row], doc) for row, doc in zip(rows.tolist(), run.docs[places].tolist(), strict=True)]
        self.store.ask(self.kind, len(pairs))
        missing = list(dict.fromkeys(pair for pair in pairs if pair not in self._known))
        if missing:
            self._score(missing)
        scores = np.array([self._known[pair] for pair in pairs], dtype=np.float32)
        return self.inner.ordered(run, scores)

    def _score(self, pairs: Sequence[tuple[str, int]]) -> None:
        texts = list(dict.fromkeys(text for text, _ in pairs))
        row_of = {text: row for row, text in enumerate(texts)}
        rows = np.array([row_of[text] for text, _ in pairs], dtype=np.int64)
        docs = np.array([doc for _, doc in pairs], dtype=np.int64)
        clock = _Clock(lambda: 0, len(pairs))
        scores = self.inner.scores(texts, rows, docs)
        seconds, _ = clock.shares()
        for row, text in enumerate(texts):
            own = np.flatnonzero(rows == row)
            found, values = docs[own].tolist(), scores[own].astype(float).tolist()
            self._known.update({(text, doc): score for doc, score in zip(found, values, strict=True)})
            kept = [text, found, values]
            self.store.put(self.kind, [text, found], kept, seconds=seconds * len(own), pieces=len(own))


@dataclass
class RememberedAnswerer:
    """An answerer that answers each question from the same passages once."""

    inner: Answering
    store: WorkStore
    kind: str
    meter: Callable[[], int] = lambda: 0

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        keys = [[question, list(own)] for question, own in zip(questions, passages, strict=True)]
        self.store.ask(self.kind, len(keys))
        missing = _missing(self.store, self.kind, keys)
        if missing:
            clock = _Clock(self.meter, len(missing))
            written = self.inner.answer([questions[i] for i in missing], [passages[i] for i in missing])
            seconds, tokens = clock.shares()
            for place, one, own in zip(missing, written, tokens, strict=True):
                value = [one.text, list(one.citations), one.abstained]
                self.store.put(self.kind, keys[place], value, seconds=seconds, tokens=own)
        return [_answer(self.store.get(self.kind, key)) for key in keys]


class _Clock:
    """Time and tokens of work that is done together, shared out over its pieces."""

    def __init__(self, meter: Callable[[], int], pieces: int) -> None:
        self._meter, self._pieces = meter, pieces
        self._start, self._tokens = time.perf_counter(), meter()

    def shares(self) -> tuple[float, list[int]]:
        """Seconds of each piece, and tokens, whose sum is what was spent."""
        seconds = (time.perf_counter() - self._start) / self._pieces
        spent = self._meter() - self._tokens
        edges = np.linspace(0, spent, self._pieces + 1).round().astype(int)
        return seconds, np.diff(edges).tolist()


def _missing(store: WorkStore, kind: str, keys: Sequence[Any]) -> list[int]:
    """The first place of each distinct key that has no result yet."""
    first: dict[str, int] = {}
    for place, key in enumerate(keys):
        if store.get(kind, key) is None:
            first.setdefault(_key(kind, key), place)
    return list(first.values())


def _as_run(found: Sequence[tuple[list[int], list[float]]]) -> Run:
    depth = max((len(docs) for docs, _ in found), default=0)
    docs = np.full((len(found), depth), NO_DOC, dtype=np.int64)
    scores = np.full(docs.shape, -np.inf, dtype=np.float32)
    for row, (own, values) in enumerate(found):
        docs[row, : len(own)], scores[row, : len(own)] = own, values
    return Run(np.arange(len(found)), docs, scores)


def _answer(value: Sequence[Any]) -> Answer:
    text, citations, abstained = value
    return Answer(str(text), tuple(int(number) for number in citations), bool(abstained))
