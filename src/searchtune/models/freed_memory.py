"""Keeping freed memory on a CPU, where the C library would hand it back to the system after every operation.

glibc takes each block above 32 MiB straight from the system and gives it back when it is freed, so a tensor of that
size costs a page fault for each of its pages, every time anew: on tensors of attention scores that takes longer than
the arithmetic (malloc(3), mallopt(3): M_MMAP_MAX, M_TRIM_THRESHOLD). The process then keeps what it once needed until
it ends.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4
"""Numbers of the options in malloc.h of glibc."""
_NEVER = 2**31 - 1
_SETTINGS = ("MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


@cache
def keep_freed_memory() -> bool:
    """Tell glibc to keep what is freed; whether it was told. Nothing is done where the user has set malloc's options
    in the environment, or where the C library is another one.
    """
    if sys.platform != "linux" or any(name in os.environ for name in _SETTINGS):
        return False
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018  (musl has a mallopt that does nothing)
        kept = library.mallopt(ctypes.c_int(_MMAP_MAX), ctypes.c_int(0))
        return bool(kept and library.mallopt(ctypes.c_int(_TRIM_THRESHOLD), ctypes.c_int(_NEVER)))
    except (OSError, AttributeError):
        return False
