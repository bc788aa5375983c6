"""`searchtune demo`: the whole story on the built-in collection."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def demo(
    out: Annotated[Path, typer.Option(help="Output folder.")] = Path("runs/demo"),
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
) -> None:
    """Adapt all-MiniLM-L6-v2 to finding Python functions, and report what it gained. No network is needed."""
    from searchtune.cli.progress import RichProgress
    from searchtune.cli.tables import report_text
    from searchtune.workflows.demo import run_demo

    with RichProgress() as progress:
        result = run_demo(out, policy="overwrite" if overwrite else "fail", progress=progress)
    if result is not None and result.report is not None:
        typer.echo(report_text(result.report))
        typer.echo(f"report   {result.folder / 'report.html'}")
        typer.echo(f"adapter  {result.adapter}")
