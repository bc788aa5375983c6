"""Folders are looked at before a library opens them: pickled weights, code of their own, tolerances, broken parts."""

import json
import shutil

import numpy as np
import pytest

from searchtune.errors import ArtifactError, ModelError
from searchtune.models.cards import check_tolerance, train_positives
from searchtune.models.layout import read_modules
from searchtune.models.opening import check_adapter, check_code, check_weights, opening
from searchtune.models.sources import resolve_config, resolve_model


@pytest.fixture
def base(tiny_model, tmp_path):
    return shutil.copytree(tiny_model, tmp_path / "base")


def test_pickled_weights_are_refused_before_anything_opens_them(base):
    check_weights(base)
    (base / "training_args.bin").write_text("not opened by anybody")
    (base / "pytorch_model.bin").write_text("beside safetensors it is not opened")
    assert resolve_model(str(base)) == base.resolve()
    for file in base.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(ModelError, match=r"weights are pickled \(pytorch_model.bin\).*convert them to safetensors"):
        resolve_model(str(base))
    assert resolve_config(str(base)) == base.resolve()


@pytest.mark.parametrize("name", ["2_Dense/pytorch_model.bin", "1_Pooling/model.pt", "0_x/weights.ckpt"])
def test_so_are_those_of_a_module(base, name):
    (base / name).parent.mkdir(exist_ok=True)
    (base / name).write_text("a text")
    with pytest.raises(ModelError, match=name):
        resolve_model(str(base))


@pytest.mark.parametrize("part", ["pytorch_model-1.bin", "../other/model.safetensors", "/etc/x.safetensors", 3, None])
def test_a_list_of_parts_names_safetensors_beside_it(base, part):
    (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": part}}))
    with pytest.raises(ModelError, match="as a part of the weights"):
        resolve_model(str(base))


def test_code_of_a_models_own_is_refused(base):
    config = json.loads((base / "config.json").read_text())
    maps = {"AutoModel": "modeling_x.X"}
    (base / "config.json").write_text(json.dumps({**config, "auto_map": maps}))
    check_code(base)  # transformers has this architecture
    (base / "config.json").write_text(json.dumps({**config, "auto_map": maps, "model_type": "own-thing"}))
    with pytest.raises(ModelError, match="code of its own"):
        resolve_config(str(base))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ({"type": "os.path.Transformer", "path": ""}, "code of its own"),
        ({"type": "sentence_transformers.models.Transformer", "path": "../elsewhere"}, "leads out of the folder"),
        ({"type": 3, "path": ""}, "is no module"),
        ({"type": "sentence_transformers.models.Dense", "path": "2"}, "not supported"),
        (7, "is no module"),
    ],
)
def test_modules_are_of_the_library_and_inside(base, module, words):
    (base / "modules.json").write_text(json.dumps([module]))
    with pytest.raises(ModelError, match=words):
        read_modules(base)


def test_adapters_are_read_from_safetensors_alone(tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    with pytest.raises(ArtifactError, match="no adapter_model.safetensors"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_model.bin").write_text("a text")
    with pytest.raises(ArtifactError, match=r"weights are pickled \(adapter_model.bin\)"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_model.safetensors").write_text("")
    check_adapter(tmp_path)


def test_the_base_that_an_adapter_names_is_looked_at_too(base, tmp_path):
    (tmp_path / "adapter_model.safetensors").write_text("")
    for file in base.glob("*.safetensors"):
        file.rename(base / "pytorch_model.bin")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": str(base)}))
    with pytest.raises(ModelError, match="weights are pickled"):
        check_adapter(tmp_path)
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": 3}')
    with pytest.raises(ArtifactError, match="and no name"):
        check_adapter(tmp_path)


class PanicException(BaseException):
    """Named as the panic of a library in another language is."""


@pytest.mark.parametrize(
    "complaint", [OSError("a\nb"), KeyError("a"), Exception("a"), TypeError(), PanicException("a")]
)
def test_whatever_a_library_says_names_the_folder(tmp_path, complaint):
    with (
        pytest.raises(ModelError, match=rf"{tmp_path.name}: it cannot: .*; fetch it again"),
        opening(tmp_path, "it cannot"),
    ):
        raise complaint


@pytest.mark.parametrize("passed", [KeyboardInterrupt(), ArtifactError("ours")])
def test_what_is_no_complaint_passes(tmp_path, passed):
    with pytest.raises(type(passed)), opening(tmp_path, "it cannot"):
        raise passed


@pytest.mark.parametrize("tolerance", [1.0, 2e-4, 0.0, -1.0, np.inf])
def test_a_card_does_not_settle_its_own_tolerance(tmp_path, tolerance):
    check_tolerance(tmp_path, 1e-5, 1.0)
    check_tolerance(tmp_path, 1e-4 * 900, 900.0)
    with pytest.raises(ArtifactError, match="may differ by"):
        check_tolerance(tmp_path, tolerance, 1.0)


@pytest.mark.parametrize("found", [5, None, {"a": 1}, "ab", [1]])
def test_what_training_knew_is_a_list_of_ids(tmp_path, found):
    assert train_positives(tmp_path) is None
    (tmp_path / "train_positives.json").write_text(json.dumps(found))
    with pytest.raises(ArtifactError, match="no list of document ids"):
        train_positives(tmp_path)
