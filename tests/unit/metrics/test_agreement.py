"""Agreement of judge and person against values worked out by hand, and on samples that cannot tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchtune.errors import DataError
from searchtune.metrics.agreement import (
    BINARY,
    GRADED,
    accuracy,
    agreement,
    binary,
    confusion,
    difference,
    kappa,
    krippendorff_alpha,
    precision,
    recall,
    why_undefined,
)

WORKED = np.array([[20.0, 5.0], [10.0, 15.0]])
"""Cohen's textbook table: 35 of 50 agree, 25 by chance."""
RNG = np.random.default_rng(3)
QUERIES = np.repeat(np.arange(30), 20)
HUMAN = RNG.integers(0, 4, 600)
JUDGE = np.clip(HUMAN + RNG.integers(-1, 2, 600), 0, 3)


def counted(human: list[int], judge: list[int], queries: list[int] | None = None, **more):
    where = np.zeros(len(human), np.int64) if queries is None else np.array(queries)
    return confusion(np.array(human, np.int64), np.array(judge, np.int64), where, **more)


def test_kappa_of_the_textbook_table() -> None:
    assert kappa(WORKED) == pytest.approx(0.4)
    assert accuracy(WORKED) == pytest.approx(0.7)
    assert precision(WORKED) == pytest.approx(15 / 20)
    assert recall(WORKED) == pytest.approx(15 / 25)


def test_weighted_kappa_by_hand() -> None:
    table = np.array([[2.0, 1.0, 0.0], [0.0, 2.0, 1.0], [1.0, 0.0, 3.0]])  # rows 3 3 4, columns 3 3 4, n 10
    # linear: 1 + 1 + 2 = 4 seen; by chance (9 + 2*12 + 9 + 12 + 2*12 + 12) / 10 = 9
    assert kappa(table, "linear") == pytest.approx(1 - 4 / 9)
    # quadratic: 1 + 1 + 4 = 6 seen; by chance (9 + 4*12 + 9 + 12 + 4*12 + 12) / 10 = 13.8
    assert kappa(table, "quadratic") == pytest.approx(1 - 6 / 13.8)
    # unweighted: 3 seen; by chance (9 + 12 + 9 + 12 + 12 + 12) / 10 = 6.6
    assert kappa(table) == pytest.approx(1 - 3 / 6.6)


def test_two_grades_make_all_weights_equal() -> None:
    assert kappa(WORKED, "linear") == pytest.approx(kappa(WORKED)) == pytest.approx(kappa(WORKED, "quadratic"))


def test_alpha_by_hand() -> None:
    # coincidences [[40, 15], [15, 30]], n 100: seen 30 of 100, by chance 2 * 55 * 45 / 99
    assert krippendorff_alpha(WORKED, "nominal") == pytest.approx(1 - 30 * 99 / (2 * 55 * 45))
    for level in ("ordinal", "interval"):  # two classes have one distance
        assert krippendorff_alpha(WORKED, level) == pytest.approx(krippendorff_alpha(WORKED, "nominal"))


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_alpha_equals_a_plain_loop(level: str) -> None:
    table = counted(HUMAN.tolist(), JUDGE.tolist()).total.astype(float)
    values = [grade for pair in zip(HUMAN.tolist(), JUDGE.tolist(), strict=True) for grade in pair]
    n = [values.count(grade) for grade in range(4)]

    def cost(c: int, k: int) -> float:
        low, high = min(c, k), max(c, k)
        if level == "nominal":
            return float(c != k)
        return (c - k) ** 2 if level == "interval" else (sum(n[low : high + 1]) - (n[c] + n[k]) / 2) ** 2 * (c != k)

    seen = np.mean([cost(a, b) for a, b in zip(HUMAN.tolist(), JUDGE.tolist(), strict=True)])
    total = len(values)
    chance = sum(n[c] * n[k] * cost(c, k) for c in range(4) for k in range(4)) / (total * (total - 1))
    assert krippendorff_alpha(table, level) == pytest.approx(1 - seen / chance)


def test_full_agreement_is_one_and_opposites_are_minus_one() -> None:
    assert kappa(np.diag([3.0, 4.0])) == krippendorff_alpha(np.diag([3.0, 4.0])) == 1
    assert kappa(np.array([[0.0, 5.0], [5.0, 0.0]])) == -1


def test_matrices_are_taken_many_at_once() -> None:
    both = np.stack([WORKED, np.diag([3.0, 4.0])])
    assert kappa(both) == pytest.approx([0.4, 1.0])
    assert krippendorff_alpha(both).shape == (2,)


def test_confusion_counts_by_query_and_leaves_out_what_has_no_grade() -> None:
    found = counted([0, 2, -1, 1, 2], [0, 1, 1, -1, 2], [7, 7, 7, 3, 9])
    assert found.ungraded == 2
    assert found.counts.shape == (3, 3, 3)  # queries 3, 7 and 9
    assert found.counts[0].sum() == 0
    assert found.total.tolist() == [[1, 0, 0], [0, 0, 0], [0, 1, 1]]
    assert found.relevant_from(2, 1).total.tolist() == [[1, 0], [0, 2]]


def test_thresholds_of_person_and_judge_may_differ() -> None:
    table = np.arange(9.0).reshape(3, 3)
    assert binary(table, 2, 1).tolist() == [[3, 12], [6, 15]]
    assert binary(np.arange(6.0).reshape(2, 3), 1, 1).tolist() == [[0, 3], [3, 9]]


def test_a_grade_off_the_scale_is_an_error() -> None:
    with pytest.raises(DataError, match="grade 3 on a scale of 0 to 2"):
        counted([0, 3], [0, 1], grades=3)
    with pytest.raises(ValueError, match="one of each"):
        confusion(np.zeros(2, np.int64), np.zeros(3, np.int64), np.zeros(2, np.int64))


def test_intervals_hold_the_figure_and_repeat_under_a_seed() -> None:
    found = confusion(HUMAN, JUDGE, QUERIES)
    figures = agreement(found, human_from=2, judge_from=2, seed=1, rounds=500)
    assert set(figures) == set(BINARY) | set(GRADED)
    for name, it in figures.items():
        assert it.low < it.mean < it.high, name
        assert it.n == 30
    assert figures == agreement(found, human_from=2, judge_from=2, seed=1, rounds=500)
    assert "kappa_graded" not in agreement(found, human_from=2, judge_from=2, graded=False, rounds=50)


def test_pairs_of_a_query_stay_together() -> None:
    """Twenty copies of each pair within its query say no more than one of each."""
    human, judge = HUMAN[:60], JUDGE[:60]
    once = agreement(confusion(human, judge, np.arange(60)), human_from=2, judge_from=2, rounds=500)["kappa"]
    copies = confusion(*(np.repeat(it, 20) for it in (human, judge, np.arange(60))))
    assert agreement(copies, human_from=2, judge_from=2, rounds=500)["kappa"] == pytest.approx(once)


def test_coverage_of_the_interval_is_near_95_percent() -> None:
    """Judges that are good on some queries and poor on others; kappa of all queries there could be is known by sum."""
    rng, inside = np.random.default_rng(11), 0
    for seed in range(200):
        truth = rng.integers(0, 2, (40, 15))
        flip = rng.random((40, 15)) < rng.beta(1, 3, (40, 1))  # a quarter on average
        found = confusion(truth.ravel(), np.where(flip, 1 - truth, truth).ravel(), np.repeat(np.arange(40), 15))
        it = agreement(found, human_from=1, judge_from=1, graded=False, seed=seed, rounds=400)["kappa"]
        inside += it.low <= 0.5 <= it.high
    assert 0.9 <= inside / 200 <= 0.99


@pytest.mark.parametrize(
    ("human", "judge", "undefined"),
    [
        ([], [], {"kappa", "precision", "recall", "accuracy", "alpha"}),
        ([0, 1], [-1, -1], {"kappa", "precision", "recall", "accuracy", "alpha"}),
        ([0, 0, 0], [0, 0, 0], {"kappa", "precision", "recall", "alpha", "kappa_quadratic"}),
        ([2, 2], [2, 2], {"kappa", "alpha"}),
        ([0, 2], [0, 0], {"precision"}),
        ([0, 0], [2, 0], {"recall"}),
    ],
)
def test_what_a_sample_cannot_tell_is_nan_with_a_reason(
    human: list[int], judge: list[int], undefined: set[str]
) -> None:
    found = counted(human, judge, list(range(len(human))))
    figures = agreement(found, human_from=2, judge_from=2, rounds=50)
    for name in ("kappa", "precision", "recall", "accuracy", "alpha", "kappa_quadratic"):
        reason = why_undefined(found, name, human_from=2, judge_from=2)
        if name in undefined:
            assert math.isnan(figures[name].mean), name
            assert reason
        elif human and name != "kappa_quadratic":
            assert not math.isnan(figures[name].mean), name
            assert reason is None


def test_one_query_has_a_figure_and_no_interval() -> None:
    it = agreement(counted([0, 2, 2, 0], [0, 2, 0, 0]), human_from=2, judge_from=2)["kappa"]
    assert it.mean == pytest.approx(0.5)
    assert it.n == 1
    assert math.isnan(it.low)


def test_a_figure_that_few_resamples_define_has_no_interval() -> None:
    human = [0] * 20 + [2]
    figures = agreement(counted(human, human, list(range(21))), human_from=2, judge_from=2, rounds=300)
    assert figures["recall"].mean == 1
    assert math.isnan(figures["recall"].low)


def test_a_threshold_that_calls_all_relevant_is_an_error() -> None:
    with pytest.raises(DataError, match="judge_from is 0"):
        agreement(counted([0], [0]), human_from=1, judge_from=0)


def test_difference_of_two_judges() -> None:
    better = np.where(RNG.random(600) < 0.8, HUMAN, JUDGE)
    a, b = confusion(HUMAN, JUDGE, QUERIES), confusion(HUMAN, better, QUERIES)
    found = difference(a, b, seed=2, rounds=800)
    assert found.estimate.mean == pytest.approx(kappa(b.total) - kappa(a.total))
    assert 0 < found.estimate.low < found.estimate.mean < found.estimate.high
    assert found.p_value == pytest.approx(1 / 801)
    back = difference(b, a, seed=2, rounds=800)
    assert back.estimate.mean == pytest.approx(-found.estimate.mean)


def test_no_difference_is_not_found() -> None:
    same = confusion(HUMAN, JUDGE, QUERIES)
    nothing = difference(same, same, rounds=200)
    assert (nothing.estimate, nothing.p_value) == ((0.0, 0.0, 0.0, 30), 1.0)
    noisy = [np.clip(HUMAN + np.random.default_rng(s).integers(-1, 2, 600), 0, 3) for s in (1, 2)]
    found = difference(*(confusion(HUMAN, it, QUERIES) for it in noisy), rounds=800)
    assert found.p_value > 0.05
    assert found.estimate.low < 0 < found.estimate.high


def test_difference_on_other_pairs_is_an_error() -> None:
    a = confusion(HUMAN, JUDGE, QUERIES)
    with pytest.raises(ValueError, match="same pairs"):
        difference(a, confusion(HUMAN, np.where(QUERIES == 3, -1, JUDGE), QUERIES))


def test_difference_of_nothing() -> None:
    nothing = counted([], [])
    found = difference(nothing, nothing, rounds=20)
    assert math.isnan(found.estimate.mean)
    assert math.isnan(found.p_value)
