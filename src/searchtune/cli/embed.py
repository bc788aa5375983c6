"""`searchtune embed`: train an embedding adapter, encode with it, search with it."""

from __future__ import annotations

import json
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from searchtune.cli.rows import OnProblem, RowPolicy

if TYPE_CHECKING:
    from searchtune.storage.output import OutputPolicy

app = typer.Typer(no_args_is_help=True, help="Train an embedding adapter, encode with it, search with it.")

Adapter = Annotated[Path, typer.Argument(help="The adapter folder that `embed train` wrote, or its run folder.")]
Dimensions = Annotated[
    int | None,
    typer.Option(min=1, help="Keep so many components of a vector: a size that the adapter was trained for."),
]
Json = Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")]


class LeakPolicy(StrEnum):
    """What to do about train queries that are also test queries."""

    fail = "fail"
    drop = "drop"
    allow = "allow"


@app.command()
def train(
    recipe: Annotated[str, typer.Argument(help="A recipe file, or a name under configs/ such as minilm-pystdlib.")],
    task: Annotated[
        str | None, typer.Option(help="A task name, task file or BEIR folder instead of the recipe's.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set optim.lr=1e-4.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder [default: runs/RECIPE, or runs/RECIPE-TASK].")] = None,
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
    """Adapt an embedding model with contrastive LoRA and report what it gained."""
    from searchtune.workflows.recipes import load_recipe

    policy = output_policy(resume, overwrite, fail_if_exists)
    settled = load_recipe(recipe, task=task, overrides=overrides or [])
    folder = out or default_folder(recipe, task)

    from searchtune.cli.progress import RichProgress
    from searchtune.cli.tables import report_text
    from searchtune.workflows.embed import train_embedding
    from searchtune.workflows.plan import plan_embedding

    with RichProgress() as progress:
        if dry_run:
            _show_plan(plan_embedding(settled, leaks.value, progress), folder, as_json)
            return
        result = train_embedding(settled, folder, policy=policy, leaks=leaks.value, progress=progress)
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
def encode(
    adapter: Adapter,
    texts: Annotated[
        Path, typer.Argument(help="JSONL with `text` (and `title`), or plain text, one a line; - for text on stdin.")
    ],
    out: Annotated[Path, typer.Option(help="The .npy file to write, float32, one row a text.")],
    queries: Annotated[bool, typer.Option("--queries", help="The texts are queries, not documents.")] = False,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")] = None,
    dimensions: Dimensions = None,
) -> None:
    """Encode texts with base plus adapter, documents written as in training."""
    from searchtune.cli.progress import RichProgress
    from searchtune.workflows.search import encode_file

    with RichProgress() as progress:
        count, dim = encode_file(
            adapter, texts, out, queries=queries, base=base, dimensions=dimensions, progress=progress
        )
    typer.echo(f"{count:,} x {dim} -> {out}")


@app.command()
def search(
    adapter: Adapter,
    query: Annotated[str, typer.Argument(help="What to look for.")],
    task: Annotated[str, typer.Option(help="The collection to search: a task name, task file or BEIR folder.")],
    top: Annotated[int, typer.Option("-k", "--top", min=1, help="How many documents.")] = 10,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")] = None,
    dimensions: Dimensions = None,
    as_json: Json = False,
) -> None:
    """Search a collection with base plus adapter."""
    from searchtune.cli.progress import RichProgress
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.search import search_collection

    with RichProgress() as progress:
        hits = search_collection(
            adapter, query, task, top, base=base, dimensions=dimensions, cache=EmbeddingCache(), progress=progress
        )
    if as_json:
        typer.echo(json.dumps([hit._asdict() for hit in hits], indent=2, ensure_ascii=False))
        return
    for place, hit in enumerate(hits, start=1):
        typer.echo(f"{place:>3}  {hit.score:.4f}  {hit.id}  {hit.title or hit.snippet}")


def output_policy(resume: bool, overwrite: bool, fail_if_exists: bool) -> OutputPolicy:
    if resume + overwrite + fail_if_exists > 1:
        raise typer.BadParameter("give one of --resume, --overwrite and --fail-if-exists")
    return "resume" if resume else "overwrite" if overwrite else "fail"


def default_folder(recipe: str, task: str | None) -> Path:
    names = [Path(name).name.removesuffix(".yaml") for name in (recipe, task) if name]
    return Path("runs") / "-".join(names)


def _show_plan(plan: dict[str, Any], folder: Path, as_json: bool) -> None:
    """What a run would do, the whole plan for machines and the main figures for people."""
    if as_json:
        typer.echo(json.dumps(plan, indent=2))
        return
    recipe = plan["recipe"]
    splits = ", ".join(f"{split} {count:,}" for split, count in plan["judged_queries"].items())
    typer.echo(f"task       {recipe['task']}: {plan['documents']:,} documents; judged queries: {splits}")
    typer.echo(f"base       {recipe['base']}, {plan['precision']}")
    share = plan["trainable_parameters"] / plan["all_parameters"]
    typer.echo(f"trainable  {plan['trainable_parameters']:,} of {plan['all_parameters']:,} parameters ({share:.1%})")
    typer.echo(f"training   {plan['pairs_per_epoch']:,} pairs an epoch, {plan['steps']:,} steps in all")
    for what in ("document", "query"):
        tokens = plan[f"{what}_tokens"]
        typer.echo(
            f"{what:<9}  tokens: half up to {tokens['p50']}, 99% up to {tokens['p99']}, longest {tokens['max']}; "
            f"{tokens['share_cut']:.1%} cut at {tokens['limit']}"
        )
    if plan["prefix_cache_mb"]:
        typer.echo(f"cache      {plan['prefix_cache_mb']:,} MiB of hidden states ({recipe['prefix_cache']})")
    typer.echo(f"output     {folder}; nothing was trained or written")
