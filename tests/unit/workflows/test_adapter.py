"""The adapter folder: other libraries open it, and a wrong base or a damaged file is noticed."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from searchtune.errors import ArtifactError
from searchtune.models.artifact import load_artifact, probe_store
from searchtune.models.cards import check_probe, read_card
from searchtune.models.encoder import load_encoder
from searchtune.storage.marker import MARKER_FILE, mark_complete
from searchtune.workflows.adapter import card_summary, merge_adapter, verify_adapter
from searchtune.workflows.embed import train_embedding

CPU = torch.device("cpu")
TEXTS = ["harbour tide sail", "old court judge appeal new", "dough"]


@pytest.fixture
def adapter(finished, tmp_path):
    """A copy of a trained adapter, to be broken."""
    return shutil.copytree(finished.adapter, tmp_path / "adapter")


@pytest.fixture
def other_base(tiny_model, tmp_path):
    """The same shape, other weights."""
    folder = shutil.copytree(tiny_model, tmp_path / "other")
    tensors = load_file(folder / "model.safetensors")
    name = next(name for name in sorted(tensors) if name.endswith("layer.0.output.dense.weight"))
    tensors[name] = tensors[name] + 1e-3
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def ours(folder):
    encoder, card = load_artifact(folder, dtype=torch.float32, device=CPU)
    return encoder.encode(TEXTS, max_tokens=card.max_tokens)


def test_it_verifies(finished):
    found = verify_adapter(finished.adapter)
    assert max(found.sentence_transformers, found.peft) <= found.tolerance == 1e-5


def test_sentence_transformers_opens_it(finished, tiny_model):
    from sentence_transformers import SentenceTransformer

    vectors = SentenceTransformer(str(finished.adapter), device="cpu", local_files_only=True).encode(TEXTS)
    assert np.abs(vectors - ours(finished.adapter)).max() < 1e-5
    base = SentenceTransformer(str(tiny_model), device="cpu", local_files_only=True).encode(TEXTS)
    assert np.abs(vectors - base).max() > 1e-2, "the adapter does something"


def test_peft_opens_it(finished, tiny_model):
    from peft import PeftModel

    encoder = load_encoder(tiny_model, dtype=torch.float32, device=CPU)
    encoder.backbone = PeftModel.from_pretrained(encoder.backbone, str(finished.adapter)).eval()
    assert np.abs(encoder.encode(TEXTS, max_tokens=64) - ours(finished.adapter)).max() < 1e-5


def test_merging(finished, tmp_path):
    from sentence_transformers import SentenceTransformer

    assert merge_adapter(finished.adapter, tmp_path / "merged").difference <= 1e-5
    names = {path.name for path in (tmp_path / "merged").iterdir()}
    assert "model.safetensors" in names
    assert not any("adapter" in name for name in names)
    vectors = SentenceTransformer(str(tmp_path / "merged"), device="cpu", local_files_only=True).encode(TEXTS)
    assert np.abs(vectors - ours(finished.adapter)).max() < 1e-5


def test_another_base_of_the_same_shape(adapter, other_base):
    for call in (
        verify_adapter,
        lambda folder, base: load_artifact(folder, dtype=torch.float32, device=CPU, base=base),
    ):
        with pytest.raises(ArtifactError, match="wrong base for adapter 'tiny-embed': the sha256 of its weights"):
            call(adapter, str(other_base))


def test_another_tokenizer(adapter, tiny_model, tmp_path):
    base = shutil.copytree(tiny_model, tmp_path / "base")
    file = base / "tokenizer.json"
    file.write_text(file.read_text(encoding="utf-8").replace('"harbour"', '"harbor"'), encoding="utf-8")
    with pytest.raises(ArtifactError, match="the sha256 of its tokenizer"):
        verify_adapter(adapter, str(base))


def test_the_base_may_have_moved(adapter, tiny_model, tmp_path):
    moved = shutil.copytree(tiny_model, tmp_path / "moved")
    encoder, _ = load_artifact(adapter, dtype=torch.float32, device=CPU, base=str(moved))
    assert np.abs(encoder.encode(TEXTS, max_tokens=64) - ours(adapter)).max() < 1e-6


def test_one_flipped_bit(adapter):
    file = adapter / "adapter_model.safetensors"
    data = bytearray(file.read_bytes())
    data[-5] ^= 1
    file.write_bytes(data)
    with pytest.raises(ArtifactError, match=r"adapter_model\.safetensors: its sha256 is not the one in"):
        verify_adapter(adapter)


def test_other_weights_under_a_fresh_marker(adapter):
    """Nothing is damaged, yet the vectors are not those of training: the probe tells."""
    file = adapter / "adapter_model.safetensors"
    save_file({name: tensor * 1.01 for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    mark_complete(adapter)
    with pytest.raises(ArtifactError, match="opened by peft: the probe differs by"):
        verify_adapter(adapter)


def test_a_probe_that_gives_nan(finished):
    with pytest.raises(ArtifactError, match="differs by nan"):
        check_probe("it", float("nan"), 1e-5)


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors", "probe_vectors.npy", MARKER_FILE])
def test_a_missing_file(adapter, name):
    (adapter / name).unlink()
    with pytest.raises(ArtifactError, match="missing"):
        verify_adapter(adapter)


def test_a_card_of_another_version(adapter):
    file = adapter / "adapter_card.json"
    card = json.loads(file.read_text())
    file.write_text(json.dumps(card | {"format": 2}))
    mark_complete(adapter)
    with pytest.raises(ArtifactError, match=r"adapter_card\.json: cannot be read"):
        read_card(adapter)


def test_folders_that_hold_no_adapter(finished, tmp_path):
    with pytest.raises(ArtifactError, match="no such folder"):
        read_card(tmp_path / "nothing")
    with pytest.raises(ArtifactError, match=r"did you mean .*adapter\?"):
        read_card(finished.folder)
    with pytest.raises(ArtifactError, match="is no searchtune adapter"):
        read_card(tmp_path)


def test_the_summary_leaves_probe_texts_out(finished):
    summary = card_summary(finished.adapter)
    assert "probe" not in summary
    assert summary["max_tokens"] == 64


def test_the_probe(finished):
    card = read_card(finished.adapter)
    encoder, _ = load_artifact(finished.adapter, dtype=torch.float32, device=CPU)
    store = probe_store(encoder.tokenizer, card)
    assert len(store.lengths) == len(card.probe.queries) + len(card.probe.documents) == 16
    assert np.load(finished.adapter / "probe_vectors.npy").shape == (16, 32)


def test_a_query_only_adapter(recipe, tmp_path):
    result = train_embedding(recipe(side="query"), tmp_path / "run")
    card = read_card(result.adapter)
    assert (card.side, card.probe.documents) == ("query", [])
    assert verify_adapter(result.adapter).sentence_transformers <= 1e-5
    assert "queries only" in (result.adapter / "README.md").read_text()
