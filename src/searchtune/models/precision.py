"""Which floating-point type to compute in: measured on the machine at hand, not assumed from its name."""

from __future__ import annotations

import time
from functools import lru_cache
from typing import Literal

import torch

Precision = Literal["auto", "bf16", "fp32"]
_WORTHWHILE = 1.2
"""bf16 is taken when its matrix product is at least this many times as fast as float32's."""


def compute_dtype(precision: Precision, device: torch.device) -> torch.dtype:
    """The type that forward and backward passes run in on `device`."""
    if precision == "bf16":
        return torch.bfloat16
    if precision == "fp32":
        return torch.float32
    return torch.bfloat16 if _bf16_pays(device.type) else torch.float32


@lru_cache(maxsize=4)
def _bf16_pays(device_type: str) -> bool:
    if device_type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device_type == "mps":
        return False
    return bf16_speedup(device_type) >= _WORTHWHILE


@lru_cache(maxsize=4)
def bf16_speedup(device_type: str) -> float:
    """How many times as fast as float32's a bf16 matrix product is here, measured once in a few milliseconds.

    The best of eight products of (1024, 384) by (384, 1536), the shapes of a small encoder, taken in turns.
    """
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
    if torch.cuda.is_available():
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("mps") if torch.backends.mps.is_available() else torch.device("cpu")
