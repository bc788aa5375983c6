"""The review page as data: which pairs are in it, their order, and that nothing in them can run."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from searchtune.errors import DataError
from searchtune.evaluation import review as room
from searchtune.evaluation.review import Review, ReviewPair, render_review, review_data, sureness

EVIL = "</script><script>alert('x')</script><img src=x onerror=alert(1)> \u2028 ``` & \"more\""
NAMES = ["no", "some", "yes"]


def pair(number: int, first: int | None, second: int | None, **more) -> ReviewPair:
    return ReviewPair(f"q{number % 3}", f"query {number % 3}", f"d{number}", f"passage {number}", first, second, **more)


def made(*pairs: ReviewPair) -> Review:
    return Review("help-desk", "human", "tuned", NAMES, pairs)


def test_only_disagreements_are_shown_the_surest_first() -> None:
    shown = review_data(
        made(
            pair(0, 1, 1),
            pair(1, 0, 1, second_probabilities=(0.4, 0.6, 0.0)),
            pair(2, 0, None, reason="cut off"),
            pair(3, 0, 1),
            pair(4, 0, 2),
            pair(5, 2, 0, first_probabilities=(0.0, 0.1, 0.9), second_probabilities=(0.9, 0.0, 0.1)),
        )
    )
    assert [row[1] for row in shown["rows"]] == ["d4", "d3", "d5", "d1", "d2"]
    assert [row[7] for row in shown["rows"]] == [1, 1, 0.91, 0.6, -1]
    assert shown["rows"][-1][8] == "cut off"
    assert (shown["total"], shown["left_out"]) == (6, 0)


def test_sureness() -> None:
    assert sureness(pair(0, 0, 0), 3) == 0
    assert sureness(pair(0, None, None), 3) == -1
    assert sureness(pair(0, 1, 0, second_probabilities=(0.5, 0.25, 0.25)), 3) == pytest.approx(0.75)


def test_queries_stand_once_and_passages_are_cut() -> None:
    pairs = [replace(pair(number, 0, 1), passage="word " * 200) for number in range(9)]
    shown = review_data(made(*pairs), length=100)
    assert len(shown["queries"]) == 3
    assert all(len(row[2]) <= 101 for row in shown["rows"])


def test_a_large_page_keeps_its_size_and_its_surest_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "MOST_PAIRS", 50)
    monkeypatch.setattr(room, "LIMIT", 80_000)
    pairs = [replace(pair(number, 0, 1 + number % 2), passage="word " * 500) for number in range(80)]
    html = render_review(made(*pairs))
    assert len(html.encode()) <= 80_000
    found = data_of(html)
    assert (len(found["rows"]), found["left_out"]) == (50, 30)
    assert [row[4] for row in found["rows"]] == [2] * 40 + [1] * 10


def data_of(html: str) -> dict:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found is not None
    return json.loads(found.group(1))


def test_texts_come_back_as_they_were_and_cannot_run() -> None:
    evil = ReviewPair(EVIL, EVIL, EVIL, EVIL, 0, None, reason=EVIL)
    html = render_review(Review(EVIL, EVIL, EVIL, [EVIL, "1"], [evil]))
    assert "<script>alert" not in html
    assert "<img" not in html
    assert html.count("<script") == html.count("</script>") == 2
    found = data_of(html)
    assert found["queries"][0] == [EVIL, EVIL]
    assert found["rows"][0][8] == EVIL
    assert "default-src 'none'" in html
    assert not re.search(r"(?:src|href)\s*=\s*\"|@import|url\(", html)


def test_the_key_of_corrections_is_that_of_the_pairs() -> None:
    one, same, other = made(pair(1, 0, 1)), made(pair(1, 0, 2)), made(pair(2, 0, 1))
    assert review_data(one)["key"] == review_data(same)["key"] != review_data(other)["key"]


def test_nothing_to_review() -> None:
    for pairs in ((), (pair(0, 1, 1),)):
        assert data_of(render_review(made(*pairs)))["rows"] == []


def test_broken_pairs_are_named() -> None:
    with pytest.raises(
        DataError, match=r"pair 1 \(query 'q1', document 'd1'\): tuned gave grade 3 on a scale of 0 to 2"
    ):
        review_data(made(pair(0, 0, 1), pair(1, 0, 3)))
    with pytest.raises(DataError, match="human gave 2 probabilities for 3 grades"):
        review_data(made(pair(0, 0, 1, first_probabilities=(0.5, 0.5))))
    with pytest.raises(DataError, match="is there twice"):
        review_data(made(pair(0, 0, 1), pair(0, 1, 2)))
