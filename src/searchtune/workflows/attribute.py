"""Which stage of a pipeline earned what: every selection of stages run on a split's queries, and taken apart.

    OUT/journal.jsonl       every distinct piece of work, as it is done
    OUT/attribution.json    the report
    OUT/attribution.html    the same for people, one file
    OUT/values.jsonl        each query's value under every selection, by metric

An attribution that was killed goes on where it stopped.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import get_args

from searchtune.errors import ConfigError, did_you_mean
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
from searchtune.metrics.shapley import members
from searchtune.pipeline.remembered import WorkStore
from searchtune.reading import user_path
from searchtune.specs.pipeline import PipelineSpec
from searchtune.storage.atomic import write_text
from searchtune.storage.journal import JOURNAL_FILE, Journal
from searchtune.types import FloatArray64
from searchtune.workflows.attribute_grid import (
    CLOCK,
    FULL,
    RANKING,
    AnswerMetric,
    Asked,
    AttributionPlan,
    Sitting,
    asked_of,
)
from searchtune.workflows.open_pipeline import OpenPipeline
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import command, hardware, now, spec_sha256, versions

REPORT_FILE, PAGE_FILE, VALUES_FILE = "attribution.json", "attribution.html", "values.jsonl"
LABELS: dict[str, str] = {
    RANKING: "nDCG@10",
    "citation_hit": "citation hit",
    "citation_precision": "citation precision",
    "token_f1": "token F1",
}


def attribute_pipeline(
    opened: OpenPipeline, out: Path | str, plan: AttributionPlan | None = None, *, progress: Progress = SILENT
) -> AttributionReport:
    """Run every selection of the pipeline's stages, write what each stage earned, and return it.

    Raises:
        ConfigError: no stage to switch, a metric that needs what is not there, or `out` holds another attribution.
        DataError: the collection has no such split.
    """
    plan = plan or AttributionPlan()
    out = user_path(out)
    stages = opened.spec.tuned
    _check(opened, stages, plan)
    asked = asked_of(opened, plan)
    header = {"pipeline": opened.identity, "stages": list(stages), "queries": asked.ids, "batch": plan.batch}
    with Journal(out / JOURNAL_FILE, header) as journal:
        store = WorkStore(journal)
        sitting = Sitting(opened, stages, asked, plan, store, progress)
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


def _work(store: WorkStore) -> list[WorkDone]:
    return [
        WorkDone(kind=kind, asked=work.asked, distinct=work.distinct, seconds=round(work.seconds, 3))
        for kind, work in store.works.items()
        if kind not in (CLOCK, FULL)
    ]


def _report(
    opened: OpenPipeline,
    stages: Sequence[str],
    values: Mapping[str, FloatArray64],
    asked: Asked,
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
