"""What each part of a whole earned, from what every selection of parts is worth: exact Shapley values.

A game has k players, here stages of a pipeline that are on or off. Its values stand in 2^k columns: in column m, player
i takes part where bit i of m is set, so column 0 is nobody and the last column everybody. Each row is a game of its
own, one query. All functions are exact: with every column at hand nothing has to be sampled.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from searchtune.errors import DataError
from searchtune.metrics.significance import SAME, Estimate, bootstrap_columns, holm, holm_levels, sign_flips
from searchtune.types import FloatArray64

MOST_PLAYERS = 12
"""Players up to which all columns are looked at: there are 4,096 of them."""


class Share(NamedTuple):
    """What one player, or a pair of players together, adds on average over the rows."""

    estimate: Estimate
    p_value: float
    """Two-sided, of the mean being 0 (paired randomisation)."""
    p_holm: float
    """Corrected for the number of shares told together."""


class Attribution(NamedTuple):
    """A mean game taken apart; lists are in the order of the players."""

    nobody: Estimate
    everybody: Estimate
    shares: list[Share]
    """The Shapley values; together they are `everybody` less `nobody`."""
    alone: list[Estimate]
    """What each adds to nobody."""
    last: list[Estimate]
    """What each adds to all the others."""
    pairs: dict[tuple[int, int], Share]
    """The Shapley interaction index of each two players."""


def shapley_values(values: FloatArray64) -> FloatArray64:
    """Each player's mean contribution over all orders in which players may join (Shapley 1953).

    phi_i = sum over S without i of |S|! (k - |S| - 1)! / k! (v(S + i) - v(S)). Rows are checked for efficiency: the
    shares of a row add up to v(everybody) - v(nobody).

    Shape: (rows, 2^k) -> (rows, k).

    Raises:
        DataError: a number of columns that is no power of 2, too many players, or a value that is not finite.
    """
    players = _players(values)
    columns = np.arange(values.shape[1])
    sizes = _sizes(values.shape[1])
    shares = np.zeros((len(values), players))
    for player in range(players):
        without = columns[(columns >> player) & 1 == 0]
        weights = np.array([_weight(int(size), players) for size in sizes[without]])
        shares[:, player] = (values[:, without | (1 << player)] - values[:, without]) @ weights
    whole = values[:, -1] - values[:, 0]
    scale = np.abs(values).max(axis=1, initial=1.0)
    if not (np.abs(shares.sum(axis=1) - whole) <= SAME * scale).all():
        raise ArithmeticError("shares do not add up to the worth of the whole")
    return shares


def interaction_index(values: FloatArray64) -> dict[tuple[int, int], FloatArray64]:
    """How far two players are worth more (or, below 0, less) together than apart, over all company they may have.

    The Shapley interaction index of pairs (Grabisch and Roubens 1999, Int. J. Game Theory 28:547): the mean of
    v(S + ij) - v(S + i) - v(S + j) + v(S), weighed by (k - |S| - 2)! |S|! / (k - 1)!. Two stages that mend the same
    fault have a negative one. Errors as `shapley_values`.

    Shape: (rows, 2^k) -> (rows,) for each pair i < j.
    """
    players = _players(values)
    columns = np.arange(values.shape[1])
    sizes = _sizes(values.shape[1])
    found = {}
    for i in range(players):
        for j in range(i + 1, players):
            both = (1 << i) | (1 << j)
            without = columns[columns & both == 0]
            weights = np.array([_weight(int(size), players - 1) for size in sizes[without]])
            synergy = (
                values[:, without | both]
                - values[:, without | (1 << i)]
                - values[:, without | (1 << j)]
                + values[:, without]
            )
            found[i, j] = synergy @ weights
    return found


def attribute(values: FloatArray64, *, seed: int) -> Attribution:
    """Mean shares and interactions, tested against 0 with intervals that say the same (`significance.sign_flips`).

    Shares are corrected for the number of players, interactions for the number of pairs, p-values and intervals alike;
    `alone` and `last` stand by themselves. Errors as `shapley_values`. Shape: values (rows, 2^k).
    """
    players = _players(values)
    top = values.shape[1] - 1
    own = shapley_values(values)
    together = interaction_index(values)
    alone = [values[:, 1 << i] - values[:, 0] for i in range(players)]
    last = [values[:, top] - values[:, top ^ (1 << i)] for i in range(players)]
    crossed = np.column_stack([*together.values()]) if together else np.zeros((len(values), 0))
    nobody, everybody = bootstrap_columns(values[:, [0, top]], seed=seed)
    return Attribution(
        nobody=nobody,
        everybody=everybody,
        shares=_tested(own, seed),
        alone=[it.interval() for it in sign_flips(np.column_stack(alone), seed=seed)],
        last=[it.interval() for it in sign_flips(np.column_stack(last), seed=seed)],
        pairs=dict(zip(together, _tested(crossed, seed), strict=True)),
    )


def members(column: int, players: Sequence[str]) -> tuple[str, ...]:
    """Who takes part in a column."""
    return tuple(name for place, name in enumerate(players) if column >> place & 1)


def _tested(columns: FloatArray64, seed: int) -> list[Share]:
    tests = sign_flips(columns, seed=seed)
    p_values = [it.p_value for it in tests]
    return [
        Share(it.interval(alpha), it.p_value, corrected)
        for it, corrected, alpha in zip(tests, holm(p_values), holm_levels(p_values), strict=True)
    ]


def _players(values: FloatArray64) -> int:
    if values.ndim != 2 or values.shape[1] < 2 or values.shape[1] & (values.shape[1] - 1):
        raise DataError(f"values of shape {values.shape}: give one row a query and 2^k columns, one a selection of k")
    players = int(values.shape[1]).bit_length() - 1
    if players > MOST_PLAYERS:
        raise DataError(f"{players} players have {values.shape[1]:,} selections; take at most {MOST_PLAYERS}")
    wrong = np.argwhere(~np.isfinite(values))
    if len(wrong):
        row, column = wrong[0].tolist()
        raise DataError(f"row {row}, column {column} is {values[row, column]}: every selection needs a finite value")
    return players


def _sizes(columns: int) -> FloatArray64:
    """How many players take part in each column."""
    return np.array([column.bit_count() for column in range(columns)], dtype=np.float64)


def _weight(size: int, players: int) -> float:
    """The share of orders in which exactly some `size` of the others stand before a player."""
    return math.factorial(size) * math.factorial(players - size - 1) / math.factorial(players)
