"""Scoring run files against a file of labels: figures with intervals, and every run compared with the first one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.named import Aligned, NamedRun, align
from searchtune.data.trec import read_qrels_file, read_trec_run
from searchtune.errors import ConfigError
from searchtune.metrics.ranking import parse_metric, score
from searchtune.metrics.significance import (
    ROUNDS,
    Estimate,
    Tally,
    bootstrap_columns,
    effect_size_columns,
    holm,
    minimum_detectable_effect,
    paired_randomisation_columns,
    paired_t_columns,
    win_tie_loss,
)
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


@dataclass(frozen=True)
class PairedComparison:
    """One metric of one run against the first run, on the same queries."""

    reference: str
    candidate: str
    metric: str
    delta: Estimate
    """Candidate minus reference."""
    p_value: float
    """Of the paired randomisation test."""
    p_holm: float
    """The same, corrected for all runs that are compared on this metric (Holm)."""
    p_t: float
    """Of the paired t-test, uncorrected."""
    effect_size: float
    """Cohen's d_z."""
    tally: Tally
    mde: float
    """The smallest true difference that this many queries would show with 80% power."""


@dataclass(frozen=True, eq=False)
class FileScores:
    """Every run's figures, and the comparisons with the first one."""

    query_ids: Sequence[str]
    """The judged queries."""
    metrics: Sequence[str]
    min_grade: int
    systems: Sequence[SystemScores]
    """In the order of the files."""
    comparisons: Sequence[PairedComparison]
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
                    "metrics": {metric: _plain(it._asdict()) for metric, it in system.estimates.items()},
                    "missing": system.missing,
                    "ignored": system.ignored,
                }
                for system in self.systems
            },
            "comparisons": [
                _plain({**asdict(it), "delta": _plain(it.delta._asdict()), "tally": it.tally._asdict()})
                for it in self.comparisons
            ],
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
    systems = []
    for name, path in zip(names, run_paths, strict=True):
        values = score(aligned.runs[name], aligned.qrels, metrics, min_grade=min_grade)
        systems.append(_system(name, path, runs[name], aligned, values, seed=seed, rounds=rounds))
    return FileScores(
        query_ids=[aligned.query_ids[query] for query in aligned.qrels.queries.tolist()],
        metrics=metrics,
        min_grade=min_grade,
        systems=systems,
        comparisons=_compare(systems, metrics, seed=seed, rounds=rounds),
        warnings=tuple(map(str, labels.warnings)),
    )


def _plain(row: Mapping[str, Any]) -> dict[str, Any]:
    """NaN is no JSON: it becomes null."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in row.items()}


def _system(
    name: str,
    path: Path,
    named: NamedRun,
    aligned: Aligned,
    values: Mapping[str, FloatArray64],
    *,
    seed: int,
    rounds: int,
) -> SystemScores:
    table = np.stack(list(values.values()), axis=1)  # (judged, metrics)
    estimates = bootstrap_columns(table, seed=seed, rounds=rounds)
    return SystemScores(
        name=name,
        path=path,
        tag=named.tag,
        values=values,
        estimates=dict(zip(values, estimates, strict=True)),
        missing=aligned.missing_queries[name],
        ignored=aligned.ignored_queries[name],
        warnings=tuple(map(str, named.warnings)),
    )


def _compare(
    systems: Sequence[SystemScores], metrics: Sequence[str], *, seed: int, rounds: int
) -> list[PairedComparison]:
    """Every system after the first against the first, all by the same resamples and sign flips."""
    reference, candidates = systems[0], systems[1:]
    pairs = [(metric, system) for metric in metrics for system in candidates]
    if not pairs:
        return []
    differences = np.stack([it.values[metric] - reference.values[metric] for metric, it in pairs], axis=1)
    deltas = bootstrap_columns(differences, seed=seed, rounds=rounds)
    p_values = paired_randomisation_columns(differences, seed=seed, rounds=rounds)
    family = len(candidates)
    corrected = [p for start in range(0, len(pairs), family) for p in holm(p_values[start : start + family])]
    p_t, sizes = paired_t_columns(differences), effect_size_columns(differences)
    return [
        PairedComparison(
            reference=reference.name,
            candidate=system.name,
            metric=metric,
            delta=deltas[i],
            p_value=p_values[i],
            p_holm=corrected[i],
            p_t=p_t[i],
            effect_size=sizes[i],
            tally=win_tie_loss(reference.values[metric], system.values[metric]),
            mde=minimum_detectable_effect(differences[:, i]),
        )
        for i, (metric, system) in enumerate(pairs)
    ]


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
