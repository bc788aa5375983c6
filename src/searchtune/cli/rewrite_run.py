"""`searchtune rewrite run`: the options of a rewriting job."""

from __future__ import annotations

import sys
from contextlib import nullcontext
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.types import Turn
    from searchtune.workflows.open_rewriter import OpenRewriter


class PromptStyle(StrEnum):
    """How much the prompt says."""

    short = "short"
    search = "search"
    full = "full"


class Bits(StrEnum):
    """How a base is loaded."""

    none = "none"
    nf4 = "nf4"


def run(
    rewriter: Annotated[
        str, typer.Argument(help="A rewriter's adapter, a language model, or a remote model's name (--endpoint).")
    ],
    turns: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL with utterance, history and query_id a line [default: stdin]."),
    ] = None,
    task: Annotated[
        str | None, typer.Option(help="A task's queries instead; ids CONVERSATION_TURN give history.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Only those judged in this split of the task.")] = None,
    max_queries: Annotated[
        int | None, typer.Option(min=1, help="Only so many of the task's queries, the same ones every time.")
    ] = None,
    history: Annotated[bool, typer.Option("--history/--no-history", help="Read a task's conversations.")] = True,
    out: Annotated[
        Path | None,
        typer.Option(help="JSONL to write; a name that begins with `queries` gets BEIR's form [default: stdout]."),
    ] = None,
    style: Annotated[PromptStyle | None, typer.Option(help="For a model without an adapter [default: full].")] = None,
    max_new_tokens: Annotated[
        int | None, typer.Option(min=1, help="Tokens of a rewrite [default: as trained, 64, or 128 behind an address].")
    ] = None,
    quantise: Annotated[Bits | None, typer.Option(help="For a model without an adapter.")] = None,
    base: Annotated[str | None, typer.Option(help="The base model, where it is not where the card says.")] = None,
    endpoint: Annotated[str | None, typer.Option(metavar="URL", help="Ask an OpenAI-compatible address.")] = None,
    key_variable: Annotated[
        str | None, typer.Option(metavar="NAME", help="The environment variable of its key.")
    ] = None,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="Stop asking it when so many tokens are used.")] = None,
) -> None:
    """Rewrite turns, or a task's queries, into queries that stand alone.

    With --out, a journal beside it keeps every rewrite, so that a job that was stopped goes on where it was.
    """
    from searchtune.cli.progress import RichProgress
    from searchtune.storage.lock import sole_writer
    from searchtune.storage.output import output_file
    from searchtune.workflows.rewrite_run import rewrite_all, rewrite_lines, write_rewrites

    _check_place(endpoint, base=base, quantise=quantise, key_variable=key_variable, max_tokens=max_tokens)
    out = None if out is None else output_file(out)
    opened = _opened(
        rewriter, style, base=base, quantise=quantise, endpoint=endpoint, key_variable=key_variable, budget=max_tokens
    )
    if max_new_tokens is not None:
        opened = replace(opened, max_new_tokens=max_new_tokens)
    ids, asked = _asked(turns, task, split, max_queries=max_queries, history=history)
    with RichProgress() as progress, nullcontext() if out is None else sole_writer(out):
        done = rewrite_all(opened, asked, out and out.with_name(f"{out.name}.journal.jsonl"), progress=progress)
        progress.note(
            f"{len(asked):,} turns ({done.fresh:,} rewritten now), {done.tokens_per_turn:.0f} tokens and "
            f"{done.milliseconds_per_turn:.0f} ms each"
        )
    if out is None:
        typer.echo("".join(rewrite_lines(ids, asked, done.queries)), nl=False)
        return
    write_rewrites(out, ids, asked, done.queries)
    typer.echo(f"{len(ids):,} queries -> {out}")


def _asked(
    file: Path | None, task: str | None, split: str | None, *, max_queries: int | None, history: bool
) -> tuple[list[str], list[Turn]]:
    """Ids and turns, from a task, a file, or standard input."""
    if task is not None:
        if file is not None:
            raise typer.BadParameter("give a task or a file of turns, not both", param_hint="--turns")
        from searchtune.data.rewrites import conversations_told
        from searchtune.workflows.rewrite_run import turns_of_task

        ids, found = turns_of_task(task, split, history=history, max_queries=max_queries)
        if told := conversations_told(ids, found):
            typer.echo(f"note: {told}; --no-history reads each by itself", err=True)
        return ids, found
    if split is not None or max_queries is not None:
        raise typer.BadParameter("belongs to --task", param_hint="--split" if split is not None else "--max-queries")
    from searchtune.data.rewrites import read_turns

    if file is not None:
        return read_turns(file)
    if sys.stdin.isatty():
        raise typer.BadParameter("pipe turns in, or name --turns FILE or --task TASK", param_hint="--turns")
    return read_turns(sys.stdin.buffer)


def _check_place(endpoint: str | None, **given: object) -> None:
    """Options of a model here do not go with an address, nor the other way round."""
    far = {"key_variable", "max_tokens"}
    for name, value in given.items():
        if value is not None and (name in far) == (endpoint is None):
            where = "--endpoint" if name in far else "a model on this machine"
            raise typer.BadParameter(f"belongs to {where}", param_hint=f"--{name.replace('_', '-')}")


def _opened(
    name: str,
    style: PromptStyle | None,
    *,
    base: str | None,
    quantise: Bits | None,
    endpoint: str | None,
    key_variable: str | None,
    budget: int | None,
) -> OpenRewriter:
    from searchtune.prompts.rewrite import RewritePrompt
    from searchtune.workflows.open_rewriter import open_remote_rewriter, open_rewriter

    prompt = None if style is None else RewritePrompt(style.value)
    if endpoint is None:
        return open_rewriter(name, base=base, quantise=None if quantise is None else quantise.value, prompt=prompt)
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.remote import Budget

    return open_remote_rewriter(Endpoint(endpoint, name, key_variable), Budget(max_tokens=budget), prompt)
