"""How figures are written: what rounding may not hide."""

from __future__ import annotations

import math

import numpy as np
import pytest

from searchtune.evaluation.figures import compared, corrected
from searchtune.evaluation.wording import change, figure, interval, metric_label, p_text, percent, signed, spread
from searchtune.metrics.significance import Estimate


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.1444, "+0.144"), (-0.0201, "−0.020"), (0.0, "0.000"), (-0.0, "0.000"), (-0.0003, "−0.0003"),
        (0.00042, "+0.0004"), (-0.0000041, "−0.000004"), (1e-17, "0.000"), (-1e-12, "0.000"), (math.nan, "–"),
        (-0.0005, "−0.001"), (0.9999, "+1.000"),
    ],
)  # fmt: skip
def test_no_sign_is_rounded_away(value: float, text: str) -> None:
    assert signed(value) == text
    assert figure(value) == text.removeprefix("+")


def test_an_interval_that_crosses_zero_seems_to() -> None:
    assert spread(Estimate(0.02, -0.0003, 0.031, 9)) == "−0.0003 to +0.031"
    assert spread(Estimate(0.02, 0.0002, 0.031, 9)) == "+0.0002 to +0.031"
    assert interval(Estimate(0.1, 0.0004, 0.2, 9)) == "0.0004–0.200"
    assert interval(Estimate(0.1, -0.02, 0.2, 9)) == "−0.020 to 0.200"


def test_only_none_is_no_share_and_only_all_is_the_whole() -> None:
    shares = (0.0, 0.004, 0.00004, 0.93, 0.996, 0.99996, 1.0, 1.2, math.nan)
    assert [percent(it) for it in shares] == ["0%", "0.4%", "0.004%", "93%", "99.6%", "99.996%", "100%", "120%", "–"]


def test_no_p_value_is_rounded_across_the_level() -> None:
    told = [p_text(it) for it in (0.0496, 0.04999, 0.05, 0.0504, 0.0004, 1.0)]
    assert told == ["p = 0.0496", "p = 0.04999", "p = 0.050", "p = 0.050", "p < 0.001", "p = 1.000"]


def test_figures_that_are_no_metric_of_rankings_have_a_name_too() -> None:
    assert (metric_label("ndcg@10"), metric_label("token_f1")) == ("nDCG@10", "token f1")


def test_an_interval_that_is_widened_for_other_comparisons_says_so() -> None:
    differences = np.random.default_rng(1).normal(0.1, 0.1, (12, 2))
    values = {"a": {"m": np.zeros(12)}, "b": {"m": differences[:, 0]}, "c": {"m": differences[:, 1]}}
    tested = compared(values, pairs=[("a", "b"), ("a", "c")], metrics=["m"], seed=1)
    assert "both corrected" not in change(*corrected(tested[:1]))
    assert [change(it).endswith("; both corrected)") for it in corrected(tested)].count(True) >= 1
