"""The queries that gained and lost most, with the top documents of both systems side by side."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from searchtune.evaluation.report import Example, Examples, Hit, SliceName, Wanted
from searchtune.metrics.significance import SAME
from searchtune.types import NO_DOC, Collection, FloatArray64, IntArray, Qrels, Run

SHOWN_QUERIES = 10
SHOWN_DOCS = 5
SHOWN_WANTED = 3
SNIPPET = 240
"""Characters of a document's text that are shown."""
TITLE = 160


def pick_examples(
    collection: Collection,
    qrels: Qrels,
    *,
    runs: tuple[tuple[str, Run], tuple[str, Run]],
    gains: FloatArray64,
    slices: Sequence[SliceName],
) -> Examples:
    """The queries with the largest gains, then those with the largest losses; queries without a change are neither.

    `runs` are the reference and the candidate, each with its name. Shape: gains and slices (judged,).
    """
    (a, run_a), (b, run_b) = runs
    order = np.argsort(gains, kind="stable")

    def example(i: int) -> Example:
        query = int(qrels.queries[i])
        docs, grades = qrels.row(i)
        labels = dict(zip(docs.tolist(), grades.tolist(), strict=True))
        ranked_a, ranked_b = _ranking(run_a, query), _ranking(run_b, query)
        return Example(
            id=collection.query_ids[query],
            text=collection.query_texts[query],
            slice=slices[i],
            gain=float(gains[i]),
            wanted=_wanted(collection, labels, ranked_a, ranked_b),
            top_a=[_hit(collection, doc, labels.get(doc)) for doc in ranked_a[:SHOWN_DOCS].tolist()],
            top_b=[_hit(collection, doc, labels.get(doc)) for doc in ranked_b[:SHOWN_DOCS].tolist()],
        )

    best = [example(i) for i in order[::-1][:SHOWN_QUERIES] if gains[i] > SAME]
    worst = [example(i) for i in order[:SHOWN_QUERIES] if gains[i] < -SAME]
    return Examples(a=a, b=b, best=best, worst=worst)


def shorten(text: str, length: int) -> str:
    """`text` on one line, cut at a word's end to at most `length` characters, the ellipsis included."""
    line = " ".join(text[: 4 * length].split())
    if len(line) <= length:
        return line
    cut = line[: length - 1]
    whole_words = cut.rsplit(" ", 1)[0] if " " in cut[length // 2 :] else cut
    return whole_words.rstrip(" .,;:") + "…"


def _ranking(run: Run, query: int) -> IntArray:
    """The run's documents for one query, best first; none where the run lacks it."""
    docs = run.docs[run.queries == query].ravel()
    return np.asarray(docs[docs != NO_DOC])


def _hit(collection: Collection, doc: int, grade: int | None) -> Hit:
    return Hit(
        id=collection.doc_ids[doc],
        title=shorten(collection.titles[doc], TITLE),
        snippet=shorten(collection.texts[doc], SNIPPET),
        grade=grade,
        relevant=grade is not None and grade >= collection.min_grade,
    )


def _wanted(collection: Collection, labels: dict[int, int], ranked_a: IntArray, ranked_b: IntArray) -> list[Wanted]:
    """The relevant documents that moved most between the two rankings."""
    ranks_a, ranks_b = (
        {doc: rank for rank, doc in enumerate(ranked.tolist(), start=1)} for ranked in (ranked_a, ranked_b)
    )
    relevant = [doc for doc, grade in labels.items() if grade >= collection.min_grade]
    relevant.sort(key=lambda doc: -abs(1 / ranks_a.get(doc, np.inf) - 1 / ranks_b.get(doc, np.inf)))
    return [
        Wanted(
            id=collection.doc_ids[doc],
            title=shorten(collection.titles[doc] or collection.texts[doc], TITLE // 2),
            rank_a=ranks_a.get(doc),
            rank_b=ranks_b.get(doc),
        )
        for doc in relevant[:SHOWN_WANTED]
    ]
