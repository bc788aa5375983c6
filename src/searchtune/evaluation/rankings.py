"""The top of every system's ranking for the judged queries, cut to a size that one file can carry.

Queries that differ most between systems come first, so that what is cut away differs least. Snippets go before queries.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np

from searchtune.evaluation.examples import TITLE, shorten
from searchtune.evaluation.report import Card, RankedQuery, Rankings
from searchtune.types import NO_DOC, Collection, FloatArray64, IntArray, Qrels, Run

TOP = 10
"""Documents of each ranking."""
RELEVANT = 5
"""Relevant documents of a query whose ranks are told."""
SNIPPETS = (240, 120, 60, 0)
"""Characters of a document's text, tried in this order until the whole fits."""
BUDGET = 6_000_000
"""Bytes of JSON that rankings may take in a report."""
MOST_QUERIES = 20_000
"""Queries that are looked at; of more, those that differ most."""


def gather_rankings(
    collection: Collection,
    qrels: Qrels,
    *,
    runs: Mapping[str, Run],
    values: Mapping[str, FloatArray64],
    budget: int = BUDGET,
) -> Rankings:
    """The first documents that every system ranked for each judged query, with labels and the ranks of relevant ones.

    `values` are the headline metric by system, from which the order of queries follows: the widest spread between two
    systems first. Shape of each: (judged,).
    """
    spread = np.ptp(np.stack(list(values.values())), axis=0) if values else np.zeros(len(qrels))
    order = np.argsort(-spread, kind="stable")[:MOST_QUERIES]
    rows = {name: dict(zip(run.queries.tolist(), range(len(run.queries)), strict=True)) for name, run in runs.items()}
    cards: dict[int, int] = {}  # document -> position of its card

    def card(doc: int) -> int:
        return cards.setdefault(doc, len(cards))

    def ranked(i: int) -> RankedQuery:
        query = int(qrels.queries[i])
        docs, grades = qrels.row(i)
        labels = dict(zip(docs.tolist(), grades.tolist(), strict=True))
        found = {name: _ranking(run, rows[name].get(query)) for name, run in runs.items()}
        relevant = [doc for doc, grade in labels.items() if grade >= collection.min_grade]
        relevant = sorted(relevant, key=lambda doc: (-labels[doc], doc))[:RELEVANT]
        shown = dict.fromkeys([*(doc for docs in found.values() for doc in docs[:TOP].tolist()), *relevant])
        return RankedQuery(
            top={name: [card(doc) for doc in docs[:TOP].tolist()] for name, docs in found.items()},
            grades={card(doc): labels[doc] for doc in shown if doc in labels},
            relevant=[card(doc) for doc in relevant],
            ranks={name: [_rank(docs, doc) for doc in relevant] for name, docs in found.items()},
        )

    queries = {collection.query_ids[int(qrels.queries[i])]: ranked(int(i)) for i in order}
    whole = Rankings(
        min_grade=collection.min_grade,
        snippet=SNIPPETS[0],
        left_out=len(qrels) - len(queries),
        cards=[
            Card(
                id=collection.doc_ids[doc],
                title=shorten(collection.titles[doc], TITLE),
                snippet=shorten(collection.texts[doc], SNIPPETS[0]),
            )
            for doc in cards
        ],
        queries=queries,
    )
    return within(whole, budget)


def within(rankings: Rankings, budget: int) -> Rankings:
    """The rankings cut until their JSON takes at most `budget` bytes: first snippets, then the last queries."""
    for length in SNIPPETS:
        if length <= rankings.snippet:
            rankings = _with_snippets(rankings, length)
            if size_of(rankings) <= budget:
                return rankings
    fits, too_many = 0, len(rankings.queries)  # how many queries fit is found by halving
    while too_many - fits > 1:
        middle = (fits + too_many) // 2
        fits, too_many = (middle, too_many) if size_of(_first(rankings, middle)) <= budget else (fits, middle)
    return _first(rankings, fits)


def size_of(rankings: Rankings) -> int:
    """Bytes of the rankings as compact JSON that a script element can hold, where `<`, `>` and `&` take six each."""
    text = json.dumps(rankings.model_dump(mode="json"), ensure_ascii=False, separators=(",", ":"))
    return len(text.encode()) + 5 * sum(text.count(char) for char in "<>&")


def _first(rankings: Rankings, count: int) -> Rankings:
    """Only the first queries, with the cards that they need."""
    kept = dict(list(rankings.queries.items())[:count])
    used: dict[int, int] = {}
    for query in kept.values():
        for old in (*(doc for docs in query.top.values() for doc in docs), *query.relevant):
            used.setdefault(old, len(used))
    return rankings.model_copy(
        update={
            "left_out": rankings.left_out + len(rankings.queries) - len(kept),
            "cards": [rankings.cards[old] for old in used],
            "queries": {name: _renumbered(query, used) for name, query in kept.items()},
        }
    )


def _renumbered(query: RankedQuery, places: Mapping[int, int]) -> RankedQuery:
    return RankedQuery(
        top={name: [places[doc] for doc in docs] for name, docs in query.top.items()},
        grades={places[doc]: grade for doc, grade in query.grades.items()},
        relevant=[places[doc] for doc in query.relevant],
        ranks=query.ranks,
    )


def _with_snippets(rankings: Rankings, length: int) -> Rankings:
    if length == rankings.snippet:
        return rankings
    cards = [
        card.model_copy(update={"snippet": shorten(card.snippet, length) if length else ""}) for card in rankings.cards
    ]
    return rankings.model_copy(update={"snippet": length, "cards": cards})


def _ranking(run: Run, row: int | None) -> IntArray:
    """The run's documents of one row, best first; none where the run lacks the query."""
    docs = run.docs[row] if row is not None else np.empty(0, dtype=np.int64)
    return np.asarray(docs[docs != NO_DOC])


def _rank(docs: IntArray, doc: int) -> int | None:
    found = np.flatnonzero(docs == doc)
    return int(found[0]) + 1 if len(found) else None
