"""Public collections as they are: counts, leaks and shared documents that others have measured too.

They are looked for in `$SEARCHTUNE_DATA`, then in `../shared/data` beside the repository; absent ones are skipped.
"""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from searchtune.data.beir import read_beir
from searchtune.data.check import check_folder
from searchtune.data.leakage import find_leaks, positives, residual, seen_mask, shared_documents
from searchtune.data.tasks import load_task, open_collection

HOME = Path(os.environ.get("SEARCHTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")

COUNTS = {
    "scifact": (5183, {"train": 809, "test": 300}),
    "nfcorpus": (3395, {"train": 2563, "dev": 324, "test": 323}),
    "cranfield": (1400, {"train": 135, "dev": 22, "test": 68}),
    "cisi": (1460, {"train": 46, "dev": 7, "test": 23}),
    "cacm": (3204, {"train": 31, "dev": 5, "test": 16}),
    "stackfaq": (719, {"train": 749, "dev": 120, "test": 380}),
    "cosqa": (6267, {"dev": 500, "test": 500}),
    "conv-known-passages": (1129, {"train": 347, "dev": 67, "test": 180}),
    "trec-dl19": (20152, {"test": 43}),
    "trec-dl20": (20314, {"test": 54}),
}
SEEN = {
    "scifact": 196,
    "nfcorpus": 323,
    "cranfield": 58,
    "cisi": 23,
    "cacm": 14,
    "stackfaq": 0,
    "conv-known-passages": 3,
}
LEAKS = {"scifact": 3, "nfcorpus": 4, "cranfield": 0, "cisi": 0, "cacm": 0, "stackfaq": 0, "conv-known-passages": 0}


WARNINGS = {
    "scifact": {"leak": 3},
    "nfcorpus": {"duplicate-documents": 1, "leak": 9, "copied-answer": 3},
    "cranfield": {"empty-document": 1},
    "cisi": {"duplicate-documents": 1, "copied-answer": 1},
    "cacm": {"duplicate-documents": 1},
    "cosqa": {"duplicate-documents": 1},
    "trec-dl19": {"duplicate-documents": 1},
    "trec-dl20": {"duplicate-documents": 1},
}
"""How many warnings of each kind; leaks of dev count as well, those of train into test alone are in `LEAKS`."""


def folder(name: str) -> Path:
    path = HOME / "beir" / name
    if not path.is_dir():
        pytest.skip(f"no {name}: set SEARCHTUNE_DATA to a folder that holds beir/{name}")
    return path


@pytest.mark.parametrize("name", COUNTS)
def test_collection_is_read_whole_and_without_errors(name):
    documents, judged = COUNTS[name]
    result = check_folder(folder(name))
    assert result.problems == ()
    assert result.counts["documents"] == documents
    assert {split: result.counts[f"{split} judged"] for split in judged} == judged
    assert Counter(p.kind for p in result.warnings) == WARNINGS.get(name, {})


@pytest.mark.parametrize("name", SEEN)
def test_shared_relevant_documents(name):
    collection = read_beir(folder(name))
    train, test = collection.split("train"), collection.split("test")
    seen = seen_mask(positives(train), test)
    assert int(seen.sum()) == SEEN[name]
    left = residual(test, positives(train))
    assert not seen_mask(positives(train), left).any()
    assert set(test.queries[~seen].tolist()) <= set(left.queries.tolist())


@pytest.mark.parametrize("name", LEAKS)
def test_leaks_are_the_true_duplicates_only(name):
    collection = read_beir(folder(name))
    report = find_leaks(collection, collection.split("train"), collection.split("test"))
    assert len(report.leaks) == LEAKS[name]
    cleaned = report.without_leaks(collection.split("train"))
    assert len(cleaned) == len(collection.split("train")) - len(report.train_queries)
    assert find_leaks(collection, cleaned, collection.split("test")).leaks == ()


def test_scifact_dev_is_cut_without_leaks_or_shared_documents(monkeypatch):
    folder("scifact")
    monkeypatch.setenv("SEARCHTUNE_DATA", str(HOME))
    collection = open_collection(load_task("scifact"))
    train, dev = collection.split("train"), collection.split("dev")
    assert (len(train), len(dev)) == (728, 81)
    assert find_leaks(collection, train, dev, threshold=0.7).leaks == ()
    assert not np.intersect1d(train.docs, dev.docs).size


@pytest.mark.parametrize(("name", "shared"), [("scifact", 196), ("nfcorpus", 323), ("cranfield", 58), ("stackfaq", 0)])
def test_shared_documents_count_the_dev_that_is_cut_from_train(name, shared, monkeypatch):
    folder(name)
    official = read_beir(folder(name))
    assert shared_documents(official, official.split("train"), official.split("test")).queries == shared
    monkeypatch.setenv("SEARCHTUNE_DATA", str(HOME))
    if "dev" in official.qrels:
        return
    opened = open_collection(load_task(name))
    parts = [opened.split("train"), opened.split("dev")]
    seen = np.unique(np.concatenate([positives(part) for part in parts]))
    assert int(seen_mask(seen, opened.split("test")).sum()) == shared
