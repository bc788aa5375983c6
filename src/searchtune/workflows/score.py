"""Scoring run files against a file of labels: figures with intervals, and every run compared with the first one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchtune.data.named import NamedRun, align
from searchtune.data.trec import read_qrels_file, read_trec_run
from searchtune.errors import ConfigError
from searchtune.evaluation.figures import figures
from searchtune.evaluation.report import Comparison, plain
from searchtune.metrics.ranking import parse_metric, score
from searchtune.metrics.significance import ROUNDS, Estimate
from searchtune.types import FloatArray64
from searchtune.workflows.progress import SILENT, Progress


@dataclass(frozen=True, eq=False)
class SystemScores:
    """How one run did."""

    name: str
    """The file's name without its endings; the whole path where two files would share a name."""
    path: Path
    tag: str
    values: Mapping[str, FloatArray64]
    """One value per judged query, in the order of `FileScores.query_ids`, by metric."""
    estimates: Mapping[str, Estimate]
    missing: int
    """Judged queries that the run lacks; each scores 0."""
    ignored: int
    """Queries of the run that have no labels; they count nowhere."""
    warnings: tuple[str, ...]
    """What was found odd in the file, in words."""


@dataclass(frozen=True, eq=False)
class FileScores:
    """Every run's figures, and the comparisons with the first one."""

    query_ids: Sequence[str]
    """The judged queries."""
    metrics: Sequence[str]
    min_grade: int
    systems: Sequence[SystemScores]
    """In the order of the files."""
    comparisons: Sequence[Comparison]
    """By metric, then by run; empty for a single run."""
    warnings: tuple[str, ...]
    """What was found odd in the file of labels."""

    def to_json(self) -> dict[str, Any]:
        """Means, intervals and comparisons as plain values; what cannot be had is null."""
        return {
            "queries": len(self.query_ids),
            "min_grade": self.min_grade,
            "systems": {
                system.name: {
                    "metrics": {metric: plain(it._asdict()) for metric, it in system.estimates.items()},
                    "missing": system.missing,
                    "ignored": system.ignored,
                }
                for system in self.systems
            },
            "comparisons": [it.model_dump(mode="json") for it in self.comparisons],
        }


def score_files(
    qrels_path: Path,
    run_paths: Sequence[Path],
    metrics: Sequence[str] = ("ndcg@10", "recall@100", "mrr@10", "map"),
    *,
    min_grade: int = 1,
    seed: int = 13,
    rounds: int = ROUNDS,
    progress: Progress = SILENT,
) -> FileScores:
    """Score TREC run files by trec_eval's rules, save that a judged query which a run lacks counts 0.

    With two or more runs each one after the first is compared with the first; Holm's correction is over the runs, for
    each metric by itself. The same seed gives the same figures.
    """
    names = _system_names(run_paths)
    metrics = list(dict.fromkeys(str(parse_metric(metric)) for metric in metrics))
    if not metrics:
        raise ConfigError("no metric to score: name at least one, for instance ndcg@10")
    labels = read_qrels_file(qrels_path)
    runs: dict[str, NamedRun] = {}
    for name, path in zip(names, run_paths, strict=True):
        progress.stage(f"reading {path}")
        runs[name] = read_trec_run(path)
    aligned = align(labels, runs)
    progress.stage(f"scoring {len(aligned.qrels):,} queries")
    values = {name: score(run, aligned.qrels, metrics, min_grade=min_grade) for name, run in aligned.runs.items()}
    pairs = [(names[0], name) for name in names[1:]]
    found = figures(values, systems=names, pairs=pairs, metrics=metrics, seed=seed, rounds=rounds)
    return FileScores(
        query_ids=[aligned.query_ids[query] for query in aligned.qrels.queries.tolist()],
        metrics=metrics,
        min_grade=min_grade,
        systems=[
            SystemScores(
                name=name,
                path=path,
                tag=runs[name].tag,
                values=values[name],
                estimates=found.systems[name].metrics,
                missing=aligned.missing_queries[name],
                ignored=aligned.ignored_queries[name],
                warnings=tuple(map(str, runs[name].warnings)),
            )
            for name, path in zip(names, run_paths, strict=True)
        ],
        comparisons=[it for metric in metrics for it in found.comparisons if it.metric == metric],
        warnings=tuple(map(str, labels.warnings)),
    )


def _system_names(paths: Sequence[Path]) -> list[str]:
    """What each run is called: `bm25` for `runs/bm25.run.gz`, the whole path where that is not unique."""
    if not paths:
        raise ConfigError("no run to score: give at least one TREC run file")
    if len(set(paths)) < len(paths):
        again = next(path for i, path in enumerate(paths) if path in paths[:i])
        raise ConfigError(f"{again} is given twice: give each run once")
    short = [path.name.removesuffix(".gz") for path in paths]
    stems = [Path(name).stem for name in short]
    return [stem if stems.count(stem) == 1 else str(path) for stem, path in zip(stems, paths, strict=True)]
