"""Leaks are found with their pairs; shared documents are counted; the residual collection holds the rest."""

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.data.leakage import find_leaks, positives, residual, seen_mask, shared_documents
from searchtune.errors import LeakError

LONG = (
    "patients with a very long list of complaints about the food in the hospital canteen which they visited on monday"
)


@pytest.fixture
def c():
    documents = {f"d{i}": ("", f"document {i}") for i in range(1, 7)}
    queries = {
        "a1": "Obesity decreases life quality.",
        "a2": LONG,
        "a3": "statins lower cholesterol",
        "a4": "in both splits",
        "b1": "obesity decreases life-quality",
        "b2": LONG.replace("monday", "the following monday morning of that week"),
        "b3": "statins raise cholesterol",
        "b5": "nothing like the others",
    }
    train = [("a1", "d1", 1), ("a2", "d2", 2), ("a3", "d3", 0), ("a4", "d4", 1)]
    test = [
        *(("b1", "d1", 2), ("b1", "d5", 1), ("b2", "d2", 1), ("b3", "d3", 1), ("b3", "d1", 0)),
        *(("a4", "d6", 1), ("b5", "d4", 0), ("b5", "d5", -1)),
    ]
    return build_collection("leaky", documents, queries, {"train": train, "test": test})


def leaks(c, **options):
    report = find_leaks(c, c.split("train"), c.split("test"), **options)
    return [(c.query_ids[leak.train], c.query_ids[leak.test], leak.kind) for leak in report.leaks]


def test_leaks_are_found_by_id_text_and_nearness(c):
    assert leaks(c) == [("a4", "a4", "same id"), ("a1", "b1", "same text")]
    assert leaks(c, threshold=0.7)[2:] == [("a2", "b2", "near-duplicate")]
    assert ("a3", "b3", "near-duplicate") not in leaks(c, threshold=0.5)


def test_leaks_raise_with_every_pair(c):
    report = find_leaks(c, c.split("train"), c.split("test"), threshold=0.7)
    with pytest.raises(LeakError, match=r"3 test queries are also in train.*\n.*'a4' 'in both splits'") as caught:
        report.raise_if_any()
    assert len(caught.value.problems) == 3
    assert "'a1' 'Obesity decreases life quality.' / test 'b1'" in caught.value.problems[1]


def test_clean_splits_do_not_raise(c):
    report = find_leaks(c, c.split("train").select(np.array([False, True, True, False])), c.split("test"))
    assert report.leaks == ()
    assert len(report.train_queries) == len(report.test_queries) == 0
    report.raise_if_any()


def test_leaking_train_queries_can_be_taken_out(c):
    train, test = c.split("train"), c.split("test")
    cleaned = find_leaks(c, train, test).without_leaks(train)
    assert [c.query_ids[i] for i in cleaned.queries] == ["a2", "a3"]
    assert find_leaks(c, cleaned, test).leaks == ()


def test_seen_queries_have_a_relevant_document_that_train_has(c):
    test = c.split("test")
    seen = positives(c.split("train"))
    assert [c.doc_ids[i] for i in seen] == ["d1", "d2", "d4"]
    mask = seen_mask(seen, test)
    assert [c.query_ids[q] for q in test.queries] == ["a4", "b1", "b2", "b3", "b5"]
    assert mask.tolist() == [
        False,
        True,
        True,
        False,
        False,
    ]  # the seen documents of b3 and b5 are not relevant to them
    assert seen_mask(seen, test, min_grade=2).tolist() == [False, True, False, False, False]
    assert not seen_mask(np.array([], dtype=np.int64), test).any()


def test_residual_drops_seen_documents_and_queries_left_without_relevant_ones(c):
    test = c.split("test")
    left = residual(test, positives(c.split("train")))
    rows = {c.query_ids[q]: [c.doc_ids[d] for d in left.row(i)[0]] for i, q in enumerate(left.queries)}
    assert rows == {"a4": ["d6"], "b1": ["d5"], "b3": ["d3"]}
    everything = np.arange(len(c.doc_ids))
    assert len(residual(test, everything)) == 0


def test_residual_of_nothing_seen_keeps_labels_and_drops_the_hopeless(c):
    left = residual(c.split("test"), np.array([], dtype=np.int64))
    assert [c.query_ids[q] for q in left.queries] == ["a4", "b1", "b2", "b3"]
    assert left.grades.tolist().count(0) == 1


@pytest.fixture
def copied():
    """d1 of train stands in the test as d2, a near copy, and as d3, which train has too; d4 is shared by id."""
    text = " ".join(f"word{i}" for i in range(40))
    documents = {
        "d1": ("", text), "d2": ("", text.replace("word7 ", "changed ")), "d3": ("", text.upper()), "d4": ("", "shared"),
        "d5": ("", text + " low"), "d6": ("", "")}  # fmt: skip
    train = [("a1", "d1", 1), ("a1", "d4", 1), ("a2", "d3", 1), ("a2", "d6", 1)]
    test = [("b1", "d2", 1), ("b1", "d3", 1), ("b2", "d4", 1), ("b2", "d5", 0)]
    queries = {"a1": "first", "a2": "second", "b1": "third", "b2": "fourth"}
    return build_collection("copied", documents, queries, {"train": train, "test": test})


def test_copied_answers_leak_under_other_ids(copied):
    report = find_leaks(copied, copied.split("train"), copied.split("test"))
    assert report.leaks == ()
    pairs = [(copied.doc_ids[leak.train], copied.doc_ids[leak.test]) for leak in report.documents]
    assert pairs == [("d1", "d2"), ("d3", "d2")]  # d3 itself is shared by id, d5 is not relevant
    with pytest.raises(LeakError, match=r"^1 relevant test documents are, under another id, .*\n.*'d1' / test 'd2'"):
        report.raise_if_any()


def test_copied_answers_can_be_taken_out(copied):
    train, test = copied.split("train"), copied.split("test")
    cleaned = find_leaks(copied, train, test).without_leaks(train)
    assert [copied.doc_ids[i] for i in cleaned.docs] == ["d4", "d6"]
    find_leaks(copied, cleaned, test).raise_if_any()


def test_shared_documents_are_counted_not_raised(copied):
    shared = shared_documents(copied, copied.split("train"), copied.split("test"))
    assert (shared.queries, shared.judged, shared.documents) == (2, 2, 2)
    assert shared.describe() == "2 of 2 test queries share a relevant document with train (2 documents)"
