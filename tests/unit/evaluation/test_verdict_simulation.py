"""A short run of benchmarks/verdict_simulation.py: the real verdict on simulated collections of few queries."""

from __future__ import annotations

import numpy as np
from benchmarks.verdict_simulation import contradicts, rates, simulate

from searchtune.evaluation.report import Comparison


def test_verdicts_on_few_queries_keep_their_rates() -> None:
    found = rates(160, seed=3, rounds=999)
    assert found.wrong_claims <= 0.05
    assert found.denied_without_power == 0
    assert found.contradictions == 0, found.faults
    assert found.found["large"] > 0.15  # nothing of this is bought by never finding anything
    assert {"too few", "not shown", "no change", "gain"} <= set(found.outcomes)


def test_the_simulation_would_notice_a_contradiction() -> None:
    draw = next(it for it in simulate(60, seed=3, rounds=999) if it.comparison.significant)
    assert not contradicts(draw)

    def around_zero(it: Comparison) -> Comparison:
        return it.model_copy(update={"low": -0.1, "high": 0.4, "p_holm": np.nan, "p_value": 0.2})

    wrong = draw.report.model_copy(update={"comparisons": [around_zero(it) for it in draw.report.comparisons]})
    told = draw._replace(report=wrong)
    assert not contradicts(told)  # the verdict follows the figures
    leaning = {"low": 0.1, "p_holm": 0.2}  # an interval that leaves out 0 beside a test that does not reject
    old = draw.report.model_copy(update={"comparisons": [it.model_copy(update=leaning) for it in wrong.comparisons]})
    assert contradicts(draw._replace(report=old))
