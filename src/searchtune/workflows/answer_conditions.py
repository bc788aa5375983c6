"""Which passages an answerer is shown: the gold ones, those retrieved, those without the gold ones, or none."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from searchtune.errors import ConfigError, DataError
from searchtune.evaluation.answer_report import Condition
from searchtune.pipeline import Dense, Retrieval, Words
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import DenseIndex
from searchtune.types import NO_DOC
from searchtune.workflows.encode import encode_texts, open_encoder

Retriever = Callable[[Sequence[str]], Retrieval]
"""Makes what searches a list of passages; row `i` of its documents is passage `i`."""


class Question(Protocol):
    """A question with its passages; `data.answering.AnswerExample` is one."""

    @property
    def id(self) -> str: ...
    @property
    def question(self) -> str: ...
    @property
    def passages(self) -> tuple[str, ...]:
        """Those that belong to the question."""

    @property
    def gold(self) -> tuple[int, ...]:
        """Positions among them, from 0, of those that answer it; empty where none does."""

    @property
    def references(self) -> tuple[str, ...]:
        """What people answered; empty where there is no answer."""


class Questions(Protocol):
    """A set of questions; `data.answering.AnswerSet` is one."""

    @property
    def examples(self) -> Sequence[Question]: ...
    @property
    def fingerprint(self) -> str: ...


class ShownPassages(NamedTuple):
    """What one question is answered from."""

    passages: tuple[str, ...]
    gold: tuple[int, ...]
    """Positions among them, from 0."""


def words(passages: Sequence[str]) -> Retrieval:
    """BM25 over the passages."""
    return Words(BM25Index(passages))


def dense(model: str, cache: EmbeddingCache | None = None) -> Retriever:
    """A bi-encoder or an embedding adapter by name, searched exactly."""

    def made(passages: Sequence[str]) -> Retrieval:
        encoder = open_encoder(model)
        vectors, _ = encode_texts(encoder.documents, list(passages), cache)
        return Dense(encoder.queries.encode, DenseIndex(vectors))

    return made


def show_passages(
    examples: Sequence[Question],
    conditions: Sequence[Condition],
    *,
    depth: int,
    retriever: Retriever = words,
    pool: Sequence[str] = (),
) -> dict[Condition, list[ShownPassages]]:
    """What each question is answered from under each condition. Passages with the same text are one.

    - `gold`: the gold passages alone; for a question without any its own passages, at most `depth`.
    - `retrieved`: the first `depth` that the retriever finds among the passages of all questions and those of `pool`.
    - `removed`: the same without the question's gold passages, the next ones in their place.
    - `none`: no passage.

    Raises:
        ConfigError: `depth` below 1.
        DataError: a gold position that is no passage of its question.
    """
    if depth < 1:
        raise ConfigError(f"depth {depth}: show at least 1 passage")
    for one in examples:
        if wrong := [place for place in one.gold if not 0 <= place < len(one.passages)]:
            raise DataError(
                f"question {one.id!r}: gold passage {wrong[0]} of {len(one.passages)}; give positions from 0"
            )
    searched = {"retrieved", "removed"} & set(conditions)
    ranked = _ranked(examples, depth, retriever, pool) if searched else [()] * len(examples)
    shown: Mapping[Condition, Callable[[Question, Sequence[str]], Sequence[str]]] = {
        "gold": lambda one, _: [one.passages[place] for place in one.gold] or one.passages[:depth],
        "retrieved": lambda _, found: found[:depth],
        "removed": lambda one, found: [text for text in found if text not in _gold_texts(one)][:depth],
        "none": lambda _one, _found: (),
    }
    return {
        condition: [_marked(one, shown[condition](one, found)) for one, found in zip(examples, ranked, strict=True)]
        for condition in conditions
    }


def _ranked(
    examples: Sequence[Question], depth: int, retriever: Retriever, pool: Sequence[str]
) -> Sequence[Sequence[str]]:
    """The passages found for each question, enough of them that `depth` are left without the gold ones."""
    texts = list(dict.fromkeys([*(text for one in examples for text in one.passages), *pool]))
    texts = [text for text in texts if text.strip()]
    if not texts or not examples:
        return [()] * len(examples)
    more = max(len(one.gold) for one in examples)
    run = retriever(texts).retrieve([one.question for one in examples], min(depth + more, len(texts)))
    found: list[list[str]] = [[] for _ in examples]
    for query, docs in zip(run.queries.tolist(), np.asarray(run.docs), strict=True):
        found[query] = [texts[doc] for doc in docs.tolist() if doc != NO_DOC]
    return found


def _marked(one: Question, passages: Sequence[str]) -> ShownPassages:
    gold, different = _gold_texts(one), tuple(dict.fromkeys(passages))
    return ShownPassages(different, tuple(place for place, text in enumerate(different) if text in gold))


def _gold_texts(one: Question) -> set[str]:
    return {one.passages[place] for place in one.gold}
