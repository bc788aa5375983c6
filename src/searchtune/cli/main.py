"""`searchtune`: finds the command, loads only its module, and turns errors into one line and an exit code.

Exit codes: 0 fine, 1 a gate or regression failed, 2 the input is wrong, 130 interrupted, 141 stdout was closed early.
"""

from __future__ import annotations

import sys
import traceback
import warnings
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from searchtune import __version__
from searchtune.clean_text import clean
from searchtune.cli.streams import mute_stdout, settle_streams
from searchtune.errors import SearchtuneError, SearchtuneWarning
from searchtune.reading import explain, shown

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
    def main(self, *args: Any, **kwargs: Any) -> Any:
        settle_streams()
        try:
            return super().main(*args, **kwargs)
        except OSError as error:  # of `--help` and `--version`, which print before any command is invoked
            typer.echo(f"error: {_refusal(error)}", err=True)
            sys.exit(SearchtuneError.exit_code)

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
            raise _ended(ctx, str(error), error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo("interrupted", err=True)
            raise typer.Exit(130) from error
        except BrokenPipeError as error:
            mute_stdout()
            raise typer.Exit(141) from error
        except OSError as error:
            raise _ended(ctx, _refusal(error), SearchtuneError.exit_code) from error
        except EOFError as error:
            message = f"a file ended too early ({shown(error) or 'nothing in it'}); fetch it again or write it anew"
            raise _ended(ctx, message, SearchtuneError.exit_code) from error
        except UnicodeError as error:
            message = f"a text that cannot be read or written: {shown(error)}; take the character out, or save as UTF-8"
            raise _ended(ctx, message, SearchtuneError.exit_code) from error
        except RecursionError as error:
            message = "what was read is nested too deeply; write it flatter"
            raise _ended(ctx, message, SearchtuneError.exit_code) from error


def _ended(ctx: Any, message: str, code: int) -> typer.Exit:
    """Say what went wrong, in one place for all errors, and return what ends the program."""
    if ctx.params.get("debug"):
        traceback.print_exc()
    typer.echo(f"error: {clean(message)}", err=True)
    return typer.Exit(code)


def _refusal(error: OSError) -> str:
    """What the system refused, where no reader or writer of ours has said it better."""
    reason, remedy = explain(error)
    if error.filename is None:
        mute_stdout()  # most likely it is stdout that cannot be written: no further try at the end
        return f"stdout or a file: {shown(reason)}; {remedy}"
    return f"{shown(error.filename)}: {shown(reason)}; {remedy}"


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Adapt the models of your search and RAG pipeline with small adapters you can trust.",
)


def load_command(name: str) -> Any:
    """The click command (or group) called `name`, from `searchtune.cli.NAME`."""
    module = import_module(f"searchtune.cli.{name}")
    if hasattr(module, "app"):
        return _with_plain_help(typer.main.get_group(module.app))
    alone = typer.Typer(add_completion=False)
    alone.command(name)(getattr(module, name))
    return _with_plain_help(typer.main.get_command(alone))


def _with_plain_help(command: Any) -> Any:
    """The command with its help as running text: rich's columns leave it two words a line, its markup eats brackets.

    Lists of commands give each one's first sentence whole.
    """
    command.rich_markup_mode = None
    command.short_help = command.get_short_help_str(limit=1000)
    for inner in getattr(command, "commands", {}).values():
        _with_plain_help(inner)
    return command


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
    app.command(_name, help=_help, short_help=_help)(_stand_in)


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
