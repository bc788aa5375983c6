"""Where to compute and in which floating-point type: the type is measured on the machine, not assumed from its name.

torch is opened where it must be asked, which takes seconds: whoever reads vectors from the cache needs names alone.
"""

from __future__ import annotations

import os
import platform
import sys
import time
import warnings
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from searchtune.errors import SearchtuneWarning
from searchtune.storage.derived import recall, remember

if TYPE_CHECKING:
    import torch

Precision = Literal["auto", "bf16", "fp32"]
_WORTHWHILE = 1.2
"""bf16 is taken when its matrix product is at least this many times as fast as float32's."""
_CLEAR = 1.5
"""A speedup this many times above or below `_WORTHWHILE` is no chance of one moment: it is kept for later processes."""
_SLOW = 1 / 3
"""bf16 at or below this share of float32's speed is told to whoever asked for it."""
_PRETENCES = ("ONEDNN_MAX_CPU_ISA", "ATEN_CPU_CAPABILITY", "MKL_ENABLE_INSTRUCTIONS")
"""What keeps the libraries' kernels from instructions that the processor has."""
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


class PrecisionWarning(SearchtuneWarning):
    """The type that was asked for is slow on this machine."""


@lru_cache(maxsize=4)
def _bf16_pays(device_type: str) -> bool:
    if device_type == "mps":
        return False
    if device_type == "cuda":
        import torch

        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return _known_speedup(device_type) >= _WORTHWHILE


def _known_speedup(device_type: str) -> float:
    """`bf16_speedup`, from an earlier process where that one's finding was clear."""
    key = {"processor": processor(), "torch": version("torch"), "threads": os.environ.get("OMP_NUM_THREADS", "")}
    key |= {name: os.environ.get(name, "") for name in _PRETENCES}
    known = recall("bf16-speedup", key)
    if known is not None:
        return float(known)
    speedup = bf16_speedup(device_type)
    if speedup >= _CLEAR * _WORTHWHILE or speedup <= _WORTHWHILE / _CLEAR:
        remember("bf16-speedup", key, f"{speedup:.3g}".encode())
    return speedup


@lru_cache(maxsize=4)
def bf16_speedup(device_type: str) -> float:
    """How many times as fast as float32's a bf16 matrix product is here, measured once in a few milliseconds.

    The best of eight products of (1024, 384) by (384, 1536), the shapes of a small encoder, taken in turns; of two of
    32 rows where these already show that bf16 is many times slower, for then the large ones would take seconds.
    """
    few = _speedup(device_type, rows=32, rounds=2)
    return few if few <= _SLOW else _speedup(device_type, rows=1024, rounds=8)


def _speedup(device_type: str, *, rows: int, rounds: int) -> float:
    import torch

    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    pairs = {
        dtype: (
            torch.ones(rows, 384, dtype=dtype, device=device_type),
            torch.ones(384, 1536, dtype=dtype, device=device_type),
        )
        for dtype in best
    }
    for _ in range(rounds):
        for dtype, (left, right) in pairs.items():
            start = (
                time.thread_time()
            )  # of the processor: a busy machine interrupts a long product more than a short one
            left @ right
            best[dtype] = min(best[dtype], time.thread_time() - start)
    return best[torch.float32] / best[torch.bfloat16]


def warn_of_slow(dtype: torch.dtype, device: torch.device) -> None:
    """Say once a process that bf16 is asked for on a CPU where it takes many times as long as float32 would."""
    import torch

    if dtype == torch.bfloat16 and device.type == "cpu":
        _warn_of_bf16()


@lru_cache(maxsize=1)
def _warn_of_bf16() -> None:
    speedup = _known_speedup("cpu")
    if speedup <= _SLOW:
        message = (
            f"bf16 matrix products take {1 / speedup:.0f} times as long as float32's on this processor (measured); "
            "precision: auto takes the faster of the two"
        )
        warnings.warn(message, PrecisionWarning, stacklevel=3)


@lru_cache(maxsize=4)
def packs(dtype: torch.dtype) -> bool:
    """Whether weights of this type are put into the matrix kernels' own order: where that is possible, and pays.

    It pays where bf16 can be packed, with AVX512 or AVX-NE-CONVERT. On a plain AVX2 processor float32 could be packed
    too, but its products run at .9 of the speed of unpacked ones, and at .7 with gelu.
    """
    import torch

    return _can_pack(torch.bfloat16) and _can_pack(dtype)


def _can_pack(dtype: torch.dtype) -> bool:
    """Whether torch takes packed weights of this type here: tried on 16 by 16, since it only says so by an error."""
    import torch

    ops: Any = torch.ops.mkldnn
    backend: Any = torch.backends.mkldnn
    if not backend.is_available() or not hasattr(ops, "_linear_pointwise"):
        return False
    part = torch.ones(16, 16, dtype=dtype)
    try:
        ops._linear_pointwise(part, ops._reorder_linear_weight(part, 16), part[0], "gelu", [], "none")
    except RuntimeError:
        return False
    return True


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
