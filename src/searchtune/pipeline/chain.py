"""`Chain`: rewrite, retrieve, rerank, answer, judge, for a batch of turns or a stream, each stage on or off.

    turn -- rewrite --> query -- retrieve --> run -- rerank --> hits -- answer --> answer
                                                                 +---- judge ---> grades

Every stage is a `Switch`: what runs when it is on, and what stands in for it when it is off. A request may set stages
otherwise than the chain does by default. Any objects with the methods of `pipeline.stages` serve.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
import numpy.typing as npt

from searchtune.data.candidates import searched_text
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.pipeline.search import Hit, Timing
from searchtune.pipeline.stages import Answering, Graded, Judging, Reranking, Retrieval, Rewriting
from searchtune.retrieval.choice import choose, with_rows
from searchtune.retrieval.fusion import fuse
from searchtune.retrieval.gain_rule import Deciding, changed_rows
from searchtune.specs.reward import Mode as RewriteMode
from searchtune.types import NO_DOC, Answer, Run, Turn

AnyStage = TypeVar("AnyStage")
BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Switch(Generic[AnyStage]):
    """A stage in its two settings; None passes on what came in."""

    on: AnyStage | None
    off: AnyStage | None = None
    default: bool = True
    """Whether it is on where a request says nothing."""

    def at(self, on: bool) -> AnyStage | None:
        return self.on if on else self.off


@dataclass
class StageCost(Timing):
    """What a stage has taken so far; a query that a stage has handled counts once."""

    tokens: int = 0
    """Read and written by language models."""


class Rewrite(NamedTuple):
    """What became of a rewrite."""

    text: str
    """What the rewriter wrote; the utterance where no rewrite is ever used, so that it was not asked."""
    used: bool
    """Whether it was searched for what is handed on, and says something else than the utterance."""


@dataclass(frozen=True)
class Outcome:
    """What a chain makes of one turn."""

    turn: Turn
    query: str
    """What the ranking is for: the rewrite, or the utterance."""
    hits: tuple[Hit, ...]
    """The best first."""
    stages: Mapping[str, bool]
    """Which stages were on."""
    answer: Answer | None = None
    cited: tuple[str, ...] = ()
    """Ids of the documents that the answer cites, in the order of its citations."""
    grades: tuple[Graded, ...] | None = None
    """Of the first hits; None where nobody judged."""
    rewrite: Rewrite | None = None
    """None where nobody rewrote."""

    def to_json(self) -> dict[str, Any]:
        """Plain values, as the command line and the server write them."""
        found: dict[str, Any] = {
            "utterance": self.turn.utterance,
            "query": self.query,
            "hits": [{"id": hit.id, "score": round(hit.score, 6)} for hit in self.hits],
            "stages": dict(self.stages),
        }
        if self.rewrite is not None:
            found["rewrite"] = self.rewrite._asdict()
        if self.answer is not None:
            found["answer"] = {
                "text": self.answer.text,
                "citations": list(self.answer.citations),
                "documents": list(self.cited),
                "abstained": self.answer.abstained,
            }
        for hit, graded in zip(found["hits"], self.grades or (), strict=False):
            hit["grade"] = graded.grade
        return found


@dataclass
class Chain:
    """Stages over one corpus. Threads may share it: one request runs at a time.

    `doc_ids` and `documents` are the corpus in the order in which the retriever has it, as the answerer reads it.
    """

    doc_ids: Sequence[str]
    documents: Sequence[str]
    retriever: Switch[Retrieval]
    rewriter: Switch[Rewriting] | None = None
    reranker: Switch[Reranking] | None = None
    answerer: Switch[Answering] | None = None
    judge: Switch[Judging] | None = None
    mode: RewriteMode = "replace"
    abstention: Switch[Deciding] | None = None
    """Which rewrites are used, `on` where the retriever is on and `off` where it is off; None uses all."""
    depth: int = 100
    """Documents that the retriever hands on."""
    passages: int = 3
    """Documents that the answer is written from."""
    judged: int = 3
    """Documents that are graded."""
    judged_documents: Sequence[str] | None = None
    """The corpus as the judge reads it, where that is otherwise than as the answerer does."""
    meters: Mapping[str, Callable[[], int]] = field(default_factory=dict)
    """By stage: how many tokens its language model has taken so far."""
    costs: dict[str, StageCost] = field(default_factory=dict)
    """By stage; they grow with every request."""

    def __post_init__(self) -> None:
        self._turn = threading.RLock()

    @property
    def switches(self) -> dict[str, Switch[Any]]:
        """The stages that are there, in the order in which they run."""
        named = {
            "rewrite": self.rewriter,
            "retrieve": self.retriever,
            "rerank": self.reranker,
            "answer": self.answerer,
            "judge": self.judge,
        }
        return {name: switch for name, switch in named.items() if switch is not None}

    def settings(self, stages: Mapping[str, bool] | None = None) -> dict[str, bool]:
        """Which stages a request runs, its own wishes before the defaults.

        Raises:
            ConfigError: a stage that is not there, or a wish that is neither true nor false.
        """
        settled = {name: switch.default for name, switch in self.switches.items()}
        for name, on in (stages or {}).items():
            if name not in settled:
                raise ConfigError(f"no stage {name!r} in this pipeline{did_you_mean(name, settled)}")
            if not isinstance(on, bool):
                raise ConfigError(f"stages.{name} is {on!r}; say true or false")
            settled[name] = on
        return settled

    def ask(self, turns: Sequence[Turn], *, stages: Mapping[str, bool] | None = None, top: int = 10) -> list[Outcome]:
        """What the chain makes of each turn, in order.

        Raises:
            ConfigError: `top` below 1 or beyond the retriever's depth, or stages as in `settings`.
            DataError: an utterance is empty.
        """
        settled = self.settings(stages)
        if not 1 <= top <= self.depth:
            raise ConfigError(f"top {top}: it is at least 1, and at most the depth {self.depth} that is retrieved")
        for place, turn in enumerate(turns):
            if not turn.utterance.strip():
                raise DataError(f"query {place + 1} of {len(turns)} is empty; say what to look for")
        if not turns:
            return []
        with self._turn:
            return self._run(turns, settled, top)

    def stream(
        self,
        turns: Iterable[Turn],
        *,
        stages: Mapping[str, bool] | None = None,
        top: int = 10,
        batch: int = 16,
    ) -> Iterator[Outcome]:
        """The same, turn by turn as they come, in batches of `batch` so that models stay busy."""
        waiting = iter(turns)
        while some := list(islice(waiting, batch)):
            yield from self.ask(some, stages=stages, top=top)

    def _run(self, turns: Sequence[Turn], on: Mapping[str, bool], top: int) -> list[Outcome]:
        said = [turn.utterance for turn in turns]
        rule = None if self.abstention is None else self.abstention.at(on["retrieve"])
        written = self._rewritten(turns, on, rule)
        with self._timed("retrieve", len(turns)):
            run, used = self._retrieved(said, said if written is None else written, on, rule)
        rewrites = None if written is None else [*map(Rewrite, written, used.tolist())]
        queries = said
        if rewrites is not None:
            queries = [
                searched_text(old, new.text, self.mode) if new.used else old
                for old, new in zip(said, rewrites, strict=True)
            ]
        reranker = None if self.reranker is None else self.reranker.at(on["rerank"])
        if reranker is not None:
            with self._timed("rerank", len(turns)):
                run = reranker.rerank(queries, run)
        questions = [query if turn.history else turn.utterance for turn, query in zip(turns, queries, strict=True)]
        answers = self._answered(questions, run, on)
        grades = self._graded(questions, run, on)
        return [
            Outcome(
                turn=turn,
                query=queries[row],
                hits=self._hits(run, row, top),
                stages=dict(on),
                answer=answers[row],
                cited=self._cited(run, row, answers[row]),
                grades=grades[row],
                rewrite=None if rewrites is None else rewrites[row],
            )
            for row, turn in enumerate(turns)
        ]

    def _rewritten(self, turns: Sequence[Turn], on: Mapping[str, bool], rule: Deciding | None) -> Sequence[str] | None:
        """What is written for each turn, by nobody where it would never be used; None where nobody rewrites."""
        rewriter = None if self.rewriter is None else self.rewriter.at(on["rewrite"])
        if rewriter is None:
            return None
        if rule is not None and rule.use == "never":
            return [turn.utterance for turn in turns]
        with self._timed("rewrite", len(turns)):
            return rewriter.rewrite(turns)

    def _retrieved(
        self, said: Sequence[str], written: Sequence[str], on: Mapping[str, bool], rule: Deciding | None
    ) -> tuple[Run, BoolArray]:
        """The run, and for which turns it is that of the rewrite. Shape: (turns,)."""
        retriever = self.retriever.at(on["retrieve"])
        assert retriever is not None
        changed = changed_rows(said, written)
        compared = self.mode == "fuse" or (rule is not None and rule.use == "predicted")
        rows = np.flatnonzero(changed).tolist() if compared else []
        texts = [searched_text(old, new, self.mode) for old, new in zip(said, written, strict=True)]
        found = retriever.retrieve([*texts, *(said[row] for row in rows)], self.depth)
        own = found.queries < len(texts)
        run = found.select(own)
        if not rows:
            return run, changed
        original = Run(np.arange(len(rows)), found.docs[~own], found.scores[~own])
        rewritten = Run(original.queries, run.docs[rows], run.scores[rows])
        if self.mode == "fuse":
            rewritten = fuse([original, rewritten], depth=self.depth)
        if rule is None:
            return with_rows(run, changed, rewritten), changed
        use = rule.decide([said[row] for row in rows], [written[row] for row in rows], original, rewritten)
        used = changed.copy()
        used[changed] = use
        return with_rows(run, changed, choose(original, rewritten, use)), used

    def _answered(self, questions: Sequence[str], run: Run, on: Mapping[str, bool]) -> Sequence[Answer | None]:
        answerer = None if self.answerer is None else self.answerer.at(on["answer"])
        if answerer is None:
            return [None] * len(questions)
        passages = [
            [self.documents[doc] for doc in self._docs(run, row, self.passages)] for row in range(len(run.docs))
        ]
        with self._timed("answer", len(questions)):
            return answerer.answer(questions, passages)

    def _graded(self, questions: Sequence[str], run: Run, on: Mapping[str, bool]) -> list[tuple[Graded, ...] | None]:
        judge = None if self.judge is None else self.judge.at(on["judge"])
        if judge is None:
            return [None] * len(questions)
        docs = [self._docs(run, row, self.judged) for row in range(len(run.docs))]
        asked = [question for question, own in zip(questions, docs, strict=True) for _ in own]
        documents = self.documents if self.judged_documents is None else self.judged_documents
        with self._timed("judge", len(questions)):
            graded = iter(judge.judge(asked, [documents[doc] for own in docs for doc in own]))
        return [tuple(islice(graded, len(own))) for own in docs]

    def _cited(self, run: Run, row: int, answer: Answer | None) -> tuple[str, ...]:
        docs = self._docs(run, row, self.passages)
        numbers = () if answer is None else answer.citations
        return tuple(self.doc_ids[docs[number - 1]] for number in numbers if 1 <= number <= len(docs))

    def _docs(self, run: Run, row: int, count: int) -> list[int]:
        return [doc for doc in run.docs[row, :count].tolist() if doc != NO_DOC]

    def _hits(self, run: Run, row: int, top: int) -> tuple[Hit, ...]:
        found = zip(run.docs[row, :top].tolist(), run.scores[row, :top].tolist(), strict=True)
        return tuple(Hit(self.doc_ids[doc], score, doc) for doc, score in found if doc != NO_DOC)

    @contextmanager
    def _timed(self, stage: str, queries: int) -> Iterator[None]:
        meter = self.meters.get(stage, lambda: 0)
        start, tokens = time.perf_counter(), meter()
        yield
        cost = self.costs.setdefault(stage, StageCost())
        cost.seconds += time.perf_counter() - start
        cost.queries += queries
        cost.tokens += meter() - tokens


def as_run(outcomes: Sequence[Outcome], queries: Sequence[int]) -> Run:
    """The final rankings as a run, one row for each outcome, in the order in which they stand.

    Shape: queries (outcomes,), ascending positions in the collection.
    """
    depth = max((len(outcome.hits) for outcome in outcomes), default=0)
    docs = np.full((len(outcomes), depth), NO_DOC, dtype=np.int64)
    scores = np.full(docs.shape, -np.inf, dtype=np.float32)
    for row, outcome in enumerate(outcomes):
        docs[row, : len(outcome.hits)] = [hit.document for hit in outcome.hits]
        scores[row, : len(outcome.hits)] = -np.arange(len(outcome.hits))
    return Run(np.asarray(queries, dtype=np.int64), docs, scores)
