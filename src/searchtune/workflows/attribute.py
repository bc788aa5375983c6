"""Which stage of a pipeline earned what: every selection of stages run on a split's queries, and taken apart.

    OUT/journal.jsonl       every distinct piece of work, as it is done
    OUT/attribution.json    the report
    OUT/attribution.html    the same for people, one file
    OUT/values.jsonl        each query's value under every selection, by metric

The full pipeline runs first and alone, with nothing remembered, so that its time can be told; what it did is not done
again for the other selections. An attribution that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from searchtune.data.splits import hash_share
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.attribution import (
    AttributionReport,
    Grid,
    StageFacts,
    WorkDone,
    attributed,
    narrowed,
    write_attribution,
)
from searchtune.evaluation.attribution_page import write_attribution_page
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
from searchtune.specs.pipeline import PipelineSpec
from searchtune.storage.atomic import write_text
from searchtune.storage.journal import JOURNAL_FILE, Journal
from searchtune.types import Collection, FloatArray64, Qrels, Turn
from searchtune.workflows.open_pipeline import OpenPipeline
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import command, hardware, now, spec_sha256, versions

REPORT_FILE, PAGE_FILE, VALUES_FILE = "attribution.json", "attribution.html", "values.jsonl"
RANKING = "ndcg@10"
"""The metric of rankings."""
_DEPTH = 10
AnswerMetric = Literal["citation_hit", "citation_precision", "token_f1"]
LABELS: dict[str, str] = {
    RANKING: "nDCG@10",
    "citation_hit": "citation hit",
    "citation_precision": "citation precision",
    "token_f1": "token F1",
}
_CLOCK, _FULL = "clock", "full pipeline"
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
    """Query id -> what was said, where it has a history."""
    batch: int = 32
    seed: int = 13


@dataclass(frozen=True, eq=False)
class _Asked:
    """The queries of an attribution."""

    qrels: Qrels
    turns: list[Turn]
    ids: list[str]
    relevant: list[frozenset[str]]
    """Ids of each query's relevant documents."""


def attribute_pipeline(
    opened: OpenPipeline, out: Path | str, plan: AttributionPlan | None = None, *, progress: Progress = SILENT
) -> AttributionReport:
    """Run every selection of the pipeline's stages, write what each stage earned, and return it.

    Raises:
        ConfigError: no stage to switch, a metric that needs what is not there, or `out` holds another attribution.
        DataError: the collection has no such split.
    """
    plan = plan or AttributionPlan()
    out = Path(out).expanduser()
    stages = opened.spec.tuned
    _check(opened, stages, plan)
    asked = _asked(opened.collection, plan)
    header = {"pipeline": opened.identity, "stages": list(stages), "queries": asked.ids, "batch": plan.batch}
    with Journal(out / JOURNAL_FILE, header) as journal:
        store = WorkStore(journal)
        sitting = _Sitting(opened, stages, asked, plan, store, progress)
        full = sitting.run_full()
        values = sitting.run_all()
        seconds = sitting.seconds()
    report = _report(opened, stages, values, asked, plan, (full, seconds, _work(store)))
    out.mkdir(parents=True, exist_ok=True)
    _write_values(out / VALUES_FILE, asked.ids, stages, values)
    write_attribution(report, out / REPORT_FILE)
    write_attribution_page(report, out / PAGE_FILE)
    return report


def _check(opened: OpenPipeline, stages: Sequence[str], plan: AttributionPlan) -> None:
    if not stages:
        raise ConfigError(
            f"{opened.name}: no stage has an adapter, so there is nothing to switch: give one to rewrite, retrieve, "
            "rerank or answer"
        )
    if plan.answer_metric not in get_args(AnswerMetric):
        known = get_args(AnswerMetric)
        raise ConfigError(f"no metric of answers {plan.answer_metric!r}{did_you_mean(plan.answer_metric, known)}")
    if plan.answer_metric == "token_f1" and not plan.references:
        raise ConfigError("token_f1 compares with answers by people: give references, or take citation_hit")


def _asked(collection: Collection, plan: AttributionPlan) -> _Asked:
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
    turns = [
        (plan.turns or {}).get(name, Turn(collection.query_texts[int(query)]))
        for name, query in zip(names, qrels.queries, strict=True)
    ]
    relevant = []
    for row in range(len(qrels)):
        docs, grades = qrels.row(row)
        relevant.append(frozenset(collection.doc_ids[doc] for doc in docs[grades >= collection.min_grade].tolist()))
    return _Asked(qrels, turns, names, relevant)


class _Sitting:
    """One process's work at an attribution."""

    def __init__(
        self,
        opened: OpenPipeline,
        stages: Sequence[str],
        asked: _Asked,
        plan: AttributionPlan,
        store: WorkStore,
        progress: Progress,
    ) -> None:
        self.opened, self.stages, self.asked, self.plan = opened, stages, asked, plan
        self.store, self.progress = store, progress
        self.chain = remembering(opened.chain, store)
        self._top = _DEPTH + opened.collection.drop_self

    def run_full(self) -> dict[str, list[float]]:
        """Run the full pipeline alone. By stage: seconds and tokens of all queries; `all` is the time by the clock."""
        done = self.store.get(_FULL, self.asked.ids)
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
            self.store.put(_FULL, self.asked.ids, done, seconds=0.0)
            for work in self.store.works.values():
                work.asked = 0
        return {str(stage): list(cost) for stage, cost in done.items()}

    def run_all(self) -> dict[str, FloatArray64]:
        """Values of each query under every selection of stages, by metric. Shape: (queries, 2^stages)."""
        count = 1 << len(self.stages)
        self.progress.stage(f"all {count} selections of {len(self.stages)} stages")
        parts = [self._timed("rest", start, range(count)) for start in self._starts()]
        return {metric: np.concatenate([part[metric] for part in parts]) for metric in parts[0]}

    def seconds(self, phase: str | None = None) -> float:
        """Time by the clock of one phase, or of both, earlier processes included."""
        return sum(took for which, took in self.store.values(_CLOCK) if phase in (None, which))

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
        if self.store.get(_CLOCK, key) is None:
            self.store.put(_CLOCK, key, [phase, time.perf_counter() - began], seconds=0.0)
        self.progress.step(min(start + self.plan.batch, len(self.asked.ids)), len(self.asked.ids), "queries")
        return found

    def _values(self, rows: slice, columns: Sequence[int]) -> dict[str, FloatArray64]:
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
    for field, stage, wrap in (("reranker", "rerank", RememberedReranker), ("answerer", "answer", RememberedAnswerer)):
        switch: Switch[Any] | None = getattr(chain, field)
        if switch is not None:
            options = {"meter": chain.meters.get(stage, lambda: 0)} if wrap is RememberedAnswerer else {}
            sides = {
                side: None if inner is None else wrap(inner, store, f"{stage} {side}", **options)  # type: ignore[operator]
                for side, inner in (("on", switch.on), ("off", switch.off))
            }
            changed[field] = replace(switch, **sides)
    return replace(chain, **changed, costs={})


def _work(store: WorkStore) -> list[WorkDone]:
    return [
        WorkDone(kind=kind, asked=work.asked, distinct=work.distinct, seconds=round(work.seconds, 3))
        for kind, work in store.works.items()
        if kind not in (_CLOCK, _FULL)
    ]


def _report(
    opened: OpenPipeline,
    stages: Sequence[str],
    values: Mapping[str, FloatArray64],
    asked: _Asked,
    plan: AttributionPlan,
    took: tuple[dict[str, list[float]], float, list[WorkDone]],
) -> AttributionReport:
    full, seconds, work = took
    ranking = [name for name in stages if name != "answer"]
    grids = {}
    for metric, found in values.items():
        moved = ranking if metric == RANKING else list(stages)
        if moved:
            grids[metric] = Grid(tuple(moved), narrowed(stages, found, moved), LABELS[metric])
    count = len(asked.ids)
    return AttributionReport(
        pipeline=opened.name,
        collection=opened.collection.name,
        split=plan.split,
        queries=count,
        headline=plan.answer_metric if plan.answer_metric in grids else RANKING,
        stages={name: _facts(opened.spec, name, full.get(name, [0.0, 0]), count) for name in stages},
        metrics={metric: attributed(grid, seed=plan.seed) for metric, grid in grids.items()},
        work=work,
        full_seconds=round(full["all"][0], 3),
        seconds=round(seconds, 3),
        provenance={
            "created": now(),
            "command": command(),
            "pipeline": opened.spec.model_dump(mode="json"),
            "pipeline_sha256": spec_sha256(opened.spec),
            "collection_sha256": opened.collection.fingerprint,
            "max_queries": plan.max_queries,
            "seed": plan.seed,
            "versions": versions(),
            "hardware": hardware(),
        },
    )


def _facts(spec: PipelineSpec, name: str, cost: Sequence[float], queries: int) -> StageFacts:
    stage = getattr(spec, name)
    otherwise = {
        "rewrite": "what was said",
        "retrieve": "the base bi-encoder" if stage.base is None else stage.base,
        "rerank": "the order of the retrieval",
        "answer": "the beginning of the best passage",
    }[name]
    if name in ("rerank", "answer") and stage.adapter is not None and stage.base is not None:
        otherwise = f"{stage.base}, untuned"
    seconds, tokens = cost
    return StageFacts(
        adapter=stage.adapter or stage.base or "",
        off=otherwise,
        seconds_per_query=seconds / queries,
        tokens_per_query=tokens / queries,
    )


def _write_values(file: Path, ids: Sequence[str], stages: Sequence[str], values: Mapping[str, FloatArray64]) -> None:
    """A line for each query: its value under every selection, named by the stages that are on."""
    names = ["+".join(members(column, stages)) or "none" for column in range(1 << len(stages))]
    lines = [
        json.dumps(
            {
                "query_id": name,
                **{
                    metric: dict(zip(names, found[row].round(6).tolist(), strict=True))
                    for metric, found in values.items()
                },
            }
        )
        for row, name in enumerate(ids)
    ]
    write_text(file, "".join(f"{line}\n" for line in lines))
