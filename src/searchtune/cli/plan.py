"""`searchtune plan`: what training a recipe would take, before any weight is read."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from searchtune.workflows.plan import MemoryPlan


def plan(
    recipe: Annotated[str, typer.Argument(help="A recipe of any kind: a file, or a name under configs/.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key, e.g. --set quantise=nf4.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Machine-readable output on stdout.")] = False,
) -> None:
    """What training a recipe would take: trainable parameters and memory, before any weight is read.

    The recipe and the base's config.json are enough.
    """
    from searchtune.workflows.recipes import load_any_recipe

    settled = load_any_recipe(recipe, overrides=overrides or [])

    from searchtune.workflows.plan import plan_memory

    planned = plan_memory(settled)
    if as_json:
        typer.echo(json.dumps(planned.to_json(), indent=2))
        return
    _show(planned)


def _show(planned: MemoryPlan) -> None:
    share = planned.trainable_parameters / planned.all_parameters
    bits = ", layers in 4 bits (NF4)" * (planned.quantise == "nf4")
    how = "computed again" if planned.recompute else "kept"
    typer.echo(f"base         {planned.base}, {planned.precision}{bits}")
    typer.echo(f"trainable    {planned.trainable_parameters:,} of {planned.all_parameters:,} parameters ({share:.2%})")
    rows = {
        "weights": planned.base_weights,
        "merged": planned.merged_copies,
        "adapter": planned.adapter,
        "gradients": planned.gradients,
        "optimiser": planned.optimiser,
        "one chunk": planned.activations_recomputed,
        "whole batch": planned.activations_kept,
        "logits": planned.logits,
    }
    notes = {
        "merged": "copies of adapted weights",
        "one chunk": "activations where chunks are computed again",
        "whole batch": "activations where they are kept",
    }
    for name, size in rows.items():
        typer.echo(f"{name:<12} {size / 2**30:>9.3f} GiB  {notes.get(name, '')}".rstrip())
    typer.echo(f"{'total':<12} {planned.total / 2**30:>9.3f} GiB  one device, activations {how}")
    if planned.kv_cache:
        typer.echo(f"{'kv cache':<12} {planned.kv_cache / 2**30:>9.3f} GiB  at inference, for a chunk")
    for line in planned.advice():
        typer.echo(f"advice       {line}")
