"""The review page: pairs on which a judge and a person, or two judges, disagree, for a person to read and correct.

One file that needs no network and sends nothing. Corrections stay in the reader's browser until they are exported as
JSON lines. Every text comes into the page as data and is shown as text, whatever is in it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from searchtune.errors import DataError
from searchtune.evaluation.examples import shorten
from searchtune.evaluation.page import LIMIT, environment
from searchtune.storage.atomic import write_text
from searchtune.storage.fingerprint import sha256_text

MOST_PAIRS = 10_000
"""Pairs in the page; of more, those that disagree most surely."""
LENGTHS = (4000, 1600, 800, 400, 200)
"""Characters of a passage, the first that lets the page stay within its size."""


@dataclass(frozen=True)
class ReviewPair:
    """A pair of query and passage with what two sides said of it; a grade is None where it could not be read."""

    query_id: str
    query: str
    doc_id: str
    passage: str
    first: int | None
    second: int | None
    first_probabilities: Sequence[float] | None = None
    """Distribution over grades, lowest first; None where there is only a grade."""
    second_probabilities: Sequence[float] | None = None
    reason: str | None = None
    """Why a grade is missing."""

    @property
    def disagrees(self) -> bool:
        """Whether the grades differ or one is missing."""
        return self.first != self.second or self.first is None


@dataclass(frozen=True)
class Review:
    """What the page shows: two sides of one scale."""

    title: str
    first: str
    """Who gave the first grades: `human`."""
    second: str
    grades: Sequence[str]
    """What each grade means, lowest first."""
    pairs: Sequence[ReviewPair]


def sureness(pair: ReviewPair, grades: int) -> float:
    """The chance that two draws from what both sides said differ; a plain grade is sure of itself. 0 to 1.

    -1 where one side said nothing.
    """
    sides: list[Sequence[float]] = []
    for grade, shares in ((pair.first, pair.first_probabilities), (pair.second, pair.second_probabilities)):
        if grade is None:
            return -1.0
        sides.append(shares if shares is not None else [float(number == grade) for number in range(grades)])
    same: float = sum(a * b for a, b in zip(*sides, strict=True))
    return 1 - same


def review_data(review: Review, length: int = LENGTHS[0]) -> dict[str, Any]:
    """The pairs that disagree, the surest disagreement first and unreadable ones last; passages cut to `length`.

    Of equally sure ones those whose grades lie further apart come first.

    Raises:
        DataError: a grade off the scale, a distribution of another length, or a pair given twice.
    """
    _check(review)
    scale = len(review.grades)
    found = [(sureness(pair, scale), pair) for pair in review.pairs if pair.disagrees]
    found.sort(key=lambda it: (-it[0], -_apart(it[1]), it[1].query_id, it[1].doc_id))
    shown = found[:MOST_PAIRS]
    texts = {pair.query_id: pair.query for _, pair in shown}
    place = {query_id: number for number, query_id in enumerate(texts)}
    return {
        "key": "searchtune-review-" + _fingerprint(review)[:16],
        "title": review.title,
        "first": review.first,
        "second": review.second,
        "grades": list(review.grades),
        "total": len(review.pairs),
        "left_out": len(found) - len(shown),
        "queries": [[query_id, text] for query_id, text in texts.items()],
        "rows": [
            [
                place[pair.query_id],
                pair.doc_id,
                shorten(pair.passage, length),
                pair.first,
                pair.second,
                _rounded(pair.first_probabilities),
                _rounded(pair.second_probabilities),
                round(sure, 4),
                pair.reason,
            ]
            for sure, pair in shown
        ],
    }


def render_review(review: Review) -> str:
    """The whole page as HTML, its passages as long as its size allows."""
    text = ""
    for length in LENGTHS:
        data = review_data(review, length)
        text = environment().get_template("review.html.j2").render(review=review, data=data)
        if len(text.encode("utf-8")) <= LIMIT:
            break
    return text


def write_review(review: Review, path: Path) -> None:
    """Write the page, whole or not at all."""
    write_text(path, render_review(review))


def _check(review: Review) -> None:
    scale, seen = len(review.grades), set()
    for number, pair in enumerate(review.pairs):
        at = f"pair {number} (query {pair.query_id!r}, document {pair.doc_id!r})"
        for name, grade, shares in (
            (review.first, pair.first, pair.first_probabilities),
            (review.second, pair.second, pair.second_probabilities),
        ):
            if grade is not None and not 0 <= grade < scale:
                raise DataError(f"{at}: {name} gave grade {grade} on a scale of 0 to {scale - 1}: name every grade")
            if shares is not None and len(shares) != scale:
                raise DataError(f"{at}: {name} gave {len(shares)} probabilities for {scale} grades")
        if (pair.query_id, pair.doc_id) in seen:
            raise DataError(f"{at} is there twice: a correction could not tell the two apart; keep one")
        seen.add((pair.query_id, pair.doc_id))


def _apart(pair: ReviewPair) -> int:
    return abs(pair.first - pair.second) if pair.first is not None and pair.second is not None else 0


def _rounded(shares: Sequence[float] | None) -> list[float] | None:
    return None if shares is None else [round(share, 3) for share in shares]


def _fingerprint(review: Review) -> str:
    """Names the set of pairs, so that corrections of one page are not taken for another's."""
    return sha256_text(json.dumps([review.title, list(review.grades), [(p.query_id, p.doc_id) for p in review.pairs]]))
