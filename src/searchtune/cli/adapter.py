"""`searchtune adapter`: look at a saved adapter, verify that it reloads as trained, merge it into a plain model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at a saved adapter, verify it, merge it.")

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
    """Write base plus adapter as a plain sentence-transformers model whose vectors or scores match."""
    from searchtune.workflows.adapter import merge_adapter

    difference = merge_adapter(folder, out, base)
    typer.echo(f"{out}: the probe differs from the adapter's by {difference:.1e} at most")
