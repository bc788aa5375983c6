"""`searchtune rewrite`: train a rewriter of queries, rewrite with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from searchtune.cli.embed import LeakPolicy, default_folder, output_policy
from searchtune.cli.rewrite_run import run
from searchtune.cli.rows import OnProblem, RowPolicy

if TYPE_CHECKING:
    from searchtune.specs.rewrite import RewriteRecipe
    from searchtune.storage.output import OutputPolicy

app = typer.Typer(no_args_is_help=True, help="Train a rewriter of queries, rewrite with it.")

Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name under configs/rewrite/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set quantise=nf4.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/rewrite-RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    fail_if_exists: Annotated[
        bool, typer.Option("--fail-if-exists", help="Refuse a folder with a run (default).")
    ] = False,
    leaks: Annotated[LeakPolicy, typer.Option(help="Training turns that are also test turns.")] = LeakPolicy.fail,
    on_problem: OnProblem = RowPolicy.fail,
    as_json: Json = False,
) -> None:
    """Adapt a language model to rewriting utterances into queries that stand alone, and search with what it writes."""
    from searchtune.workflows.recipes import load_rewrite_recipe

    policy = output_policy(resume, overwrite, fail_if_exists)
    settled = load_rewrite_recipe(recipe, overrides=overrides or [])
    folder = out or default_folder(f"rewrite-{Path(recipe).name}", None)

    from searchtune.cli.progress import RichProgress
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.rewrite import train_rewriter

    if settled.reward is not None:
        _train_rewarded(settled, folder, policy, leaks, as_json)
        return
    with RichProgress() as progress:
        result = train_rewriter(
            settled, folder, policy=policy, leaks=leaks.value, cache=EmbeddingCache(), progress=progress
        )
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
        return
    if result.report is not None:
        from searchtune.cli.tables import report_text

        typer.echo(report_text(result.report))
        typer.echo(f"report   {result.folder / 'report.html'}")
    typer.echo("dev      " + ", ".join(f"{name} {value:.4f}" for name, value in result.dev.items()))
    typer.echo(f"adapter  {result.adapter}")


def _train_rewarded(
    recipe: RewriteRecipe, folder: Path, policy: OutputPolicy, leaks: LeakPolicy, as_json: bool
) -> None:
    from searchtune.cli.progress import RichProgress
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.rewrite_rewarded import train_rewarded

    with RichProgress() as progress:
        result = train_rewarded(
            recipe, folder, policy=policy, leaks=leaks.value, cache=EmbeddingCache(), progress=progress
        )
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
        return
    typer.echo("\n".join(result.lines()))
    typer.echo(f"adapter  {result.adapter}")


app.command()(run)
