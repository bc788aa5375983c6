"""Where figures come from: recipe, data, versions and hardware, as plain values for reports and cards."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchtune.models.precision import device_type, processor
from searchtune.specs.base import Spec
from searchtune.storage.fingerprint import sha256_json

if TYPE_CHECKING:
    from searchtune.training.fit import TrainLog

_PACKAGES = (
    "searchtune",
    "torch",
    "transformers",
    "sentence-transformers",
    "peft",
    "accelerate",
    "faiss-cpu",
    "faiss-gpu",
)


def versions() -> dict[str, str]:
    """Versions of Python and of the installed packages that figures depend on."""
    found = {"python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def hardware() -> dict[str, Any]:
    """Processor, cores, threads and accelerators; torch is asked only where it is in use, or there may be a GPU."""
    found: dict[str, Any] = {
        "machine": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": os.cpu_count(),
        "threads": _threads(),
        "gpus": [],
    }
    if "torch" in sys.modules or device_type() != "cpu":
        import torch

        found["threads"] = torch.get_num_threads()
        found["gpus"] = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    return found


def spec_sha256(spec: Spec) -> str:
    """Hash of a spec with all its defaults."""
    return sha256_json(spec.model_dump(mode="json"))


def dev_metrics(log: TrainLog) -> dict[str, float]:
    """What a card says of dev: figures of what was kept, and of the base where they were taken."""
    kept = {f"dev {name}": value for name, value in (log.best_dev or {}).items()}
    base = {f"base dev {name}": value for name, value in (log.base_dev or {}).items() if name in (log.best_dev or {})}
    return kept | base


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def command() -> str:
    """The command line that started this process, its program by name only."""
    return " ".join([Path(sys.argv[0]).name, *sys.argv[1:]])


def _threads() -> int | None:
    """Threads that OpenMP gives each library, torch too: as many as are asked for, or one a core."""
    asked = os.environ.get("OMP_NUM_THREADS", "")
    return int(asked) if asked.isdigit() and int(asked) else os.cpu_count()
