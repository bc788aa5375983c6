"""`searchtune doctor`: its words, its JSON, its exit code."""

import json
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from searchtune.cli.doctor import doctor
from searchtune.workflows import doctor as story
from searchtune.workflows.doctor import Examination, Finding

GPU = {"name": "H1", "memory_gb": 80.0, "bf16": True}
MACHINE = {
    "system": "Linux x86_64",
    "cores": 2,
    "processor": "A 9000",
    "instructions": "AVX512",
    "threads": 2,
    "bf16_times_float32": 3.1,
    "auto_precision": "bfloat16",
    "forward_passes": {"BERT": {"float32": "packed", "bfloat16": "fast"}, "Llama": {"float32": "library"}},
    "cuda": "12.6",
    "gpus": [GPU],
}


@pytest.fixture
def call(monkeypatch):
    app = typer.Typer()
    app.command()(doctor)

    def run(*args, machine=MACHINE, findings=()):
        disk = {"working folder": {"folder": "/w", "free_bytes": 12_345_678_901, "writable": True}}
        seen = Examination({"python": "3.11.7", "torch": "2.13.0"}, machine, disk, list(findings))
        monkeypatch.setattr(story, "examine", lambda: seen)
        return CliRunner().invoke(app, args)

    return run


def test_a_sound_installation(call):
    done = call(findings=[Finding("note", "extra [fetch]: beir is missing")])
    assert done.exit_code == 0
    lines = [" ".join(line.split()) for line in done.stdout.splitlines()]
    assert "torch 2.13.0" in lines
    assert "bf16 on the CPU 3.1 times the speed of float32, measured; precision: auto takes bfloat16" in lines
    assert "BERT on the CPU fast pass, packed weights in float32, fast pass in bfloat16" in lines
    assert "Llama on the CPU the library's pass in float32" in lines
    assert "GPU H1, 80.0 GB, with bf16" in lines
    assert "working folder 12.3 GB free, /w" in lines
    assert lines[-2:] == ["note: extra [fetch]: beir is missing", "sound"]


def test_errors_exit_1(call):
    findings = [Finding("error", "faiss-cpu and faiss-gpu"), Finding("warning", "w")]
    for done in (call(findings=findings), call("--json", findings=findings)):
        assert done.exit_code == 1
        assert "faiss-cpu and faiss-gpu" in done.stdout
    assert call(findings=findings).stdout.endswith("warning: w\n1 to mend\n")


@pytest.mark.parametrize(("speed", "words"), [(0.019, "1/53 of"), (0.4, "1/2.5 of"), (1.0, "1 times")])
def test_what_bf16_costs(call, speed, words):
    slow = {**MACHINE, "bf16_times_float32": speed, "auto_precision": "float32"}
    lines = [" ".join(line.split()) for line in call(machine=slow).stdout.splitlines()]
    assert f"bf16 on the CPU {words} the speed of float32, measured; precision: auto takes float32" in lines


def test_json(call):
    found = json.loads(call("--json").stdout)
    assert found["sound"] is True
    assert found["machine"]["gpus"] == [GPU]
    assert found["findings"] == []


def test_without_torch_the_rest_is_still_shown(call):
    done = call(machine={"system": "Linux x86_64", "cores": 2}, findings=[Finding("error", "torch cannot be imported")])
    assert done.exit_code == 1
    assert "2 cores" in done.stdout


def test_the_checks_load_no_torch():
    code = "import sys, searchtune.cli.doctor, searchtune.cli.cache, searchtune.workflows.doctor; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
