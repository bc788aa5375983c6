"""Dev is cut from train once and for all: same ids, same dev; what belongs together stays together."""

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.data.near import near_pairs
from searchtune.data.splits import cut_dev, hash_share, hash_splits


def collection(queries, labels, **splits):
    documents = {doc: ("", f"text of {doc}") for rows in (labels, *splits.values()) for _, doc, _ in rows}
    return build_collection("c", documents, queries, {"train": labels, **splits})


def names(c, split):
    return {c.query_ids[i] for i in c.qrels[split].queries.tolist()}


@pytest.fixture
def hundred():
    queries = {f"q{i:03d}": f"question number {i} about thing{i}" for i in range(100)}
    return collection(queries, [(q, f"d{q}", 1) for q in queries], test=[("q000", "dq000", 1)])


def test_dev_has_its_share_and_nothing_is_lost(hundred):
    cut = cut_dev(hundred, 0.1)
    assert len(cut.qrels["dev"]) == 10
    assert names(cut, "train") | names(cut, "dev") == names(hundred, "train")
    assert not names(cut, "train") & names(cut, "dev")
    assert cut.qrels["test"] is hundred.qrels["test"]
    assert cut.fingerprint != hundred.fingerprint


def test_dev_depends_on_ids_alone(hundred):
    again = cut_dev(hundred, 0.1)
    assert names(again, "dev") == names(cut_dev(hundred, 0.1), "dev")
    lowest = sorted(hundred.query_ids, key=hash_share)[:10]
    assert names(again, "dev") == set(lowest)


def test_near_duplicates_stay_on_one_side():
    queries = {
        f"q{i:03d}": f"alpha{i // 2} beta{i // 2} gamma{i // 2} delta{i // 2}" + "?" * (i % 2) for i in range(60)
    }
    cut = cut_dev(collection(queries, [(q, f"d{q}", 1) for q in queries]), 0.2)
    sides = [[cut.query_texts[i] for i in cut.qrels[split].queries.tolist()] for split in ("train", "dev")]
    assert near_pairs(*sides) == []
    assert len(sides[1]) == 12


def test_queries_with_a_common_document_stay_on_one_side():
    queries = {f"q{i:03d}": f"word{i}" for i in range(100)}
    cut = cut_dev(collection(queries, [(q, f"d{i // 4}", 1) for i, q in enumerate(queries)]), 0.1)
    train, dev = cut.qrels["train"], cut.qrels["dev"]
    assert not set(train.docs.tolist()) & set(dev.docs.tolist())
    assert len(dev) == 8


def test_dense_labels_do_not_prevent_a_dev_split():
    queries = {f"q{i:03d}": f"word{i}" for i in range(50)}
    labels = [(q, doc, 1) for q in queries for doc in ("common", f"d{q}")]
    assert len(cut_dev(collection(queries, labels), 0.1).qrels["dev"]) == 5


def test_documents_below_the_minimum_grade_tie_nothing_together():
    queries = {f"q{i:03d}": f"word{i}" for i in range(40)}
    labels = [(q, doc, grade) for i, q in enumerate(queries) for doc, grade in ((f"d{q}", 1), (f"x{i // 2}", 0))]
    assert names(cut_dev(collection(queries, labels), 0.1), "dev") == set(sorted(queries, key=hash_share)[:4])


@pytest.mark.parametrize("count", [1, 2])
def test_tiny_train_keeps_at_least_one_query(count):
    queries = {f"q{i}": f"word{i}" for i in range(count)}
    cut = cut_dev(collection(queries, [(q, "d" + q, 1) for q in queries]), 0.1)
    assert len(cut.qrels["train"]) == 1
    assert ("dev" in cut.qrels) == (count == 2)


def test_all_queries_alike_leave_train_whole():
    queries = {f"q{i}": "the very same words" for i in range(10)}
    assert "dev" not in cut_dev(collection(queries, [(q, "d" + q, 1) for q in queries]), 0.1).qrels


def test_hash_splits_put_whole_groups_by_shares():
    ids = [f"id{i}" for i in range(3000)]
    groups = [i - i % 3 for i in range(3000)]
    splits = np.array(hash_splits(ids, groups, [0.6, 0.1, 0.3]))
    assert np.all(splits.reshape(-1, 3) == splits.reshape(-1, 3)[:, :1])
    assert np.bincount(splits, minlength=3) / 3000 == pytest.approx([0.6, 0.1, 0.3], abs=0.05)


def test_hash_is_fixed_for_ever():
    assert hash_share("q1") == 0xFF33F1B12213 / 2**48
