"""`searchtune adapter`: look at a saved adapter, verify that it reloads as trained, merge it into a plain model,
export it for other programs.
"""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.workflows.adapter import Merged

app = typer.Typer(no_args_is_help=True, help="Look at a saved adapter, verify it, merge it, export it.")

Folder = Annotated[Path, typer.Argument(help="The adapter folder that a `train` command wrote, or its run folder.")]
Base = Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


@app.command()
def show(folder: Folder) -> None:
    """Print the adapter's card."""
    from searchtune.workflows.adapter import card_summary

    typer.echo(json.dumps(card_summary(folder), indent=2))


@app.command()
def verify(folder: Folder, base: Base = None, as_json: Json = False) -> None:
    """Open the adapter with sentence-transformers and with peft and repeat the probe that was recorded at training."""
    from dataclasses import asdict

    from searchtune.workflows.adapter import verify_adapter

    found = verify_adapter(folder, base)
    if as_json:
        typer.echo(json.dumps(asdict(found), indent=2))
        return
    typer.echo(f"sentence-transformers: the probe differs by {found.sentence_transformers:.1e} at most")
    typer.echo(f"peft:                  the probe differs by {found.peft:.1e} at most")
    typer.echo(f"verified (tolerance {found.tolerance:.0e})")


@app.command()
def merge(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The folder for the merged model.")],
    base: Base = None,
) -> None:
    """Write base plus adapter as a plain model whose vectors or scores match."""
    from searchtune.workflows.adapter import merge_adapter

    _tell(out, merge_adapter(folder, out, base))


class ExportFormat(StrEnum):
    """What `export` writes."""

    hf = "hf"
    gguf = "gguf"


class GgufType(StrEnum):
    """How matrices are stored in a GGUF file."""

    f16 = "f16"
    q8_0 = "q8_0"


@app.command()
def export(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="The folder for what is written.")],
    form: Annotated[
        ExportFormat, typer.Option("--format", help="hf: a folder that transformers and vLLM open; gguf: one file.")
    ] = ExportFormat.hf,
    kind: Annotated[GgufType, typer.Option("--type", help="How a GGUF file stores matrices.")] = GgufType.f16,
    base: Base = None,
) -> None:
    """Write base plus adapter for other programs, and open it again in a fresh process to compare the probe."""
    from searchtune.workflows.adapter import export_gguf, merge_adapter

    done = merge_adapter(folder, out, base) if form == "hf" else export_gguf(folder, out, kind.value, base)
    _tell(out, done)


def _tell(out: Path, done: Merged) -> None:
    what = "the 16-bit base with the adapter" if done.four_bits else "the adapter"
    typer.echo(
        f"{out}: the probe differs from {what}'s by {done.difference:.1e} at most (allowed {done.tolerance:.0e})"
    )
    if done.four_bits:
        typer.echo(f"{out}: and from the 4-bit base with the adapter, as trained, by {done.from_trained:.1e}")
