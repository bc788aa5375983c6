"""Rubrics: what each grade of relevance means, and the one character that stands for it in a judge's reply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from searchtune.errors import ConfigError, did_you_mean

_MOST_GRADES = 10


@dataclass(frozen=True)
class Rubric:
    """Grades from 0 up: grade `i` is written `labels[i]` and means `meanings[i]`.

    Raises:
        ConfigError: fewer than two grades, labels that are equal or empty, a grade without a meaning, or a `min_grade`
            that is no grade or would call everything relevant.
    """

    name: str
    version: int
    labels: tuple[str, ...]
    meanings: tuple[str, ...]
    min_grade: int = 1
    """The lowest grade that counts as relevant."""

    def __post_init__(self) -> None:
        what = f"rubric {self.name!r}"
        if not 2 <= len(self.labels) <= _MOST_GRADES or len(self.labels) != len(self.meanings):
            raise ConfigError(
                f"{what}: {len(self.labels)} labels and {len(self.meanings)} meanings; give from 2 to {_MOST_GRADES} "
                "grades, each with a meaning"
            )
        if len({label.casefold() for label in self.labels}) < len(self.labels) or not all(
            label.isalnum() for label in self.labels
        ):
            raise ConfigError(f"{what}: labels {list(self.labels)} must differ and be single words or digits")
        if not all(meaning.strip() for meaning in self.meanings):
            raise ConfigError(f"{what}: a grade has no meaning; say in a few words when it applies")
        if not 1 <= self.min_grade < len(self.labels):
            raise ConfigError(f"{what}: min_grade {self.min_grade} must lie from 1 to {len(self.labels) - 1}")

    @property
    def top(self) -> int:
        """The highest grade."""
        return len(self.labels) - 1

    def fields(self) -> dict[str, Any]:
        """Everything in it, as plain JSON: for cards, and for the header of a job's journal."""
        return {
            "name": self.name,
            "version": self.version,
            "labels": list(self.labels),
            "meanings": list(self.meanings),
            "min_grade": self.min_grade,
        }

    @classmethod
    def of(cls, fields: Mapping[str, Any]) -> Rubric:
        """The rubric that `fields` described."""
        return cls(
            str(fields["name"]),
            int(fields["version"]),
            tuple(fields["labels"]),
            tuple(fields["meanings"]),
            int(fields["min_grade"]),
        )


UMBRELA = Rubric(
    "umbrela",
    1,
    ("0", "1", "2", "3"),
    (
        "has nothing to do with the query",
        "is on the topic of the query, but does not answer it",
        "holds some answer to the query, though unclear, partial or hidden among other matters",
        "is about the query and holds the exact answer",
    ),
    min_grade=2,
)
"""The four grades of TREC Deep Learning, as UMBRELA asks for them (Upadhyay et al. 2024, arXiv:2406.06519)."""

BINARY = Rubric("binary", 1, ("no", "yes"), ("does not help to answer the query", "helps to answer the query"))

RUBRICS = {rubric.name: rubric for rubric in (UMBRELA, BINARY)}


def find_rubric(name: str) -> Rubric:
    """The rubric of that name that searchtune brings along; a `ConfigError` names those there are."""
    if name not in RUBRICS:
        raise ConfigError(f"no rubric {name!r}{did_you_mean(name, RUBRICS)}; or describe the grades yourself")
    return RUBRICS[name]


def own_rubric(name: str, meanings: Mapping[int, str], *, min_grade: int = 1, version: int = 1) -> Rubric:
    """A task's own rubric from grade -> meaning. Grades are 0, 1, 2, ... without a gap.

    Raises:
        ConfigError: see `Rubric`; or the grades have a gap, or the name is taken by another rubric.
    """
    grades = sorted(meanings)
    if grades != list(range(len(grades))):
        raise ConfigError(f"rubric {name!r}: grades {grades}; number them 0, 1, 2, ... without a gap")
    rubric = Rubric(name, version, tuple(map(str, grades)), tuple(meanings[grade] for grade in grades), min_grade)
    if name in RUBRICS and rubric != RUBRICS[name]:
        raise ConfigError(f"rubric {name!r}: the name of a rubric that is built in; give your own another name")
    return rubric
