"""`searchtune`: finds the command, loads only its module, and turns errors into one line and an exit code.

Exit codes: 0 fine, 1 a gate or regression failed, 2 the input is wrong, 130 interrupted, 141 stdout was closed early.
"""

from __future__ import annotations

import os
import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from searchtune import __version__
from searchtune.errors import SearchtuneError, SearchtuneWarning

COMMANDS = {
    "data": "Look at test collections: list, show, check, fetch, export.",
    "embed": "Train an embedding adapter, encode with it, search with it.",
    "rerank": "Train a reranker's adapter, score pairs with it, rerank a run.",
    "rewrite": "Train a rewriter of queries, rewrite with it.",
    "judge": "Train a judge of relevance, judge pairs, compare with people, calibrate, hand pairs out.",
    "answer": "Train a writer of answers that cite their passages, answer from passages, measure answers.",
    "pipeline": "Rewrite, retrieve, rerank, answer and judge in one go, each stage's adapter on or off.",
    "plan": "What training a recipe would take: trainable parameters and memory, before any weight is read.",
    "eval": "Measure systems on test collections, compare them, guard what they reach.",
    "adapter": "Look at a saved adapter, verify it, merge it, export it.",
    "cache": "Look at what is kept to save work, remove what is old.",
    "doctor": "Look at this installation and machine; exit code 1 where something is broken or unsafe.",
    "demo": "Adapt all-MiniLM-L6-v2 to finding Python functions, and report what it gained.",
}
"""Each command's line in `--help`; `searchtune.cli.NAME` holds its `app`, or a function of its own name."""


class _Commands(TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, _, rest = super().resolve_command(ctx, args)
        return name, load_command(str(name)), rest

    def invoke(self, ctx: Any) -> Any:
        try:
            try:
                return super().invoke(ctx)
            finally:
                sys.stdout.flush()
        except SearchtuneError as error:
            if ctx.params.get("debug"):
                traceback.print_exc()
            typer.echo(f"error: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(141) from error


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Adapt the models of your search and RAG pipeline with small adapters you can trust.",
)


def load_command(name: str) -> Any:
    """The click command (or group) called `name`, from `searchtune.cli.NAME`."""
    module = import_module(f"searchtune.cli.{name}")
    if hasattr(module, "app"):
        return typer.main.get_group(module.app)
    alone = typer.Typer(add_completion=False)
    alone.command(name)(getattr(module, name))
    return typer.main.get_command(alone)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"searchtune {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", envvar="SEARCHTUNE_DEBUG", help="Show the traceback of an error.")
    ] = False,
) -> None:
    pass


def _stand_in() -> None:
    """Holds a command's place in `--help`; `_Commands` loads the real one when it is called."""


for _name, _help in COMMANDS.items():
    app.command(_name, help=_help)(_stand_in)


def main() -> None:
    """The console script. Its own warnings are one line each, others' look as they always do."""
    usual = warnings.formatwarning

    def brief(
        message: Warning | str, category: type[Warning], filename: str, lineno: int, line: str | None = None
    ) -> str:
        if issubclass(category, SearchtuneWarning):
            return f"note: {message}\n"
        return usual(message, category, filename, lineno, line)

    warnings.formatwarning = brief
    app(prog_name="searchtune")
