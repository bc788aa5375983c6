"""Precision: remembered where it is clear, and known without torch where nothing has to be asked."""

import subprocess
import sys
import warnings

import pytest
import torch

import support
from searchtune.models import precision
from searchtune.models.encoder import load_encoder
from searchtune.models.generator import load_causal_lm
from searchtune.models.passes import forward_passes
from searchtune.models.precision import PrecisionWarning, compute_dtype, device_type, dtype_name, pick_device
from searchtune.models.reranker import load_reranker

CPU = torch.device("cpu")
pytestmark = pytest.mark.processor


@pytest.fixture
def speedup(tmp_path, monkeypatch):
    """Say what the next measurement finds; returns how often there was one."""
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path))
    measured = []

    def found(value):
        precision._bf16_pays.cache_clear()
        monkeypatch.setattr(precision, "bf16_speedup", lambda device: measured.append(value) or value)
        return dtype_name("auto", "cpu"), len(measured)

    yield found
    precision._bf16_pays.cache_clear()


def test_a_clear_finding_is_measured_once(speedup, monkeypatch):
    assert speedup(3.0) == ("bfloat16", 1)
    assert speedup(0.2) == ("bfloat16", 1)
    monkeypatch.setenv("OMP_NUM_THREADS", "77")  # with other threads it is another question
    assert speedup(0.2) == ("float32", 2)
    assert speedup(3.0) == ("float32", 2)


def test_a_close_finding_is_measured_again(speedup):
    assert speedup(1.3) == ("bfloat16", 1)
    assert speedup(1.1) == ("float32", 2)


@pytest.fixture
def slow_bf16(tmp_path, monkeypatch):
    """bf16 at a fiftieth of float32's speed."""
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 0.02)
    precision._warn_of_bf16.cache_clear()
    yield
    precision._warn_of_bf16.cache_clear()


def warnings_of(act):
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        act()
    return [str(each.message) for each in seen if issubclass(each.category, PrecisionWarning)]


@pytest.mark.parametrize("load", [load_encoder, load_reranker, load_causal_lm])
def test_a_slow_bf16_is_told_once_with_its_factor(slow_bf16, tiny_model, tmp_path, load):
    folder = support.write_causal(tmp_path / "causal") if load is load_causal_lm else tiny_model
    assert not warnings_of(lambda: load(folder, dtype=torch.float32, device=CPU))
    (said,) = warnings_of(lambda: load(folder, dtype=torch.bfloat16, device=CPU))
    assert "50 times as long as float32's" in said and "precision: auto" in said
    assert not warnings_of(lambda: load(folder, dtype=torch.bfloat16, device=CPU))


def test_a_bf16_that_is_not_slow_is_not_told(slow_bf16, monkeypatch):
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: 0.9)
    assert not warnings_of(lambda: precision.warn_of_slow(torch.bfloat16, CPU))
    precision._warn_of_bf16.cache_clear()
    monkeypatch.setattr(precision, "bf16_speedup", lambda device: pytest.fail("another device was measured"))
    assert not warnings_of(lambda: precision.warn_of_slow(torch.bfloat16, torch.device("meta")))


def test_where_bf16_is_many_times_slower_few_rows_tell(monkeypatch):
    asked = []
    monkeypatch.setattr(precision, "_speedup", lambda device, rows, rounds: asked.append(rows) or 0.04)
    precision.bf16_speedup.cache_clear()
    assert (precision.bf16_speedup("cpu"), asked) == (0.04, [32])
    monkeypatch.setattr(precision, "_speedup", lambda device, rows, rounds: asked.append(rows) or rows / 512)
    precision.bf16_speedup.cache_clear()
    assert precision.bf16_speedup("cpu") == 32 / 512
    monkeypatch.setattr(precision, "_speedup", lambda device, rows, rounds: asked.append(rows) or 0.7)
    precision.bf16_speedup.cache_clear()
    assert (precision.bf16_speedup("cpu"), asked[2:]) == (0.7, [32, 1024])
    precision.bf16_speedup.cache_clear()


def test_the_passes_of_this_processor():
    found = forward_passes()
    assert found["BERT"]["float32"] in ("packed", "fast") and found["Llama"]["float32"] == "fast"
    assert (found["BERT"]["bfloat16"] == "packed") == precision.packs(torch.bfloat16)


def test_names_and_types_agree():
    for wanted, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        assert compute_dtype(wanted, torch.device("cpu")) == dtype
        assert str(dtype) == f"torch.{dtype_name(wanted, 'cpu')}"
    assert dtype_name("auto", "mps") == "float32"


def test_the_device_by_name_is_the_device():
    assert device_type() == pick_device().type


def test_a_known_precision_opens_no_torch(speedup):
    speedup(3.0)
    code = (
        "import sys; from searchtune.models.precision import dtype_name; "
        "print(dtype_name('auto', 'cpu'), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["bfloat16", "False"]
