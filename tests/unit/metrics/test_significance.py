"""Intervals and tests against what theory and scipy say, and their rules for tiny samples."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from searchtune.errors import ConfigError
from searchtune.metrics import significance
from searchtune.metrics.power import least_p, minimum_detectable_effect, untied_needed
from searchtune.metrics.significance import (
    Estimate,
    Tally,
    bootstrap,
    bootstrap_columns,
    effect_size,
    effect_size_columns,
    holm,
    holm_levels,
    mean_shift,
    paired_randomisation,
    paired_t,
    paired_t_columns,
    sign_flips,
    win_tie_loss,
)

NORMAL = np.random.default_rng(5).normal(0.5, 0.2, 200)
SKEWED = np.random.default_rng(6).exponential(1.0, 40)


def test_bootstrap_of_normal_values_is_near_the_t_interval() -> None:
    estimate = bootstrap(NORMAL, seed=1)
    low, high = stats.t.interval(0.95, 199, NORMAL.mean(), stats.sem(NORMAL))
    assert estimate.mean == pytest.approx(NORMAL.mean())
    assert (estimate.low, estimate.high) == pytest.approx((low, high), abs=2e-3)
    assert estimate.n == 200


def test_bootstrap_equals_scipys_bca_on_skewed_values() -> None:
    ours = bootstrap(SKEWED, seed=1, rounds=40_000)
    theirs = stats.bootstrap((SKEWED,), np.mean, method="BCa", n_resamples=40_000, rng=np.random.default_rng(2))
    assert ours.low == pytest.approx(theirs.confidence_interval.low, abs=0.02)
    assert ours.high == pytest.approx(theirs.confidence_interval.high, abs=0.02)
    assert ours.high - ours.mean > ours.mean - ours.low  # the long tail is on the right


def test_bootstrap_repeats_under_a_seed_and_widens_with_the_level() -> None:
    assert bootstrap(SKEWED, seed=3) == bootstrap(SKEWED, seed=3)
    assert bootstrap(SKEWED, seed=3) != bootstrap(SKEWED, seed=4)
    narrow, wide = bootstrap(SKEWED, seed=3, level=0.5), bootstrap(SKEWED, seed=3, level=0.99)
    assert wide.low < narrow.low < narrow.mean < narrow.high < wide.high


def test_columns_equal_single_runs_and_chunks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.stack([NORMAL, NORMAL**2], axis=1)
    whole = bootstrap_columns(values, seed=9, rounds=500)
    assert whole[1] == pytest.approx(bootstrap(NORMAL**2, seed=9, rounds=500))
    tests = sign_flips(values - 0.5, seed=9, rounds=500)
    monkeypatch.setattr(significance, "CHUNK", 1_000)
    assert len(bootstrap_columns(values, seed=9, rounds=503)) == 2
    again = sign_flips(values - 0.5, seed=9, rounds=503)
    assert len(again[1].lower) == 503
    assert tests[1].p_value == pytest.approx(again[1].p_value, abs=0.05)
    assert tests[0].interval()[:3] == pytest.approx(again[0].interval()[:3], abs=0.01)


def test_tiny_samples_follow_the_stated_rule() -> None:
    none, one, same = (bootstrap(np.array(values), seed=1) for values in ([], [0.25], [0.3, 0.3, 0.3]))
    assert none.n == 0
    assert all(math.isnan(figure) for figure in none[:3])
    assert (one.mean, one.n) == (0.25, 1)
    assert math.isnan(one.low)
    assert math.isnan(one.high)
    assert same == Estimate(pytest.approx(0.3), pytest.approx(0.3), pytest.approx(0.3), 3)
    two = bootstrap(np.array([0.0, 1.0]), seed=1)
    assert 0 <= two.low <= 0.5 <= two.high <= 1


def test_randomisation_agrees_with_scipys_permutation_test() -> None:
    rng = np.random.default_rng(0)
    a = rng.uniform(size=30)
    b = a + rng.normal(0.05, 0.12, 30)
    theirs = stats.permutation_test(
        (b - a,), np.mean, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(1)
    ).pvalue
    assert paired_randomisation(a, b, seed=1, rounds=20_000) == pytest.approx(theirs, abs=0.01)


def test_randomisation_is_exact_where_it_can_be_counted() -> None:
    """Four equal gains: only the two labellings with one sign throughout are as extreme, so p is 2 / 16."""
    assert paired_randomisation(np.zeros(4), np.full(4, 0.1), seed=2) == 2 / 16
    differences = np.array([0.3, 0.1, -0.2, 0.4, 0.1, 0.2, 0.0, 0.0])
    theirs = stats.permutation_test((differences,), np.mean, permutation_type="samples", n_resamples=np.inf).pvalue
    assert paired_randomisation(0 * differences, differences, seed=3) == pytest.approx(theirs)


def test_randomisation_edges() -> None:
    a = np.linspace(0, 1, 50)
    assert paired_randomisation(a, a, seed=1) == 1.0
    assert paired_randomisation(a, a + 0.5, seed=1, rounds=999) == 1 / 1000  # never 0
    assert paired_randomisation(a[:1], a[:1] + 1, seed=1) == 1.0  # one query proves nothing
    assert math.isnan(paired_randomisation(a[:0], a[:0], seed=1))
    b = a + np.random.default_rng(3).normal(0, 0.1, 50)
    assert paired_randomisation(a, b, seed=1) == paired_randomisation(b, a, seed=1)


def test_false_alarms_are_as_rare_as_promised() -> None:
    rng = np.random.default_rng(11)
    tests = sign_flips(rng.normal(size=(40, 400)), seed=1, rounds=1000)
    assert 0.02 < np.mean([it.p_value < 0.05 for it in tests]) < 0.09


@pytest.mark.parametrize("n", [6, 9, 14, 40])
@pytest.mark.parametrize("alpha", [0.05, 0.0125])
def test_test_and_interval_never_contradict(n: int, alpha: float) -> None:
    rng = np.random.default_rng(n)
    values = np.round(rng.normal(0.3, 0.5, (n, 200)), 1) * (rng.random((n, 200)) < rng.random(200))
    for it in sign_flips(values, seed=1, rounds=999):
        found = it.interval(alpha)
        assert (found.low > 0 or found.high < 0) == (it.p_value < alpha)
        assert math.isnan(found.low) or found.low <= found.mean + 1e-12
        assert math.isnan(found.low) or found.mean <= found.high + 1e-12


def test_the_interval_holds_the_shifts_that_are_not_rejected() -> None:
    values = np.array([0.3, 0.1, -0.2, 0.4, 0.1, 0.25, 0.5])
    low, high = mean_shift(values, seed=1)[1:3]
    for shift, kept in ((low, True), (high, True), (low - 1e-6, False), (high + 1e-6, False)):
        p_value = paired_randomisation(np.zeros(7), values - shift, seed=1)
        assert (p_value >= 0.05) == kept


def test_the_interval_of_shifts_covers_as_promised() -> None:
    rng = np.random.default_rng(3)
    for n in (6, 12, 25):
        found = [it.interval() for it in sign_flips(rng.normal(0.1, 0.2, (n, 1500)), seed=2, rounds=2000)]
        assert np.mean([it.low <= 0.1 <= it.high for it in found]) == pytest.approx(0.955, abs=0.02)


@pytest.mark.parametrize(("n", "bounded"), [(1, False), (2, False), (5, False), (6, True)])
def test_few_queries_have_no_interval(n: int, bounded: bool) -> None:
    estimate = mean_shift(np.arange(1.0, n + 1), seed=1)
    assert estimate.n == n
    assert math.isfinite(estimate.low) == math.isfinite(estimate.high) == bounded


def test_win_tie_loss() -> None:
    a, b = np.array([0.1, 0.5, 0.5, 0.9]), np.array([0.2, 0.5, 0.5 + 1e-12, 0.1])
    assert win_tie_loss(a, b) == Tally(wins=1, ties=2, losses=1)
    assert win_tie_loss(a, b, tolerance=0.2) == Tally(wins=0, ties=3, losses=1)


def shown(effect: float, spread: float, *, n: int, ties: int, draws: int) -> float:
    """How often the test shows an effect over `n` queries of which some tie. The effect is the mean over all queries."""
    rng = np.random.default_rng(4)
    values = rng.normal(effect * n / (n - ties), spread, (n, draws))
    values[:ties] = 0
    return float(np.mean([it.p_value < 0.05 and it.mean > 0 for it in sign_flips(values, seed=1, rounds=2000)]))


@pytest.mark.parametrize(("n", "ties"), [(8, 0), (12, 0), (20, 12), (60, 0), (80, 40)])
def test_minimum_detectable_effect_has_the_power_it_claims(n: int, ties: int) -> None:
    rng = np.random.default_rng(n)
    samples = np.concatenate([np.zeros((ties, 60)), rng.normal(0, 0.2, (n - ties, 60))])
    effect = float(np.median([minimum_detectable_effect(samples[:, i]) for i in range(60)]))
    assert 0.7 < shown(effect, 0.2, n=n, ties=ties, draws=400) < 0.94  # few untied queries: spread is uncertain


def test_minimum_detectable_effect_shrinks_with_n_and_grows_with_the_level() -> None:
    assert minimum_detectable_effect(NORMAL) < minimum_detectable_effect(NORMAL[:50]) < 0.2
    assert minimum_detectable_effect(NORMAL[:20]) < minimum_detectable_effect(NORMAL[:20], alpha=0.0125)


@pytest.mark.parametrize("differences", [[], [0.1], [0.0] * 9, [0.1, 0.2, -0.3] + [0.0] * 8, [0.1] * 12])
def test_effects_that_cannot_be_said_are_no_number(differences: list[float]) -> None:
    assert math.isnan(minimum_detectable_effect(np.array(differences)))


def test_the_least_p_value_that_untied_queries_can_give() -> None:
    assert [least_p(untied) for untied in (0, 1, 3, 6)] == [1.0, 1.0, 0.25, 1 / 32]
    assert [untied_needed(alpha) for alpha in (0.05, 0.025, 0.0125)] == [6, 7, 8]
    for untied in (3, 6, 9):
        assert paired_randomisation(np.zeros(untied), np.full(untied, 0.1), seed=1) == least_p(untied)


def test_paired_t_equals_scipys() -> None:
    rng = np.random.default_rng(8)
    a = rng.uniform(size=25)
    b = a + rng.normal(0.03, 0.1, 25)
    assert paired_t(a, b) == pytest.approx(stats.ttest_rel(b, a).pvalue, rel=1e-12)
    assert paired_t(b, a) == paired_t(a, b)
    differences = rng.normal(0.1, 1.0, (30, 4))
    assert paired_t_columns(differences) == pytest.approx(stats.ttest_1samp(differences, 0).pvalue, rel=1e-12)
    assert paired_t(a, b) == pytest.approx(paired_randomisation(a, b, seed=1), abs=0.02)


def test_paired_t_edges() -> None:
    a = np.linspace(0, 1, 10)
    assert paired_t(a, a) == 1.0
    assert paired_t(a, a + 1e-12) == 1.0
    assert paired_t(a, a + 0.1) == 0.0  # no spread but for rounding
    assert paired_t_columns(np.array([[0.0, 0.1, 1.0], [0.0, 0.1, 2.0]]))[:2] == [1.0, 0.0]
    assert all(math.isnan(paired_t(a[:n], a[:n] + 1)) for n in (0, 1))


def test_effect_size_by_hand() -> None:
    a, b = np.zeros(4), np.array([0.1, 0.3, 0.1, 0.3])
    assert effect_size(a, b) == pytest.approx(0.2 / math.sqrt(4 * 0.01 / 3))
    assert effect_size(b, a) == -effect_size(a, b)
    assert effect_size(a, np.tile(b, 100)[:4]) == effect_size(a, b)
    assert effect_size(a, a) == 0.0
    assert math.isnan(effect_size(a, a + 0.5))
    assert all(math.isnan(size) for size in effect_size_columns(np.ones((1, 2))))


def test_holm_by_hand() -> None:
    """Holm's steps: .01 x 4; .02 x 3; .03 x 2 = .06 too; .9 x 1."""
    assert holm([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.06, 0.04, 0.9, 0.06])
    assert holm([0.4, 0.6, 0.5]) == [1.0, 1.0, 1.0]
    assert holm([0.02, 0.02]) == [0.04, 0.04]
    assert holm([0.03]) == [0.03]
    assert holm([]) == []


def test_holm_passes_over_tests_that_were_not_run() -> None:
    first, second, third = holm([0.02, math.nan, 0.01])
    assert (first, third) == (0.02, 0.02)
    assert math.isnan(second)
    with pytest.raises(ConfigError, match=r"p-value 1\.2 is not between 0 and 1"):
        holm([0.1, 1.2])


def test_holm_keeps_false_alarms_rare_over_a_whole_family() -> None:
    rng = np.random.default_rng(12)
    families = rng.uniform(size=(2000, 6))
    alarms = [min(holm(family)) < 0.05 for family in families.tolist()]
    assert 0.03 < np.mean(alarms) < 0.065


def test_levels_decide_as_corrected_p_values_do() -> None:
    assert holm_levels([0.03, 0.01, 0.9, 0.02]) == pytest.approx([0.05 / 3, 0.05 / 4, 0.05 / 3, 0.05 / 3])
    assert holm_levels([0.001, math.nan, 0.002]) == [0.025, 0.05, 0.05]
    assert holm_levels([]) == []
    rng = np.random.default_rng(2)
    for _ in range(300):
        p_values = (rng.uniform(size=rng.integers(1, 7)) ** 4).tolist()
        pairs = zip(p_values, holm_levels(p_values), holm(p_values), strict=True)
        assert all((p < level) == (corrected < 0.05) for p, level, corrected in pairs)
