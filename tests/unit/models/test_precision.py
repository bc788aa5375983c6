"""Precision: remembered where it is clear, and known without torch where nothing has to be asked."""

import subprocess
import sys

import pytest
import torch

from searchtune.models import precision
from searchtune.models.precision import compute_dtype, device_type, dtype_name, pick_device


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
