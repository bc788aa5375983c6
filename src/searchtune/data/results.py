"""Scores of a retrieval task as a JSON file in the form that MTEB writes and its tools read (Muennighoff et al. 2023).

    {"dataset_revision": "...", "task_name": "SciFact", "mteb_version": null, "evaluation_time": 12.5,
     "kg_co2_emissions": null, "scores": {"test": [{"ndcg_at_10": 0.69, ..., "main_score": 0.69,
     "hf_subset": "default", "languages": ["eng-Latn"]}]}}

`mteb_version` says which mteb measured; it is null where none did, as here. Figures are means from 0 to 1, rounded to
six digits as mteb rounds them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.reading import read_json_object
from searchtune.storage.atomic import write_json

MAIN_SCORE = "ndcg@10"
"""MTEB's headline of a retrieval task."""
_DIGITS = 6
_NAMES = {
    "ndcg": "ndcg_at",
    "map": "map_at",
    "recall": "recall_at",
    "precision": "precision_at",
    "mrr": "mrr_at",
    "hit": "hit_rate_at",
}
_OURS = {theirs: ours for ours, theirs in _NAMES.items()}


@dataclass(frozen=True)
class RetrievalResult:
    """How a system did on one retrieval task: the mean of each metric, by split."""

    task_name: str
    scores: Mapping[str, Mapping[str, float]]
    """Split -> metric (`ndcg@10`) -> mean over queries."""
    main_metric: str = MAIN_SCORE
    dataset_revision: str = "unknown"
    """What tells this version of the data from others, such as a commit or a collection's fingerprint."""
    languages: Sequence[str] = ("eng-Latn",)
    """ISO 639-3 language and ISO 15924 script of the texts."""
    hf_subset: str = "default"
    evaluation_time: float | None = None
    """Seconds."""
    mteb_version: str | None = None

    def as_json(self) -> dict[str, Any]:
        """The file's content. A metric that MTEB has no name for, or a split without the main metric, is an error."""
        for split, figures in self.scores.items():
            if self.main_metric not in figures:
                near = did_you_mean(self.main_metric, figures)
                raise ConfigError(f"split {split!r} lacks the main metric {self.main_metric}{near}")
        return {
            "dataset_revision": self.dataset_revision,
            "task_name": self.task_name,
            "mteb_version": self.mteb_version,
            "scores": {split: [self._row(figures)] for split, figures in self.scores.items()},
            "evaluation_time": self.evaluation_time,
            "kg_co2_emissions": None,
        }

    def _row(self, figures: Mapping[str, float]) -> dict[str, Any]:
        named = {mteb_name(metric): _figure(metric, value) for metric, value in figures.items()}
        main = _figure(self.main_metric, figures[self.main_metric])
        return {**named, "main_score": main, "hf_subset": self.hf_subset, "languages": list(self.languages)}


def write_result(result: RetrievalResult, folder: Path) -> Path:
    """Write `TASK_NAME.json` into `folder`, where MTEB's results folders have it; whole or not at all. Its path."""
    if Path(result.task_name).name != result.task_name or result.task_name in ("", ".."):
        raise ConfigError(f"task name {result.task_name!r} cannot name a file: use letters, digits, - and _")
    path = folder / f"{result.task_name}.json"
    write_json(path, result.as_json())
    return path


def read_result(path: Path, *, hf_subset: str | None = None) -> RetrievalResult:
    """Read a retrieval result that searchtune or mteb wrote; `DataError` says what is wrong with the file.

    Of a split with several subsets `hf_subset` names the one to read; without it there must be only one. Scores that
    searchtune has no name for (`nauc_...`) are left out.
    """
    content = read_json_object(path)
    try:
        rows = {split: _subset(path, split, found, hf_subset) for split, found in content["scores"].items()}
        first = next(iter(rows.values()))
        scores = {split: _known(row) for split, row in rows.items()}
        return RetrievalResult(
            task_name=content["task_name"],
            scores=scores,
            main_metric=_main_metric(first),
            dataset_revision=content["dataset_revision"],
            languages=tuple(first["languages"]),
            hf_subset=first["hf_subset"],
            evaluation_time=content.get("evaluation_time"),
            mteb_version=content.get("mteb_version"),
        )
    except (KeyError, TypeError, AttributeError, StopIteration) as error:
        what = f"{type(error).__name__}: {error}"
        raise DataError(f"{path}: not a result of a retrieval task ({what}); expected task_name and scores") from error


def has_mteb_name(metric: str) -> bool:
    """Whether MTEB's format can hold a metric."""
    base, _, cutoff = metric.partition("@")
    return base in _NAMES and bool(cutoff)


def mteb_name(metric: str) -> str:
    """`ndcg_at_10` for `ndcg@10`."""
    base, _, cutoff = metric.partition("@")
    if not has_mteb_name(metric):
        known = ", ".join(f"{name}@K" for name in _NAMES)
        raise ConfigError(f"metric {metric!r} has no name in MTEB's format; it knows {known}")
    return f"{_NAMES[base]}_{cutoff}"


def _figure(metric: str, value: float) -> float:
    if not math.isfinite(value):
        raise ConfigError(f"{metric} is {value}, which a result file cannot hold: leave the metric or the split out")
    return round(float(value), _DIGITS)


def _subset(path: Path, split: str, rows: Sequence[Mapping[str, Any]], wanted: str | None) -> Mapping[str, Any]:
    names = [row["hf_subset"] for row in rows]
    found = [row for row in rows if wanted in (None, row["hf_subset"])]
    if len(found) != 1:
        asked = f"no subset {wanted!r}" if wanted else f"{len(rows)} subsets"
        raise DataError(f"{path}: split {split!r} has {asked}; name one of: {', '.join(names)}")
    return found[0]


def _known(row: Mapping[str, Any]) -> dict[str, float]:
    """The scores that have a name here, under that name."""
    parts = ((name.rpartition("_"), value) for name, value in row.items())
    return {
        f"{_OURS[base]}@{cutoff}": value for (base, _, cutoff), value in parts if base in _OURS and cutoff.isdigit()
    }


def _main_metric(row: Mapping[str, Any]) -> str:
    """The metric that `main_score` repeats: MTEB's own headline where it does, otherwise the first equal one."""
    equal = [metric for metric, value in _known(row).items() if value == row["main_score"]]
    return MAIN_SCORE if MAIN_SCORE in equal or not equal else equal[0]
