"""Using an adapter: the side that was trained, files of texts, hits."""

import json

import numpy as np
import pytest
import torch

from searchtune.errors import DataError
from searchtune.models.artifact import load_artifact
from searchtune.models.encoder import load_encoder
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.workflows import encode
from searchtune.workflows.embed import train_embedding
from searchtune.workflows.search import encode_file, read_rows, read_texts, search_collection


@pytest.fixture(autouse=True)
def in_float32(monkeypatch):
    monkeypatch.setattr(encode, "dtype_name", lambda precision, device: "float32")


@pytest.fixture
def texts(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("harbour tide\n\nold court judge\n", encoding="utf-8")
    return file


def test_encoding_a_file(finished, texts, tmp_path):
    assert encode_file(finished.folder, texts, tmp_path / "out.npy") == (2, 32)
    encoder, card = load_artifact(finished.adapter, dtype=torch.float32, device=torch.device("cpu"))
    expected = encoder.encode(["harbour tide", "old court judge"], max_tokens=card.max_tokens)
    assert np.abs(np.load(tmp_path / "out.npy") - expected).max() < 1e-6


def test_a_query_only_adapter_leaves_documents_to_the_base(recipe, tiny_model, tiny_collection, texts, tmp_path):
    folder = train_embedding(recipe(side="query"), tmp_path / "run").folder
    encode_file(folder, texts, tmp_path / "documents.npy")
    encode_file(folder, texts, tmp_path / "queries.npy", queries=True)
    base = load_encoder(tiny_model, dtype=torch.float32, device=torch.device("cpu"))
    expected = base.encode(["harbour tide", "old court judge"], max_tokens=64)
    assert np.abs(np.load(tmp_path / "documents.npy") - expected).max() < 1e-6
    assert np.abs(np.load(tmp_path / "queries.npy") - expected).max() > 1e-3
    assert len(search_collection(folder, "harbour tide", str(tiny_collection), 3)) == 3


def test_searching(finished):
    task = str(finished.folder.parent / "tiny")
    hits = search_collection(finished.folder, "harbour tide sail", task, 5)
    assert len(hits) == 5
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert len(search_collection(finished.folder, "harbour", task, 1000)) == 40
    with pytest.raises(DataError, match="the query is empty"):
        search_collection(finished.folder, "  ", task, 5)


def test_reading_texts(tmp_path):
    file = tmp_path / "texts.jsonl"
    rows = [{"title": "A", "text": "b"}, {"text": "c"}]
    file.write_text("\ufeff" + "\n".join(map(json.dumps, rows)), encoding="utf-8")
    assert read_texts(file) == ["A b", "c"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"a\.jsonl:2: key 'text' is missing"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1"),
        ("a.jsonl", b"{\n", r"a\.jsonl:1"),
        ("a.txt", b"\xff\xfe", "not UTF-8: byte 0xff at position 0"),
        ("a.txt", b"\n \n", "no text in it"),
        ("a.json", b'{"text": "a"', r"a\.json:1: not JSON"),
        ("a.json", b'[{"text": "a"}, 3]', r"a\.json:2: entry 2 is a JSON int and no object"),
        ("a.jsonl", b'{"text": "\\ud800"}', r"a\.jsonl:1: not JSON .half a surrogate pair"),
    ],
)
def test_texts_that_cannot_be_read(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_texts(tmp_path / name)


def test_a_list_of_objects_is_read_and_blank_lines_are_counted(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps([{"title": "A", "text": "b"}, {"text": "c"}], indent=1))
    assert read_texts(tmp_path / "a.json") == ["A b", "c"]
    (tmp_path / "a.txt").write_text("one\n\n\ntwo\n")
    found = read_rows(tmp_path / "a.txt")
    assert [text for _, text in found.rows] == ["one", "two"]
    assert "blank line (left out) in 2 rows (lines 2, 3)" in found.warnings[0]


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(DataError, match="cannot be read.*No such file"):
        read_texts(tmp_path / "nothing.txt")


def test_searching_twice_encodes_documents_once(finished, tmp_path, monkeypatch):
    task, cache = str(finished.folder.parent / "tiny"), EmbeddingCache(tmp_path / "cache")
    first = search_collection(finished.folder, "harbour tide sail", task, 5, cache=cache)
    (one,) = cache.info()
    assert one.texts == 40
    monkeypatch.setattr(cache, "_keep", None)
    assert search_collection(finished.folder, "harbour tide sail", task, 5, cache=cache) == first
