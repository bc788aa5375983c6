"""Opening encoders by name, and encoding collections through the cache."""

import numpy as np
import pytest
import torch

from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ArtifactError, ConfigError, DataError, ModelError
from searchtune.models.artifact import load_artifact
from searchtune.models.encoder import load_encoder
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.workflows import encode
from searchtune.workflows.embed import train_embedding
from searchtune.workflows.encode import encode_collection, encode_texts, open_adapter, open_encoder

CPU = torch.device("cpu")
TEXTS = ["harbour tide", "old court judge", "harbour tide"]


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(encode, "dtype_name", lambda precision, device: "float32")


@pytest.fixture
def cache(tmp_path):
    return EmbeddingCache(tmp_path / "cache")


@pytest.fixture
def collection(tiny_collection):
    return open_collection(load_task(str(tiny_collection)))


def same(a, b):
    return np.abs(a - b).max() < 1e-6


def test_a_base_is_what_its_folder_says(tiny_model):
    encoder = open_encoder(str(tiny_model))
    plain = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    assert same(encoder.documents.encode(TEXTS), plain.encode(TEXTS, max_tokens=128))
    assert encoder.queries.identity == encoder.documents.identity
    assert encoder.queries.load() is encoder.documents.load()
    identity, layout = encoder.queries.identity, encoder.queries.load().layout
    assert (identity.pooling, identity.normalise, identity.max_tokens) == (layout.pooling, layout.normalise, 128)
    assert identity.dtype == str(encoder.queries.load().dtype).removeprefix("torch.")


def test_an_adapter_by_its_folder_or_its_run(finished):
    encoder = open_encoder(str(finished.folder))
    tuned, card = load_artifact(finished.adapter, dtype=torch.float32, device=CPU)
    assert same(encoder.documents.encode(TEXTS), tuned.encode(TEXTS, max_tokens=card.max_tokens))
    assert encoder.documents.identity == open_adapter(finished.adapter).documents.identity
    assert encoder.documents.identity.adapter_sha256 is not None
    assert encoder.documents.identity.base_sha256 == card.base_weights_sha256


def test_under_a_query_only_adapter_documents_share_the_base_s_vectors(recipe, tiny_model, tmp_path):
    folder = train_embedding(recipe(side="query"), tmp_path / "run").folder
    encoder, base = open_encoder(str(folder)), open_encoder(str(tiny_model), max_tokens=64)
    assert encoder.documents.key == base.documents.key
    assert encoder.documents.key.name == base.documents.key.name
    assert encoder.queries.identity.adapter_sha256 is not None
    assert same(encoder.documents.encode(TEXTS), base.documents.encode(TEXTS))
    assert not same(encoder.queries.encode(TEXTS), base.queries.encode(TEXTS))


@pytest.mark.parametrize("limit", [0, -1, 129])
def test_lengths_that_the_base_cannot_read(tiny_model, limit):
    with pytest.raises(ConfigError, match=f"max_tokens is {limit}, but .* reads 1 to 128"):
        open_encoder(str(tiny_model), max_tokens=limit)


def test_names_that_stand_for_nothing(finished, tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        open_encoder(str(tmp_path))
    with pytest.raises(ModelError, match="no such folder"):
        open_encoder("./nowhere")
    with pytest.raises(ArtifactError, match="no such folder"):
        open_adapter("nowhere")
    with pytest.raises(ConfigError, match="whose card settles revision, length"):
        open_encoder(str(finished.folder), max_tokens=64)


def test_nothing_is_loaded_where_all_is_cached(tiny_model, cache, monkeypatch):
    vectors, encoded = encode_texts(open_encoder(str(tiny_model)).documents, TEXTS, cache)
    assert encoded == 2
    monkeypatch.setattr(encode, "_plain", lambda *_, **__: pytest.fail("the model is loaded"))
    again, encoded = encode_texts(open_encoder(str(tiny_model)).documents, TEXTS, cache)
    assert encoded == 0
    assert np.array_equal(again, vectors)


def test_pieces_are_kept_one_by_one(tiny_model, cache, monkeypatch):
    monkeypatch.setattr(encode, "_AT_A_TIME", 2)
    encoder = open_encoder(str(tiny_model)).documents
    vectors, encoded = encode_texts(encoder, [*TEXTS, "dough", "salt"], cache)
    assert encoded == 4
    assert same(vectors, encoder.encode([*TEXTS, "dough", "salt"]))
    assert encode_texts(encoder, [], cache) == (pytest.approx(np.zeros((0, 32))), 0)


def test_a_collection(tiny_model, collection, cache):
    encoder = open_encoder(str(tiny_model))
    first = encode_collection(collection, encoder, cache, splits=["dev", "test"])
    assert (first.documents.shape, first.queries["dev"].shape, first.queries["test"].shape) == (
        (40, 32),
        (12, 32),
        (12, 32),
    )
    distinct = len(set(collection.documents)) + 24
    assert (first.encoded, first.cached) == (distinct, 0)
    asked = [collection.query_texts[int(query)] for query in collection.qrels["test"].queries]
    assert same(first.queries["test"], encoder.queries.encode(asked))
    second = encode_collection(collection, encoder, EmbeddingCache(cache.folder), splits=["test", "train"])
    assert (second.encoded, second.cached) == (36, distinct - 12)
    assert np.array_equal(second.documents, first.documents)
    assert np.array_equal(second.queries["test"], first.queries["test"])


def test_a_collection_without_cache_and_without_queries(tiny_model, collection):
    found = encode_collection(collection, open_encoder(str(tiny_model)), splits=[])
    assert (dict(found.queries), found.encoded, found.cached) == ({}, 40, 0)


def test_a_split_that_is_not_there(tiny_model, collection):
    with pytest.raises(DataError, match="has no split 'tset'; did you mean 'test'"):
        encode_collection(collection, open_encoder(str(tiny_model)), splits=["tset"])
