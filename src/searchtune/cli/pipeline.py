"""`searchtune pipeline`: run a whole pipeline over queries, or serve it on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.workflows.open_pipeline import OpenPipeline
    from searchtune.workflows.progress import Progress

app = typer.Typer(
    no_args_is_help=True, help="Rewrite, retrieve, rerank, answer and judge in one go, each stage's adapter on or off."
)

_Config = Annotated[str, typer.Argument(help="A pipeline's file, or a name under configs/pipeline/.")]
_Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set answer.passages=5."),
]
_Off = Annotated[
    list[str] | None, typer.Option("--off", metavar="STAGE", help="Run without this stage's adapter; repeatable.")
]
_On = Annotated[list[str] | None, typer.Option("--on", metavar="STAGE", help="Run with it; repeatable.")]
_NoCache = Annotated[bool, typer.Option("--no-cache", help="Encode everything anew; read and write no vectors.")]


@app.command()
def run(
    config: _Config,
    queries: Annotated[
        Path | None, typer.Argument(help="A query a line, or JSON lines with query and history; - is stdin [default].")
    ] = None,
    query: Annotated[
        list[str] | None, typer.Option("--query", "-q", help="A query; may be given several times.")
    ] = None,
    off: _Off = None,
    on: _On = None,
    top: Annotated[int | None, typer.Option(min=1, help="Documents that a result lists.")] = None,
    overrides: _Set = None,
    no_cache: _NoCache = False,
) -> None:
    """Run queries through every stage; a result is a line of JSON on stdout, what each stage took is on stderr."""
    from searchtune.cli.progress import RichProgress
    from searchtune.types import Turn
    from searchtune.workflows.pipeline_run import Asked, read_turns, run_pipeline, spent, switched

    if query and queries is not None:
        raise typer.BadParameter("give a file of queries, or --query")
    stages = switched(off or [], on or [])
    given = [Asked(str(number), Turn(text)) for number, text in enumerate(query or [], start=1)]
    asked = given or read_turns(queries or "-")
    with RichProgress() as progress:
        opened = _opened(config, overrides, no_cache, progress)
        for row in run_pipeline(opened, asked, stages=stages, top=top, progress=progress):
            typer.echo(json.dumps(row, ensure_ascii=False))
        for stage, cost in spent(opened).items():
            tokens = f", {cost['tokens']:,} tokens" if cost["tokens"] else ""
            progress.note(f"{stage:<9}{cost['ms_per_query']:>10,.1f} ms a query{tokens}")


@app.command("serve-local")
def serve_local(
    config: _Config,
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    overrides: _Set = None,
    no_cache: _NoCache = False,
) -> None:
    """Answer POST /search and GET /health on 127.0.0.1, for programs on this machine, until Ctrl-C."""
    from searchtune.cli.progress import RichProgress
    from searchtune.workflows.pipeline_serve import serve

    with RichProgress() as progress:
        opened = _opened(config, overrides, no_cache, progress)
    serve(opened, port, ready=lambda address: typer.echo(f"serving {opened.name} at {address} (Ctrl-C ends it)"))


def _opened(config: str, overrides: list[str] | None, no_cache: bool, progress: Progress) -> OpenPipeline:
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.workflows.open_pipeline import load_pipeline, open_pipeline

    spec = load_pipeline(config, overrides=overrides or [])
    cache = None if no_cache else EmbeddingCache()
    return open_pipeline(spec, name=Path(config).stem, cache=cache, progress=progress)
