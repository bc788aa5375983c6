"""Where to compute and in which floating-point type: the type is measured on the machine, not assumed from its name.

torch is opened where it must be asked, which takes seconds: whoever reads vectors from the cache needs names alone.
"""

from __future__ import annotations

import os
import platform
import sys
import time
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from searchtune.storage.derived import recall, remember

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]
_WORTHWHILE = 1.2
"""bf16 is taken when its matrix product is at least this many times as fast as float32's."""
_CLEAR = 1.5
"""A speedup this many times above or below `_WORTHWHILE` is no chance of one moment: it is kept for later processes."""
_DEVICE_FILES = ("nvidia*", "kfd", "dxg")
"""What Linux has under /dev where there is a GPU that torch can use: NVIDIA's, AMD's, and either under WSL."""


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that forward and backward passes run in on `device`."""
    import torch

    return torch.bfloat16 if dtype_name(precision, device.type) == "bfloat16" else torch.float32


def dtype_name(precision: Precision, device_type: str) -> Literal["bfloat16", "float32"]:
    """`compute_dtype` by name."""
    pays = precision == "bf16" or (precision == "auto" and _bf16_pays(device_type))
    return "bfloat16" if pays else "float32"


@lru_cache(maxsize=4)
def _bf16_pays(device_type: str) -> bool:
    if device_type == "mps":
        return False
    if device_type == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    key = {"processor": processor(), "torch": version("torch"), "threads": os.environ.get("OMP_NUM_THREADS", "")}
    known = recall("bf16", key)
    if known is not None:
        return known == b"pays"
    speedup = bf16_speedup(device_type)
    if speedup >= _CLEAR * _WORTHWHILE or speedup <= _WORTHWHILE / _CLEAR:
        remember("bf16", key, b"pays" if speedup >= _WORTHWHILE else b"does not pay")
    return speedup >= _WORTHWHILE


@lru_cache(maxsize=4)
def bf16_speedup(device_type: str) -> float:
    """How many times as fast as float32's a bf16 matrix product is here, measured once in a few milliseconds.

    The best of eight products of (1024, 384) by (384, 1536), the shapes of a small encoder, taken in turns.
    """
    import torch

    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {
        dtype: (
            torch.ones(1024, 384, dtype=dtype, device=device_type),
            torch.ones(384, 1536, dtype=dtype, device=device_type),
        )
        for dtype in best
    }
    for _ in range(8):
        for dtype, (left, right) in pairs.items():
            start = time.perf_counter()
            left @ right
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]


def pick_device() -> torch.device:
    """The accelerator if torch sees one, else the CPU."""
    import torch

    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")


def device_type() -> str:
    """`pick_device` by name: `cuda`, `mps` or `cpu`. Where Linux has no file of a GPU, it is `cpu` without a look."""
    files = (file for pattern in _DEVICE_FILES for file in Path("/dev").glob(pattern))
    if sys.platform == "linux" and not any(files):
        return "cpu"
    return pick_device().type


def processor() -> str:
    """What the system calls its processor."""
    try:
        with Path("/proc/cpuinfo").open(encoding="utf-8") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or "unknown"
