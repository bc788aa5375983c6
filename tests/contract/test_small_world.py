"""The fixtures that other tests build on: a sound collection without leaks, and models that sentence-transformers opens."""

import numpy as np
import pytest
from sentence_transformers import SentenceTransformer

from searchtune.data.beir import read_beir
from searchtune.data.leakage import find_leaks, positives, seen_mask


def test_the_collection(tiny_collection):
    collection = read_beir(tiny_collection)
    assert (len(collection.doc_ids), len(collection.query_ids)) == (40, 60)
    assert {name: len(labels) for name, labels in collection.qrels.items()} == {"train": 36, "dev": 12, "test": 12}
    assert set(collection.qrels["train"].grades) == {1, 2}


def test_train_and_test_share_documents_but_no_queries(tiny_collection):
    collection = read_beir(tiny_collection)
    train, test = collection.split("train"), collection.split("test")
    assert not find_leaks(collection, train, test).leaks
    seen = seen_mask(positives(train), test)
    assert (seen.sum(), (~seen).sum()) == (6, 6)


@pytest.mark.parametrize("name", ["tiny_model", "tiny_llama_model"])
def test_the_models_open_and_tell_texts_apart(request, name):
    model = SentenceTransformer(str(request.getfixturevalue(name)), device="cpu", local_files_only=True)
    vectors = model.encode(["tide harbour sail", "court judge appeal"])
    assert vectors.shape == (2, 32)
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    assert vectors[0] @ vectors[1] < 0.99
    assert model.max_seq_length == 128
