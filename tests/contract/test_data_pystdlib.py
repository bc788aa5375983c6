"""The whole built-in collection, as this Python gives it."""

import sysconfig
from pathlib import Path

import pytest

from searchtune.data.leakage import find_leaks, positives, seen_mask
from searchtune.data.pystdlib import build_pystdlib


@pytest.mark.slow
def test_standard_library_gives_a_collection_of_the_expected_size():
    collection = build_pystdlib(Path(sysconfig.get_paths()["stdlib"]))
    assert 3500 < len(collection.doc_ids) < 6500
    shares = {split: len(labels) / len(collection.query_ids) for split, labels in collection.qrels.items()}
    assert shares == pytest.approx({"train": 0.6, "dev": 0.1, "test": 0.3}, abs=0.03)
    train = collection.split("train")
    for split in ("dev", "test"):
        assert find_leaks(collection, train, collection.split(split)).leaks == ()
        assert not seen_mask(positives(train), collection.split(split)).any()
    assert not any(doc_id.startswith(("test.", "idlelib.", "lib2to3.")) for doc_id in collection.doc_ids)
