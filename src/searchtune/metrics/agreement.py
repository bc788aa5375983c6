"""How far a judge's relevance grades agree with a person's: kappa, alpha, precision and recall, with intervals.

Everything rests on confusion matrices with the person in the rows and the judge in the columns. A grade below 0 is no
grade (an unreadable reply, a pair nobody labelled): such pairs are left out and counted. The functions on matrices take
any number of them at once; a figure that is not defined is NaN, and `why_undefined` says why.

Intervals draw whole queries (see `metrics.cluster`). How often a judge gives no grade is a figure of its own: agreement
on the pairs that it could read says nothing of the others.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from searchtune.errors import DataError
from searchtune.metrics.cluster import Exchange, Statistic, cluster_bootstrap, cluster_replicates, paired_swap
from searchtune.metrics.significance import ROUNDS, Estimate
from searchtune.types import FloatArray64, IntArray

Weights = Literal["none", "linear", "quadratic"]
"""How bad a disagreement is: any is as bad as any other, by the distance of the grades, or by its square."""
Level = Literal["nominal", "ordinal", "interval"]
"""What grades are to Krippendorff's alpha: names, an order, or numbers."""


@dataclass(frozen=True, eq=False)
class Confusion:
    """Pairs by query, human grade and judged grade. Shape: counts (queries, grades, grades), rows the human grade."""

    counts: FloatArray64
    ungraded: int
    """Pairs that were left out because one of the two gave no grade."""

    @property
    def total(self) -> IntArray:
        """All queries together. Shape: (grades, grades)."""
        return np.asarray(self.counts.sum(axis=0), np.int64)

    def relevant_from(self, human: int, judge: int) -> Confusion:
        """The same pairs in two classes: not relevant and, from these grades on, relevant. Shape: (queries, 2, 2)."""
        return Confusion(binary(self.counts, human, judge), self.ungraded)


def confusion(human: IntArray, judge: IntArray, queries: IntArray, *, grades: int | None = None) -> Confusion:
    """Count the pairs of every query by both grades. Shape: (pairs,) each.

    `grades` is the number of grades of the scale, by default one more than the highest grade seen. A query without a
    pair that both graded stays as zeros, so that two judges' matrices have the same rows.

    Raises:
        DataError: a grade that the scale lacks.
        ValueError: arrays that are not parallel.
    """
    if not human.shape == judge.shape == queries.shape or human.ndim != 1:
        raise ValueError(f"human {human.shape}, judge {judge.shape}, queries {queries.shape}: one of each for a pair")
    highest = int(max(human.max(initial=0), judge.max(initial=0)))
    size = highest + 1 if grades is None else grades
    if highest >= size:
        raise DataError(f"grade {highest} on a scale of 0 to {size - 1}: give the scale that the labels use")
    distinct, row = np.unique(queries, return_inverse=True)
    both = (human >= 0) & (judge >= 0)
    cells = (row[both] * size + human[both]) * size + judge[both]
    counts = np.bincount(cells, minlength=len(distinct) * size * size).astype(np.float64)
    return Confusion(counts.reshape(len(distinct), size, size), int((~both).sum()))


def binary(matrices: FloatArray64, human: int, judge: int) -> FloatArray64:
    """Merge grades into not relevant and relevant, from `human` and `judge` on. Shape: (..., g, g) -> (..., 2, 2)."""
    rows = np.stack([matrices[..., :human, :].sum(-2), matrices[..., human:, :].sum(-2)], axis=-2)
    return np.stack([rows[..., :judge].sum(-1), rows[..., judge:].sum(-1)], axis=-1)


def kappa(matrices: FloatArray64, weights: Weights = "none") -> FloatArray64:
    """Agreement beyond chance: 1 - disagreement / that of independent raters with the same habits.

    Cohen 1960 (Educ. Psychol. Meas. 20:37); weighted, Cohen 1968 (Psychol. Bull. 70:213). 1 is full agreement, 0 is
    chance. NaN where both raters give one and the same grade to every pair. Shape: (..., grades, grades) -> (...).
    """
    grade = np.arange(matrices.shape[-1])
    distance = np.abs(grade[:, None] - grade).astype(np.float64)
    cost = {"none": np.sign(distance), "linear": distance, "quadratic": distance**2}[weights]
    chance = matrices.sum(-1)[..., :, None] * matrices.sum(-2)[..., None, :]
    seen = (matrices * cost).sum((-2, -1)) * matrices.sum((-2, -1))
    return 1 - _divide(seen, (chance * cost).sum((-2, -1)))


def krippendorff_alpha(matrices: FloatArray64, level: Level = "ordinal") -> FloatArray64:
    """Krippendorff's alpha of two raters (Content Analysis, 2004, ch. 11): both share one distribution of grades.

    Unlike kappa it counts it as disagreement where one rater is more generous than the other. NaN where all grades are
    the same. Shape: (..., grades, grades) -> (...).
    """
    pooled = matrices + np.swapaxes(matrices, -1, -2)  # coincidences
    each = pooled.sum(-1)  # (..., grades)
    n = each.sum(-1)
    values = np.arange(matrices.shape[-1], dtype=np.float64) if level != "ordinal" else each.cumsum(-1) - each / 2
    distance = values[..., :, None] - values[..., None, :]
    cost = np.sign(np.abs(distance)) if level == "nominal" else distance**2
    seen = (pooled * cost).sum((-2, -1)) * (n - 1)
    return 1 - _divide(seen, (each[..., :, None] * each[..., None, :] * cost).sum((-2, -1)))


def accuracy(matrices: FloatArray64) -> FloatArray64:
    """Share of pairs with the same grade. Shape: (..., grades, grades) -> (...)."""
    return _divide(np.trace(matrices, axis1=-2, axis2=-1), matrices.sum((-2, -1)))


def precision(matrices: FloatArray64) -> FloatArray64:
    """Of what the judge calls relevant, the share that the person does too. Shape: (..., 2, 2) -> (...)."""
    return _divide(matrices[..., 1, 1], matrices[..., :, 1].sum(-1))


def recall(matrices: FloatArray64) -> FloatArray64:
    """Of what the person calls relevant, the share that the judge does too. Shape: (..., 2, 2) -> (...)."""
    return _divide(matrices[..., 1, 1], matrices[..., 1, :].sum(-1))


BINARY: Mapping[str, Statistic] = {"kappa": kappa, "precision": precision, "recall": recall, "accuracy": accuracy}
"""Figures of relevant against not relevant."""
GRADED: Mapping[str, Statistic] = {
    "kappa_graded": kappa,
    "kappa_linear": lambda matrices: kappa(matrices, "linear"),
    "kappa_quadratic": lambda matrices: kappa(matrices, "quadratic"),
    "alpha": krippendorff_alpha,
    "exact": accuracy,
}
"""Figures of the grades themselves, for a judge that uses the person's scale."""


def agreement(
    found: Confusion, *, human_from: int, judge_from: int, graded: bool = True, seed: int = 0, rounds: int = ROUNDS
) -> dict[str, Estimate]:
    """All figures of `BINARY` and, where `graded`, of `GRADED`, with intervals that draw whole queries.

    A pair counts as relevant from the grade `human_from` of the person and `judge_from` of the judge on. Queries
    without a graded pair do not count.

    Raises:
        DataError: a threshold of 0 or less, from which on every pair would be relevant.
    """
    for name, grade in (("human_from", human_from), ("judge_from", judge_from)):
        if grade < 1:
            raise DataError(f"{name} is {grade}: from there on every pair is relevant; give a grade from 1 on")
    counts = found.counts[found.counts.sum((1, 2)) > 0]
    figures = {name: _merged(statistic, human_from, judge_from) for name, statistic in BINARY.items()}
    return cluster_bootstrap(counts, figures | (dict(GRADED) if graded else {}), seed=seed, rounds=rounds)


def difference(
    a: Confusion, b: Confusion, statistic: Statistic = kappa, *, seed: int = 0, rounds: int = ROUNDS
) -> Exchange:
    """The figure of `b` minus that of `a` with its interval, and the p-value of the paired randomisation test.

    Both must be counted from the same queries and from the pairs that both judges graded, else the judge that skips
    hard pairs wins: set both grades to -1 where either is. Shapes may differ in their number of grades.

    Raises:
        ValueError: matrices of different queries, or of different pairs.
    """
    size = max(a.counts.shape[-1], b.counts.shape[-1])
    first, second = (_padded(it.counts, size) for it in (a, b))
    if len(first) != len(second) or (first.sum((1, 2)) != second.sum((1, 2))).any():
        raise ValueError("the two judges' matrices do not count the same pairs: keep those that both graded")
    keep = first.sum((1, 2)) > 0
    both = np.stack([first[keep], second[keep]], axis=1)  # (queries, 2, grades, grades)
    figures = {"difference": lambda sums: statistic(sums[..., 1, :, :]) - statistic(sums[..., 0, :, :])}
    replicates = cluster_replicates(both, figures, seed=seed, rounds=rounds)["difference"]
    return Exchange(replicates, paired_swap(both[:, 0], both[:, 1], statistic, seed=seed, rounds=rounds))


def why_undefined(found: Confusion, name: str, *, human_from: int, judge_from: int) -> str | None:
    """Why the figure `name` has no value on these pairs, in words; None where it has one."""
    total = found.total.astype(np.float64)
    merged = binary(total, human_from, judge_from) if name in BINARY else total
    statistic = {**BINARY, **GRADED}[name]
    if not np.isnan(statistic(merged)):
        return None
    if not total.sum():
        return "no pair has both a human and a judged grade"
    if name == "precision":
        return f"the judge calls nothing relevant (grade {judge_from} or more)"
    if name == "recall":
        return f"no pair is relevant by its human grade ({human_from} or more)"
    return "every pair has one and the same class for both, so that there is nothing to agree on beyond chance"


def _merged(statistic: Statistic, human_from: int, judge_from: int) -> Statistic:
    return lambda matrices: statistic(binary(matrices, human_from, judge_from))


def _padded(counts: FloatArray64, size: int) -> FloatArray64:
    more = size - counts.shape[-1]
    return np.pad(counts, ((0, 0), (0, more), (0, more)))


def _divide(above: FloatArray64, below: FloatArray64) -> FloatArray64:
    """NaN where `below` is 0."""
    above, below = np.asarray(above, np.float64), np.asarray(below, np.float64)
    found: FloatArray64 = np.divide(
        above, below, out=np.full(np.broadcast(above, below).shape, np.nan), where=below != 0
    )
    return found
