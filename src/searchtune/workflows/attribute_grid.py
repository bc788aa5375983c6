"""Running every selection of a pipeline's stages on some queries, with all work that selections share done once.

The full pipeline runs first and alone, with nothing remembered, so that its time can be told; what it did is not done
again for the other selections. Answers that can cite no relevant document, since none is among their passages, are
worth nothing by citation whatever they say: the other selections leave them unwritten.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np

from searchtune.data.splits import hash_share
from searchtune.errors import DataError, did_you_mean
from searchtune.metrics.ranking import score
from searchtune.metrics.shapley import members
from searchtune.metrics.text_overlap import best_of, token_f1
from searchtune.pipeline.chain import Chain, Outcome, Switch, as_run
from searchtune.pipeline.remembered import (
    RememberedAnswerer,
    RememberedReranker,
    RememberedRetrieval,
    RememberedRewriter,
    WorkStore,
)
from searchtune.pipeline.stages import Answering
from searchtune.types import Answer, FloatArray64, Qrels, Turn
from searchtune.workflows.open_pipeline import OpenPipeline
from searchtune.workflows.progress import Progress

RANKING = "ndcg@10"
"""The metric of rankings."""
_DEPTH = 10
AnswerMetric = Literal["citation_hit", "citation_precision", "token_f1"]
CLOCK, FULL = "clock", "full pipeline"
"""Kinds of journal lines that hold times, not work."""


@dataclass(frozen=True)
class AttributionPlan:
    """What is run and by what it is valued."""

    split: str = "test"
    max_queries: int | None = None
    """So many of the split's queries, chosen by the md5 of their ids."""
    answer_metric: AnswerMetric = "citation_hit"
    """`citation_hit`: 1 where an answer that does not abstain cites a relevant document; `citation_precision`: the
    share of cited documents that are relevant; `token_f1` against references."""
    references: Mapping[str, Sequence[str]] | None = None
    """Query id -> answers by people, for `token_f1`."""
    turns: Mapping[str, Turn] | None = None
    """Query id -> what was said, where it has a history. None: what the ids of the task's conversations say, where the
    pipeline rewrites."""
    batch: int = 32
    seed: int = 13


@dataclass(frozen=True, eq=False)
class Asked:
    """The queries of an attribution."""

    qrels: Qrels
    turns: list[Turn]
    ids: list[str]
    relevant: list[frozenset[str]]
    """Ids of each query's relevant documents."""
    texts: list[frozenset[str]]
    """Their texts."""


def asked_of(opened: OpenPipeline, plan: AttributionPlan) -> Asked:
    collection = opened.collection
    if plan.split not in collection.qrels:
        raise DataError(f"{collection.name} has no split {plan.split!r}{did_you_mean(plan.split, collection.qrels)}")
    qrels = collection.qrels[plan.split]
    ids = np.array([collection.query_ids[int(query)] for query in qrels.queries])
    if plan.max_queries is not None:
        chosen = sorted(range(len(ids)), key=lambda row: hash_share(str(ids[row])))[: plan.max_queries]
        qrels = qrels.select(np.isin(np.arange(len(ids)), chosen))
    if not len(qrels):
        raise DataError(f"{collection.name}, {plan.split}: no judged query; choose another --split")
    names = [collection.query_ids[int(query)] for query in qrels.queries]
    said = _said(opened) if plan.turns is None else plan.turns
    turns = [
        said.get(name, Turn(collection.query_texts[int(query)]))
        for name, query in zip(names, qrels.queries, strict=True)
    ]
    rows = [qrels.row(row) for row in range(len(qrels))]
    wanted = [docs[grades >= collection.min_grade].tolist() for docs, grades in rows]
    return Asked(
        qrels=qrels,
        turns=turns,
        ids=names,
        relevant=[frozenset(collection.doc_ids[doc] for doc in docs) for docs in wanted],
        texts=[frozenset(collection.documents[doc] for doc in docs) for docs in wanted],
    )


def _said(opened: OpenPipeline) -> dict[str, Turn]:
    """The collection's queries with what was said before them, where something rewrites them."""
    if opened.chain.rewriter is None:
        return {}
    from searchtune.data.rewrites import task_turns

    ids = opened.collection.query_ids
    return dict(zip(ids, task_turns(ids, opened.collection.query_texts), strict=True))


class Sitting:
    """One process's work at an attribution."""

    def __init__(
        self,
        opened: OpenPipeline,
        stages: Sequence[str],
        asked: Asked,
        plan: AttributionPlan,
        store: WorkStore,
        progress: Progress,
    ) -> None:
        self.opened, self.stages, self.asked, self.plan = opened, stages, asked, plan
        self.store, self.progress = store, progress
        self.chain = remembering(opened.chain, store)
        self._gates: list[_Gate] = []
        self._top = _DEPTH + opened.collection.drop_self

    def run_full(self) -> dict[str, list[float]]:
        """Run the full pipeline alone. By stage: seconds and tokens of all queries; `all` is the time by the clock."""
        done = self.store.get(FULL, self.asked.ids)
        if done is None:
            self.progress.stage("the full pipeline alone")
            for on in (True, False):  # what is slow the first time shall not count
                setting = self._setting(self.stages if on else ())
                self.opened.chain.ask(self.asked.turns[:1], stages=setting, top=self._top)
            everything = (1 << len(self.stages)) - 1
            for start in self._starts():
                self._timed("full", start, [everything])
            done = {
                kind.removesuffix(" on"): [work.seconds, work.tokens]
                for kind, work in self.store.works.items()
                if kind.endswith(" on")
            }
            done["all"] = [self.seconds("full"), 0]
            self.store.put(FULL, self.asked.ids, done, seconds=0.0)
            for work in self.store.works.values():
                work.asked = 0
        return {str(stage): list(cost) for stage, cost in done.items()}

    def run_all(self) -> dict[str, FloatArray64]:
        """Values of each query under every selection of stages, by metric. Shape: (queries, 2^stages)."""
        count = 1 << len(self.stages)
        self.progress.stage(f"all {count} selections of {len(self.stages)} stages")
        if self.plan.answer_metric != "token_f1":
            self._put_up_gates()
        parts = [self._timed("rest", start, range(count)) for start in self._starts()]
        return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}

    def _put_up_gates(self) -> None:
        """Leave answers unwritten that are worth nothing whatever they say."""
        switch = self.chain.answerer
        if switch is None:
            return
        sides: dict[str, Any] = {}
        for side, inner in (("on", switch.on), ("off", switch.off)):
            gate = None if inner is None else _Gate(inner, partial(self.store.ask, f"answer {side}"))
            sides[side] = gate
            self._gates += [gate] if gate is not None else []
        self.chain = replace(self.chain, answerer=replace(switch, **sides))

    def seconds(self, phase: str | None = None) -> float:
        """Time by the clock of one phase, or of both, earlier processes included."""
        return float(sum(took for which, took in self.store.values(CLOCK) if phase in (None, which)))

    def _setting(self, on: Sequence[str]) -> dict[str, bool]:
        """The switched stages, and no judge, which changes nothing."""
        judge = {"judge": False} if "judge" in self.chain.switches else {}
        return {name: name in on for name in self.stages} | judge

    def _starts(self) -> range:
        return range(0, len(self.asked.ids), self.plan.batch)

    def _timed(self, phase: str, start: int, columns: Sequence[int]) -> dict[str, FloatArray64]:
        """Run some selections on one batch of queries, and note how long it took if nobody has."""
        began = time.perf_counter()
        rows = slice(start, start + self.plan.batch)
        found = self._values(rows, columns)
        key = [phase, self.asked.ids[rows]]
        if self.store.get(CLOCK, key) is None:
            self.store.put(CLOCK, key, [phase, time.perf_counter() - began], seconds=0.0)
        self.progress.step(min(start + self.plan.batch, len(self.asked.ids)), len(self.asked.ids), "queries")
        return found

    def _values(self, rows: slice, columns: Sequence[int]) -> dict[str, FloatArray64]:
        for gate in self._gates:
            gate.wanted = self.asked.texts[rows]
        values: dict[str, list[FloatArray64]] = {}
        for column in columns:
            setting = self._setting(members(column, self.stages))
            outcomes = self.chain.ask(self.asked.turns[rows], stages=setting, top=self._top)
            for metric, column_values in self._scored(rows, outcomes).items():
                values.setdefault(metric, []).append(column_values)
        return {metric: np.stack(found, axis=1) for metric, found in values.items()}

    def _scored(self, rows: slice, outcomes: Sequence[Outcome]) -> dict[str, FloatArray64]:
        collection, qrels = self.opened.collection, self.asked.qrels
        inside = np.zeros(len(qrels), dtype=np.bool_)
        inside[rows] = True
        part = qrels.select(inside)
        if collection.drop_self:
            outcomes = [
                replace(one, hits=tuple(hit for hit in one.hits if hit.id != name))
                for one, name in zip(outcomes, self.asked.ids[rows], strict=True)
            ]
        run = as_run(outcomes, part.queries.tolist())
        found = {RANKING: score(run, part, [RANKING], min_grade=collection.min_grade)[RANKING]}
        if self.chain.answerer is not None:
            answered = zip(outcomes, self.asked.relevant[rows], self.asked.ids[rows], strict=True)
            found[self.plan.answer_metric] = np.array([self._answer_value(*one) for one in answered])
        return found

    def _answer_value(self, outcome: Outcome, relevant: frozenset[str], name: str) -> float:
        answer = outcome.answer
        if answer is None or (answer.abstained and self.plan.answer_metric != "token_f1"):
            return 0.0
        hits = [doc in relevant for doc in outcome.cited]
        match self.plan.answer_metric:
            case "citation_hit":
                return float(any(hits))
            case "citation_precision":
                return sum(hits) / len(hits) if hits else 0.0
            case "token_f1":
                return best_of(token_f1, answer.text, (self.plan.references or {}).get(name, ()))


@dataclass
class _Gate:
    """An answerer that is asked only where a relevant text is among the passages; elsewhere nobody answers."""

    inner: Answering
    left_out: Callable[[int], None]
    """Told how many questions were not asked."""
    wanted: Sequence[frozenset[str]] = ()
    """The relevant texts of each question of the batch that is being run."""

    def answer(self, questions: Sequence[str], passages: Sequence[Sequence[str]]) -> list[Answer]:
        found = [Answer("", abstained=True)] * len(questions)
        worth = [row for row, own in enumerate(passages) if not self.wanted[row].isdisjoint(own)]
        self.left_out(len(questions) - len(worth))
        answers = self.inner.answer([questions[row] for row in worth], [passages[row] for row in worth])
        for row, answer in zip(worth, answers, strict=True):
            found[row] = answer
        return found


def remembering(chain: Chain, store: WorkStore) -> Chain:
    """The same chain, each stage of which does every distinct piece of work once."""
    off = {"retrieve": "retrieve off", "rerank": "rerank off", "answer": "answer off"}
    retriever = chain.retriever
    assert retriever.on is not None and retriever.off is not None
    on_side = RememberedRetrieval(retriever.on, store, "retrieve on")
    same = retriever.on is retriever.off
    changed: dict[str, Any] = {
        "retriever": replace(
            retriever, on=on_side, off=on_side if same else RememberedRetrieval(retriever.off, store, off["retrieve"])
        )
    }
    if chain.rewriter is not None and chain.rewriter.on is not None:
        meter = chain.meters.get("rewrite", lambda: 0)
        changed["rewriter"] = replace(
            chain.rewriter, on=RememberedRewriter(chain.rewriter.on, store, "rewrite on", meter)
        )
    ranked, answered = chain.reranker, chain.answerer
    if ranked is not None:
        sides = {
            side: None if inner is None else RememberedReranker(inner, store, f"rerank {side}")  # type: ignore[arg-type]
            for side, inner in (("on", ranked.on), ("off", ranked.off))
        }
        changed["reranker"] = Switch(sides["on"], sides["off"], ranked.default)
    if answered is not None:
        meter = chain.meters.get("answer", lambda: 0)
        writers = {
            side: None if inner is None else RememberedAnswerer(inner, store, f"answer {side}", meter)
            for side, inner in (("on", answered.on), ("off", answered.off))
        }
        changed["answerer"] = Switch(writers["on"], writers["off"], answered.default)
    return replace(chain, **changed, costs={})
