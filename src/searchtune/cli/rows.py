"""The option that says what becomes of rows that cannot be used, for every command that measures or trains."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer


class RowPolicy(StrEnum):
    """What to do about rows that cannot be used."""

    fail = "fail"
    skip = "skip"


def _settle(ctx: typer.Context, policy: RowPolicy) -> RowPolicy:
    from searchtune.data.problems import row_policy

    ctx.with_resource(row_policy(policy.value))
    return policy


OnProblem = Annotated[
    RowPolicy, typer.Option("--on-problem", callback=_settle, help="Rows that cannot be used: refuse, or leave out.")
]
