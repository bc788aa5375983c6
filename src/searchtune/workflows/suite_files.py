"""What a suite writes for other tools: runs as TREC files, figures as MTEB has them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from searchtune.data.named import NamedRun
from searchtune.data.results import MAIN_SCORE, RetrievalResult, has_mteb_name, write_result
from searchtune.data.trec import write_trec_run
from searchtune.evaluation import Report
from searchtune.types import Collection, Run


def folder_name(task: str) -> str:
    """A task's name as the name of a folder."""
    return re.sub(r"[^\w.-]+", "-", task).lstrip(".") or "task"


def write_for_others(folder: Path, collection: Collection, report: Report, runs: Mapping[str, Run]) -> None:
    """Runs as TREC files and figures as MTEB has them, one of each a system."""
    (folder / "runs").mkdir(exist_ok=True)
    for system, run in runs.items():
        named = NamedRun(system, collection.query_ids, collection.doc_ids, run)
        write_trec_run(folder / "runs" / f"{system}.run.gz", named)
        known = {metric: it.mean for metric, it in report.systems[system].metrics.items() if has_mteb_name(metric)}
        if not known:
            continue
        main = next(metric for metric in (MAIN_SCORE, report.headline_metric, *known) if metric in known)
        results = folder / "mteb" / system
        results.mkdir(parents=True, exist_ok=True)
        result = RetrievalResult(
            folder.name, {report.split: known}, main_metric=main, dataset_revision=collection.fingerprint
        )
        write_result(result, results)
