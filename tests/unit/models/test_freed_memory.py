"""Freed memory stays with the process, so that large tensors do not fault in their pages again and again."""

import os
import subprocess
import sys

import pytest

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="mallopt is glibc's")
FAULTS = """
import resource, sys
import torch
from searchtune.models.freed_memory import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "keep" else None
states = torch.ones(8, 12, 256, 32)
def attend():
    scores = (states @ states.transpose(-1, -2)) * 0.2  # 25 MB, then 50 MB
    return scores.double().softmax(-1).float() @ states
attend(), attend(), attend()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
attend(), attend(), attend()
print(kept, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(word, **environment):
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("MALLOC_", "GLIBC_"))}
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, word], env=clean | environment, capture_output=True, text=True, check=True
    )
    kept, faults = done.stdout.split()
    return kept, int(faults)


@LINUX
def test_large_tensors_fault_less():
    kept, faults = run("keep")
    if kept != "True":
        pytest.skip("the C library is not glibc")
    assert run("leave")[1] > 3 * max(faults, 1000)


@LINUX
def test_what_the_user_has_set_stays():
    assert run("keep", MALLOC_MMAP_MAX_="65536")[0] == "False"
