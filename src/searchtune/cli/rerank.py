"""`searchtune rerank`: train a reranker's adapter, score pairs with it, rerank a run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from searchtune.cli.embed import LeakPolicy, default_folder, output_policy
from searchtune.cli.rows import OnProblem, RowPolicy

app = typer.Typer(no_args_is_help=True, help="Train a reranker's adapter, score pairs with it, rerank a run.")

Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name under configs/rerank/.")],
    task: Annotated[
        str | None, typer.Option(help="A task name, task file or BEIR folder instead of the recipe's.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set depth=100.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Output folder [default: runs/rerank-RECIPE, or runs/rerank-RECIPE-TASK].")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with an interrupted run.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier run.")] = False,
    fail_if_exists: Annotated[
        bool, typer.Option("--fail-if-exists", help="Refuse a folder with a run (default).")
    ] = False,
    leaks: Annotated[
        LeakPolicy, typer.Option(help="Train queries that are also test or dev queries.")
    ] = LeakPolicy.fail,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check everything, say what would be done, train nothing.")
    ] = False,
    on_problem: OnProblem = RowPolicy.fail,
    as_json: Json = False,
) -> None:
    """Adapt a reranker with LoRA behind a retriever and report what it gains."""
    from searchtune.workflows.recipes import load_rerank_recipe

    policy = output_policy(resume, overwrite, fail_if_exists)
    settled = load_rerank_recipe(recipe, task=task, overrides=overrides or [])
    folder = out or default_folder(f"rerank-{Path(recipe).name}", task)

    from searchtune.cli.progress import RichProgress
    from searchtune.cli.tables import report_text
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.plan import plan_reranker
    from searchtune.workflows.rerank import train_reranker

    with RichProgress() as progress:
        if dry_run:
            _show_plan(plan_reranker(settled, leaks.value, progress), folder, as_json)
            return
        result = train_reranker(
            settled, folder, policy=policy, leaks=leaks.value, cache=EmbeddingCache(), progress=progress
        )
    if result is None:
        return
    if as_json:
        typer.echo(json.dumps(result.summary(), indent=2))
        return
    if result.report is not None:
        typer.echo(report_text(result.report))
        typer.echo(f"report   {result.folder / 'report.html'}")
    typer.echo(f"adapter  {result.adapter}")


@app.command()
def score(
    reranker: Annotated[
        str, typer.Argument(help="An adapter folder that `rerank train` wrote, its run folder, or a cross-encoder.")
    ],
    pairs: Annotated[
        str,
        typer.Argument(
            help="JSONL with `query` and `document` (or `title`, `text`), - for stdin; or a TREC run with --task."
        ),
    ],
    out: Annotated[Path | None, typer.Option(help="The file to write; JSONL goes to stdout without it.")] = None,
    task: Annotated[str | None, typer.Option(help="The collection of a TREC run: task name, file or folder.")] = None,
    depth: Annotated[int | None, typer.Option(min=1, help="How many documents of each query are reranked.")] = None,
    blend: Annotated[
        bool, typer.Option("--blend/--no-blend", help="Weigh the run's own scores in, as fitted on dev.")
    ] = True,
    early_exit: Annotated[
        bool, typer.Option("--early-exit", help="Stop going down a ranking where the rule fitted on dev says so.")
    ] = False,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")] = None,
) -> None:
    """Score pairs, or rerank a TREC run."""
    from searchtune.cli.progress import RichProgress
    from searchtune.storage.output import output_file
    from searchtune.workflows.open_reranker import open_reranker
    from searchtune.workflows.rerank_score import score_pairs, score_run, write_pairs

    out = None if out is None else output_file(out)
    opened = open_reranker(reranker, base=base)
    if task is not None:
        from searchtune.retrieval.cache import EmbeddingCache

        if out is None:
            raise typer.BadParameter("a reranked run goes to a file: give --out")
        done = score_run(
            opened,
            pairs,
            task,
            out,
            depth=depth,
            blend=blend,
            early_exit=early_exit,
            cache=EmbeddingCache(),
        )
        for warning in done.warnings:
            typer.echo(f"warning: {warning}", err=True)
        cost = "" if done.milliseconds_per_query is None else f", {done.milliseconds_per_query:.1f} ms a query"
        typer.echo(f"{done.queries:,} queries, {done.pairs:,} pairs ({done.by_model:,} by the model{cost}) -> {out}")
        return
    with RichProgress() as progress:
        rows = list(score_pairs(opened, pairs, progress=progress))
    if out is not None:
        typer.echo(f"{write_pairs(rows, out):,} pairs -> {out}")
        return
    for row in rows:
        typer.echo(json.dumps(row, ensure_ascii=False))


def _show_plan(plan: dict[str, Any], folder: Path, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(plan, indent=2))
        return
    recipe = plan["recipe"]
    splits = ", ".join(f"{split} {count:,}" for split, count in plan["judged_queries"].items())
    share = plan["trainable_parameters"] / plan["all_parameters"]
    typer.echo(f"task       {recipe['task']}: {plan['documents']:,} documents; judged queries: {splits}")
    typer.echo(f"base       {recipe['base']}, {plan['precision']}, {plan['head']}{', new' * plan['fresh_head']}")
    typer.echo(f"trainable  {plan['trainable_parameters']:,} of {plan['all_parameters']:,} parameters ({share:.1%})")
    typer.echo(f"training   {plan['pairs_per_epoch']:,} groups an epoch, {plan['steps']:,} steps in all")
    typer.echo(f"reranked   the first {recipe['depth']} documents of each ranking: {plan['test_pairs']:,} test pairs")
    typer.echo(f"output     {folder}; nothing was trained or written")
