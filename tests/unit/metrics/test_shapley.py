"""Shapley values on games worked by hand, their axioms on any game, and what cannot be a game."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from searchtune.errors import DataError
from searchtune.metrics.shapley import attribute, interaction_index, members, shapley_values


def games(players=3, rows=2):
    return arrays(np.float64, (rows, 2**players), elements=st.floats(-10, 10, width=32))


def by_orders(row, players):
    """The definition: the mean over all orders of joining."""
    shares = np.zeros(players)
    for order in itertools.permutations(range(players)):
        there = 0
        for player in order:
            shares[player] += row[there | 1 << player] - row[there]
            there |= 1 << player
    return shares / math.factorial(players)


def test_an_additive_game_gives_everyone_their_own():
    worth = [0.5, -0.25, 2.0]
    game = np.array([[sum(w for i, w in enumerate(worth) if column >> i & 1) for column in range(8)]])
    assert np.allclose(shapley_values(game), [worth])
    assert all(np.allclose(index, 0) for index in interaction_index(game).values())


def test_the_gloves_game():
    # players 0 and 1 hold a left glove each, player 2 the right one: a pair is worth 1
    game = np.array([[float(bool(column & 4) and bool(column & 3)) for column in range(8)]])
    assert np.allclose(shapley_values(game), [[1 / 6, 1 / 6, 4 / 6]])
    index = interaction_index(game)
    assert index[0, 2] == pytest.approx(0.5) and index[1, 2] == pytest.approx(0.5)  # needed together
    assert index[0, 1] == pytest.approx(-0.5)  # one of them is enough


def test_two_stages_that_mend_the_same_fault():
    game = np.array([[0.0, 1.0, 1.0, 1.0]])
    assert np.allclose(shapley_values(game), [[0.5, 0.5]])
    assert interaction_index(game)[0, 1] == pytest.approx(-1.0)


@settings(max_examples=40, deadline=None)
@given(games())
def test_it_is_the_mean_over_orders_and_adds_up(game):
    shares = shapley_values(game)
    assert np.allclose(shares, [by_orders(row, 3) for row in game], atol=1e-9)
    assert np.allclose(shares.sum(axis=1), game[:, -1] - game[:, 0], atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(games(2))
def test_a_dummy_gets_nothing_and_changes_nothing(game):
    with_dummy = np.concatenate([game, game], axis=1)  # player 2 adds nothing to anybody
    shares = shapley_values(with_dummy)
    assert np.allclose(shares[:, 2], 0)
    assert np.allclose(shares[:, :2], shapley_values(game))


@settings(max_examples=40, deadline=None)
@given(games())
def test_players_that_change_places_change_their_shares(game):
    swapped = game[:, [0, 2, 1, 3, 4, 6, 5, 7]]  # players 0 and 1
    assert np.allclose(shapley_values(swapped), shapley_values(game)[:, [1, 0, 2]])


@settings(max_examples=40, deadline=None)
@given(games(), games())
def test_it_is_linear(one, other):
    assert np.allclose(shapley_values(one + 2 * other), shapley_values(one) + 2 * shapley_values(other), atol=1e-9)


def test_means_with_intervals_and_tests():
    rng = np.random.default_rng(0)
    rows = 60
    gain, noise = 0.3 + 0.1 * rng.standard_normal(rows), 0.2 * rng.standard_normal(rows)
    game = np.stack([np.zeros(rows), gain, noise, gain + noise], axis=1)
    found = attribute(game, seed=1)
    assert found.nobody.mean == 0 and found.everybody.mean == pytest.approx(float((gain + noise).mean()))
    helps, idle = found.shares
    assert helps.estimate.low > 0.2 and helps.p_holm < 0.01
    assert idle.estimate.low < 0 < idle.estimate.high and idle.p_value > 0.05
    assert [found.alone[0].mean, found.last[0].mean] == pytest.approx([helps.estimate.mean] * 2)
    assert found.pairs[0, 1].estimate.mean == pytest.approx(0)
    assert attribute(game, seed=1) == found


def test_one_row_has_no_interval_and_one_player_no_pair():
    found = attribute(np.array([[0.25, 0.5]]), seed=1)
    assert found.shares[0].estimate.mean == 0.25 and math.isnan(found.shares[0].estimate.low)
    assert not found.pairs


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (np.zeros((2, 3)), "2\\^k columns"),
        (np.zeros((2, 1)), "2\\^k columns"),
        (np.zeros(4), "2\\^k columns"),
        (np.array([[0.0, np.nan]]), "row 0, column 1 is nan"),
        (np.zeros((1, 2**13)), "at most 12"),
    ],
)
def test_what_is_no_game(values, message):
    with pytest.raises(DataError, match=message):
        shapley_values(values)


def test_members_of_a_column():
    assert members(0b101, ["rewrite", "retrieve", "rerank"]) == ("rewrite", "rerank")
