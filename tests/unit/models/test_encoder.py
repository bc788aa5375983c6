"""The encoder against sentence-transformers, pooling by hand, chunks, and bases that cannot be used."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from searchtune.errors import ModelError
from searchtune.models.encoder import load_encoder, pool
from searchtune.models.inputs import TokenStore, length_sorted_chunks, tokenise
from searchtune.models.sources import resolve_model, tokenizer_sha256, weights_sha256

CPU = torch.device("cpu")


@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama_model"])
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_vectors_are_those_of_sentence_transformers(request, model, attention, texts):
    from sentence_transformers import SentenceTransformer

    folder = request.getfixturevalue(model)
    expected = SentenceTransformer(str(folder), device="cpu", local_files_only=True).encode(texts)
    encoder = load_encoder(folder, dtype=torch.float32, device=CPU, attention=attention)
    assert np.abs(encoder.encode(texts, max_tokens=128) - expected).max() < 1e-5


@pytest.mark.parametrize("tokens_per_chunk", [1, 40, 100_000])
def test_chunks_do_not_change_vectors(tiny_model, texts, tokens_per_chunk):
    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    store = tokenise(encoder.tokenizer, texts, 64)
    alone = np.concatenate([encoder.encode_store(store, np.array([i])) for i in range(12)])
    some = np.array([11, 3, 3, 0])
    assert np.abs(encoder.encode_store(store, some, tokens_per_chunk=tokens_per_chunk) - alone[some]).max() < 1e-5
    assert encoder.encode_store(store, np.zeros(0, np.int64)).shape == (0, 32)


def test_pooling():
    states = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert pool(states, mask, "mean").tolist() == [[1, 2], [8, 9]]
    assert pool(states, mask, "cls").tolist() == [[0, 1], [6, 7]]
    assert pool(states, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert pool(-states, mask, "max").tolist() == [[0, -1], [-6, -7]]


def test_prompts_and_limits(tiny_model):
    tokenizer = load_encoder(tiny_model, dtype=torch.float32, device=CPU).tokenizer
    store = tokenise(tokenizer, ["sail", "sail tide anchor wave"], 4, "old ")
    assert store.lengths.tolist() == [4, 4]  # [CLS] old sail [SEP]
    assert store.truncated >= 1
    joined = TokenStore.joined([store, tokenise(tokenizer, [], 4), tokenise(tokenizer, ["tide"], 4)])
    assert joined.lengths.tolist() == [4, 4, 3]


def test_a_text_that_just_fits_is_not_counted_as_cut(tiny_model):
    tokenizer = load_encoder(tiny_model, dtype=torch.float32, device=CPU).tokenizer
    assert tokenise(tokenizer, ["old sail"], 4).truncated == 0
    assert tokenise(tokenizer, ["old sail tide"], 4).truncated == 1


@pytest.mark.parametrize("limit", [1, 7, 64, 4096, 10**6])
def test_every_text_is_in_one_chunk_within_the_limit(limit):
    lengths = np.random.default_rng(0).integers(1, 60, size=300)
    chunks = list(length_sorted_chunks(lengths, limit))
    assert sorted(np.concatenate(chunks).tolist()) == list(range(300))
    assert all(len(chunk) == 1 or len(chunk) * lengths[chunk].max() <= limit for chunk in chunks)


def test_no_texts_no_chunks():
    assert list(length_sorted_chunks(np.zeros(0, np.int64), 10)) == []


def test_a_folder_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        resolve_model(str(tmp_path))


@pytest.mark.parametrize("base", ["/no/such/folder", "./nothing-here", "package:no_such_package/model"])
def test_a_base_that_is_not_there(base):
    with pytest.raises(ModelError, match=r"no such folder|is not installed"):
        resolve_model(base)


def test_a_path_out_of_a_package():
    with pytest.raises(ModelError, match="has no folder"):
        resolve_model("package:searchtune/../..")


def test_a_module_that_is_not_run(tiny_model, tmp_path):
    folder = shutil.copytree(tiny_model, tmp_path / "model")
    modules = json.loads((folder / "modules.json").read_text())
    modules.append({"idx": 3, "name": "3", "path": "3_Dense", "type": "sentence_transformers.models.Dense"})
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"module Dense is not supported.* a copy of the folder without modules\.json"):
        load_encoder(folder, dtype=torch.float32, device=CPU)
    (folder / "modules.json").unlink()
    assert load_encoder(folder, dtype=torch.float32, device=CPU).layout.pooling == "mean"


def test_hashes_tell_weights_and_tokenizers_apart(tiny_model, tiny_llama_model, tmp_path):
    copy = shutil.copytree(tiny_model, tmp_path / "copy")
    assert weights_sha256(copy) == weights_sha256(tiny_model) != weights_sha256(tiny_llama_model)
    before = tokenizer_sha256(copy)
    vocabulary = (copy / "tokenizer.json").read_text(encoding="utf-8").replace('"harbour"', '"harbor"')
    (copy / "tokenizer.json").write_text(vocabulary, encoding="utf-8")
    assert tokenizer_sha256(copy) != before == tokenizer_sha256(tiny_model)


def test_a_base_without_safetensors(tmp_path):
    with pytest.raises(ModelError, match=r"no \*\.safetensors weights"):
        weights_sha256(tmp_path)


@pytest.mark.parametrize("lost", ["encoder.layer.1.output.dense.weight", "embeddings.word_embeddings.weight"])
def test_a_base_that_lacks_weights_is_refused(tiny_model, tmp_path, lost):
    shutil.copytree(tiny_model, tmp_path / "base")
    weights = load_file(tmp_path / "base" / "model.safetensors")
    del weights[lost]
    save_file(weights, tmp_path / "base" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ModelError, match=f"weights are missing, {lost} and 0 more"):
        load_encoder(tmp_path / "base", dtype=torch.float32, device=CPU)


def test_a_base_of_other_shapes_than_its_config_says_is_refused(tiny_model, tmp_path):
    shutil.copytree(tiny_model, tmp_path / "base")
    config = json.loads((tmp_path / "base" / "config.json").read_text())
    (tmp_path / "base" / "config.json").write_text(json.dumps({**config, "intermediate_size": 48}))
    with pytest.raises(ModelError, match="other shapes than its config.json says"):
        load_encoder(tmp_path / "base", dtype=torch.float32, device=CPU)
