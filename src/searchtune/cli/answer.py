"""`searchtune answer`: train a writer of grounded answers, answer questions from passages, measure answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from searchtune.cli.answer_measure import measure
from searchtune.cli.answer_run import Json, run
from searchtune.cli.embed import LeakPolicy, default_folder, output_policy
from searchtune.cli.rows import OnProblem, RowPolicy

app = typer.Typer(
    no_args_is_help=True,
    help="Train a writer of answers that cite their passages, answer from passages, measure answers.",
)


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name under configs/answer/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set quantise=nf4.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/answer-RECIPE].")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    fail_if_exists: Annotated[
        bool, typer.Option("--fail-if-exists", help="Refuse a folder with a run (default).")
    ] = False,
    leaks: Annotated[LeakPolicy, typer.Option(help="Train questions that are also test questions.")] = LeakPolicy.fail,
    on_problem: OnProblem = RowPolicy.fail,
    as_json: Json = False,
) -> None:
    """Adapt a language model to answering from passages, with citations, and to abstaining, with LoRA or QLoRA."""
    from searchtune.workflows.recipes import load_answer_recipe

    policy = output_policy(resume, overwrite, fail_if_exists)
    settled = load_answer_recipe(recipe, overrides=overrides or [])
    folder = out or default_folder(f"answer-{Path(recipe).name}", None)

    from searchtune.cli.progress import RichProgress
    from searchtune.workflows.answer import train_answerer

    with RichProgress() as progress:
        result = train_answerer(settled, folder, policy=policy, leaks=leaks.value, progress=progress)
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
        return
    for name, value in (result.log.best_dev or {}).items():
        typer.echo(f"dev {name:<16} {value:.3f}")
    typer.echo(f"adapter  {result.adapter}")


app.command()(run)
app.command()(measure)
