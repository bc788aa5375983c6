"""Labels and runs that were made apart, on one universe of ids or on a collection's."""

from __future__ import annotations

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.data.named import NamedQrels, NamedRun, align, align_to_collection
from searchtune.errors import DataError
from searchtune.metrics import score
from searchtune.types import NO_DOC

QRELS = NamedQrels.from_dicts({"q1": {"d1": 1, "d5": 0}, "q3": {"d2": 2}, "q4": {"d9": 1}})
FIRST = NamedRun.from_dicts("first", {"q1": {"d1": 1.0, "x": 1.0, "d5": 0.5}, "q3": {"d2": 0.1}})
SECOND = NamedRun.from_dicts("second", {"q0": {"d1": 1.0}, "q3": {"a": 3.0, "d2": 2.0}, "q4": {"d9": 1.0}})
COLLECTION = build_collection(
    "small",
    {f"d{i}": ("", "text") for i in range(10)},
    {f"q{i}": "text" for i in range(5)},
    {"test": [("q1", "d1", 1), ("q1", "d5", 0), ("q3", "d2", 2), ("q4", "d9", 1)]},
)


def ranked(ids, run, query):
    row = run.docs[run.queries.tolist().index(query)]
    return [ids[d] for d in row if d != NO_DOC]


def test_align_puts_all_on_the_union_of_ids() -> None:
    aligned = align(QRELS, {"first": FIRST, "second": SECOND})
    assert list(aligned.doc_ids) == ["a", "d1", "d2", "d5", "d9", "x"]
    assert list(aligned.query_ids) == ["q0", "q1", "q3", "q4"]
    assert aligned.ignored_queries == {"first": 0, "second": 1}
    assert aligned.missing_queries == {"first": 1, "second": 1}
    assert ranked(aligned.doc_ids, aligned.runs["first"], 1) == ["x", "d1", "d5"]  # tied: the greater id first
    values = {name: score(run, aligned.qrels, ["mrr"])["mrr"].tolist() for name, run in aligned.runs.items()}
    assert values == {"first": [0.5, 1.0, 0.0], "second": [0.0, 0.5, 1.0]}


def test_moved_runs_are_as_if_ranked_anew() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        table = {
            f"q{q}": {
                f"d{d}": float(rng.integers(3)) for d in rng.choice(30, rng.integers(1, 9), replace=False).tolist()
            }
            for q in rng.choice(9, 4, replace=False).tolist()
        }
        labels = NamedQrels.from_dicts({query: {"zz": 1, "a": 1} for query in table})
        run = align(labels, {"r": NamedRun.from_dicts("r", table)})
        for i, query in enumerate(sorted(table)):
            expected = sorted(table[query], key=lambda doc, row=table[query]: (row[doc], doc), reverse=True)
            assert [run.doc_ids[d] for d in run.runs["r"].docs[i] if d != NO_DOC] == expected


def test_runs_that_share_nothing_with_the_labels_score_zero() -> None:
    other = NamedRun.from_dicts("other", {"elsewhere": {"d1": 1.0}})
    aligned = align(QRELS, {"other": other, "none": NamedRun.from_dicts("none", {})})
    assert aligned.ignored_queries == {"other": 1, "none": 0}
    for run in aligned.runs.values():
        assert score(run, aligned.qrels, ["ndcg@10"])["ndcg@10"].tolist() == [0.0, 0.0, 0.0]


def test_align_to_a_collection_gives_its_positions() -> None:
    run = NamedRun.from_dicts("r", {"q3": {"d9": 1.0, "d2": 1.0}})
    aligned = align_to_collection(COLLECTION, NamedQrels.of(COLLECTION, "test"), {"r": run})
    assert aligned.doc_ids is COLLECTION.doc_ids
    assert np.array_equal(aligned.qrels.docs, COLLECTION.split("test").docs)
    assert aligned.runs["r"].queries.tolist() == [3]
    assert aligned.runs["r"].docs.tolist() == [[9, 2]]


def test_unknown_ids_fail_by_default_and_are_named() -> None:
    labels = NamedQrels.of(COLLECTION, "test")
    with pytest.raises(DataError, match="run 'first': 1 documents that the collection lacks, such as 'x'; check that"):
        align_to_collection(COLLECTION, labels, {"first": FIRST})
    stray = NamedRun.from_dicts("r", {"q9": {"d1": 1.0}, "q1": {"e": 1.0}})
    with pytest.raises(DataError, match="1 queries that the collection lacks, such as 'q9' and 1 documents .* 'e'"):
        align_to_collection(COLLECTION, labels, {"r": stray})
    with pytest.raises(DataError, match="the labels: 1 queries .* 'q7'"):
        align_to_collection(COLLECTION, NamedQrels.from_dicts({"q7": {"d1": 1}}), {})


def test_unknown_ids_can_be_skipped_and_are_counted() -> None:
    labels = NamedQrels.from_dicts({"q1": {"d1": 1, "nowhere": 1}, "q7": {"d1": 1}})
    stray = NamedRun.from_dicts("r", {"q9": {"d1": 1.0, "d2": 0.5}, "q1": {"e": 2.0, "d1": 1.0}, "q2": {"e": 1.0}})
    aligned = align_to_collection(COLLECTION, labels, {"r": stray}, on_unknown="skip")
    assert len(aligned.qrels.docs) == 1
    assert aligned.skipped == {"r": 4}
    assert score(aligned.runs["r"], aligned.qrels, ["mrr"])["mrr"].tolist() == [1.0]


def test_ids_that_no_row_uses_need_not_be_known() -> None:
    whole = NamedRun(
        "r", [*COLLECTION.query_ids, "zz"], [*COLLECTION.doc_ids, "zz"], FIRST.run.select(np.zeros(2, bool))
    )
    aligned = align_to_collection(COLLECTION, NamedQrels.of(COLLECTION, "test"), {"r": whole})
    assert aligned.missing_queries == {"r": 3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1e40])
def test_scores_from_dicts_must_be_finite(bad: float) -> None:
    with pytest.raises(DataError, match="run 'r': document 'e' of query 'q' has score"):
        NamedRun.from_dicts("r", {"q": {"d": 1.0, "e": bad}})
