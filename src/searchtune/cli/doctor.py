"""`searchtune doctor`: what is installed here, what does not go together, and the line that mends it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from searchtune.workflows.doctor import Examination

_PASSES = {"packed": "fast pass, packed weights", "fast": "fast pass", "library": "the library's pass"}


def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False) -> None:
    """Look at this installation and machine; exit code 1 where something is broken or unsafe."""
    from dataclasses import asdict

    from searchtune.workflows.doctor import examine

    seen = examine()
    if as_json:
        typer.echo(json.dumps({"sound": seen.sound, **asdict(seen)}, indent=2))
    else:
        _show(seen)
    if not seen.sound:
        raise typer.Exit(1)


def _show(seen: Examination) -> None:
    for name, version in seen.versions.items():
        typer.echo(f"{name:22} {version}")
    for name, words in _machine(seen.machine).items():
        typer.echo(f"{name:22} {words}")
    for name, place in seen.disk.items():
        typer.echo(f"{name:22} {place['free_bytes'] / 1e9:,.1f} GB free, {place['folder']}")
    for finding in seen.findings:
        typer.echo(f"{finding.level}: {finding.message}")
    errors = sum(finding.level == "error" for finding in seen.findings)
    typer.echo("sound" if seen.sound else f"{errors} to mend")


def _machine(machine: dict[str, Any]) -> dict[str, str]:
    words = {"machine": f"{machine['system']}, {machine['cores']} cores"}
    if "threads" not in machine:
        return words
    words["processor"] = f"{machine['processor']}, torch uses {machine['instructions']}"
    words["threads"] = str(machine["threads"])
    speed = machine["bf16_times_float32"]
    share = f"{speed:g} times" if speed >= 1 else f"1/{1 / speed:.1f} of" if speed > 0.1 else f"1/{1 / speed:.0f} of"
    words["bf16 on the CPU"] = (
        f"{share} the speed of float32, measured; precision: auto takes {machine['auto_precision']}"
    )
    for model, passes in machine["forward_passes"].items():
        words[f"{model} on the CPU"] = ", ".join(f"{_PASSES[how]} in {dtype}" for dtype, how in passes.items())
    gpus = [
        f"{gpu['name']}, {gpu['memory_gb']} GB, {'with' if gpu['bf16'] else 'without'} bf16" for gpu in machine["gpus"]
    ]
    words["CUDA"] = machine["cuda"] or "torch is built without it"
    words["GPU"] = "; ".join(gpus) or "none"
    return words
