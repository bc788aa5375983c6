"""Grades from the share of a query that a passage tells: its range, its order, its cuts, and what cannot be read."""

import numpy as np

from searchtune.metrics.query_likelihood import SLOPE, grade_cuts, grade_shares, told_shares


def test_the_share_is_nothing_all_or_below_nothing():
    told = told_shares(np.array([-40.0, -20.0, -1e-9, -50.0]), np.full(4, -40.0))
    assert np.allclose(told, [0, 0.5, 1, -0.25])


def test_each_row_is_a_distribution_whose_expected_grade_rises_with_the_share():
    rows = grade_shares(np.linspace(-2, 1, 50), 4, 2)
    assert rows.shape == (50, 4) and (rows >= 0).all() and np.allclose(rows.sum(axis=1), 1)
    assert (np.diff(rows @ np.arange(4)) > 0).all()


def test_at_its_cut_a_grade_is_as_likely_as_a_lower_one():
    for grades, min_grade in ((4, 2), (2, 1), (6, 3)):
        cuts = grade_cuts(grades, min_grade)
        assert (np.diff(cuts) > 0).all() and cuts[min_grade - 1] == grade_cuts(2, 1)[0]
        rows = grade_shares(cuts, grades, min_grade)
        assert np.allclose([rows[i, i + 1 :].sum() for i in range(grades - 1)], 0.5)
    assert np.isclose(grade_shares(grade_cuts(2, 1) + 0.1, 2, 1)[0, 1], 1 / (1 + np.exp(-0.1 * SLOPE)))


def test_what_could_not_be_read_stays_unread():
    rows = grade_shares(np.array([0.3, np.nan]), 4, 2)
    assert np.isfinite(rows[0]).all() and np.isnan(rows[1]).all()
    assert grade_shares(np.zeros(0), 4, 2).shape == (0, 4)
