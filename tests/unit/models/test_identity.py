"""The identity of an encoder: equal where vectors are equal, another where anything that makes them is."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from searchtune.errors import ModelError
from searchtune.models.identity import ADAPTER_WEIGHTS, identify
from searchtune.models.layout import read_layout
from searchtune.models.sources import weights_sha256


@pytest.fixture
def model(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "model")


@pytest.fixture
def adapter(tmp_path):
    """The files that count, without being an adapter that loads."""
    folder = tmp_path / "adapter"
    folder.mkdir()
    (folder / ADAPTER_WEIGHTS).write_bytes(b"weights")
    write(folder / "adapter_config.json", {"r": 4, "lora_alpha": 8, "base_model_name_or_path": "/a", "revision": None})
    return folder


def write(file, value):
    file.write_text(json.dumps(value), encoding="utf-8")


def change(file, **entries):
    write(file, {**json.loads(file.read_text(encoding="utf-8")), **entries})


def identity(model, **changes):
    arguments = {"adapter": None, "prompt": "", "max_tokens": 64, "dtype": torch.float32, **changes}
    layout = arguments.pop("layout", None) or read_layout(model)
    return identify(model, layout, **arguments)


def test_the_place_does_not_matter(model, tiny_model):
    change(model / "config.json", _name_or_path="elsewhere", transformers_version="9", dtype="bfloat16")
    assert identity(model) == identity(tiny_model)
    assert identity(model).base_sha256 == weights_sha256(tiny_model)


def test_fields_are_plain_values(model):
    fields = identity(model, dtype=torch.bfloat16).fields()
    assert json.loads(json.dumps(fields)) == fields
    assert (fields["dtype"], fields["adapter_sha256"], fields["pooling"]) == ("bfloat16", None, "mean")


@pytest.mark.parametrize("changes", [{"prompt": "query: "}, {"max_tokens": 65}, {"dtype": torch.bfloat16}])
def test_what_is_asked_for_matters(model, changes):
    assert identity(model, **changes) != identity(model)


@pytest.mark.parametrize("changes", [{"pooling": "cls"}, {"normalise": False}])
def test_the_layout_matters(model, changes):
    assert identity(model, layout=replace(read_layout(model), **changes)) != identity(model)


@pytest.mark.parametrize("name", ["tokenizer.json", "config.json"])
def test_the_files_of_the_base_matter(model, name):
    before = identity(model)
    if name == "config.json":
        change(model / name, hidden_act="relu")
    else:
        (model / name).write_text((model / name).read_text(encoding="utf-8").replace('"sail"', '"sale"'))
    after = identity(model)
    assert after != before
    assert after.base_sha256 == before.base_sha256


def test_an_adapter_matters_and_where_its_base_lay_does_not(model, adapter):
    first = identity(model, adapter=adapter)
    assert first != identity(model)
    change(adapter / "adapter_config.json", base_model_name_or_path="/b", revision="main")
    assert identity(model, adapter=adapter) == first
    change(adapter / "adapter_config.json", lora_alpha=16)
    second = identity(model, adapter=adapter)
    (adapter / ADAPTER_WEIGHTS).write_bytes(b"other")
    assert len({first, second, identity(model, adapter=adapter)}) == 3


@pytest.mark.parametrize("content", ["{", "[]", "\xff"])
def test_a_configuration_that_cannot_be_read(model, content):
    layout = read_layout(model)
    (model / "config.json").write_text(content, encoding="latin-1")
    with pytest.raises(ModelError, match=r"config\.json: (cannot be read as JSON|not an object|not UTF-8)"):
        identity(model, layout=layout)


def test_an_adapter_without_weights(model, adapter):
    (adapter / ADAPTER_WEIGHTS).unlink()
    with pytest.raises(ModelError, match=r"adapter_model\.safetensors: missing"):
        identity(model, adapter=adapter)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int64", "uint8", "bool"])
def test_weights_are_hashed_as_torch_reads_them(tmp_path, dtype):
    """The file is read without torch; cards hold hashes that were made with it."""
    from safetensors import safe_open
    from safetensors.torch import save_file

    from searchtune.storage.fingerprint import Fingerprint

    tensors = {"b.weight": torch.arange(6).reshape(2, 3).to(getattr(torch, dtype)), "a": torch.ones(())}
    save_file({**tensors, "c": torch.zeros(0, 4)}, tmp_path / "model.safetensors", metadata={"format": "pt"})
    digest = Fingerprint()
    with safe_open(tmp_path / "model.safetensors", framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name).contiguous()
            digest.add(name, str(tensor.dtype), str(tuple(tensor.shape)))
            digest.add_array(tensor.reshape(-1).view(torch.uint8).numpy())
    assert weights_sha256(tmp_path) == digest.hexdigest()


@pytest.mark.parametrize("content", [b"", b"short", b"\xff" * 64, (9).to_bytes(8, "little") + b'{"a":1}  ', None])
def test_broken_weights_are_named(tmp_path, content):
    from safetensors.torch import save_file

    file = tmp_path / "model.safetensors"
    save_file({"a": torch.ones(100)}, file)
    file.write_bytes(file.read_bytes()[:-4] if content is None else content)
    with pytest.raises(ModelError, match="model.safetensors: cannot be read as safetensors"):
        weights_sha256(tmp_path)


def test_a_dtype_by_name_is_the_same_identity(model):
    assert identity(model, dtype="float32") == identity(model, dtype=torch.float32)
