"""Every outcome of the verdict, in words a reader cannot mistake."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from tests.unit.evaluation.made_up import made_up_evidence

from searchtune.evaluation import Comparison, Outcome, Report, build_report, outcome, verdict
from searchtune.evaluation.figures import figures
from searchtune.evaluation.report import Slice, SystemScores
from searchtune.evaluation.wording import signed
from searchtune.metrics import Estimate

NAN = float("nan")


def compared(
    delta: float, p_value: float, n: int = 100, width: float = 0.02, *, pair: tuple[str, str] = ("base", "tuned")
) -> Comparison:
    low, high = (delta - width, delta + width) if n > 1 else (NAN, NAN)
    return Comparison(
        a=pair[0], b=pair[1], metric="ndcg@10", delta=delta if n else NAN, low=low, high=high, n=n,
        p_value=p_value if n else NAN, wins=n // 2, ties=n - n // 2 - n // 4, losses=n // 4, mde=0.03 if n > 1 else NAN,
    )  # fmt: skip


def part(*comparisons: Comparison, base: float = 0.5, **others: float) -> Slice:
    n = comparisons[0].n if comparisons else 0
    means = {"base": base, "tuned": base + comparisons[0].delta if comparisons else base, **others}
    systems = {
        name: SystemScores(metrics={"ndcg@10": Estimate(mean, mean - 0.02, mean + 0.02, n)})
        for name, mean in means.items()
    }
    return Slice(n=n, systems=systems, comparisons=list(comparisons))


NONE = compared(NAN, NAN, 0)
UP, FLAT, DOWN = compared(0.14, 0.0001), compared(0.004, 0.6), compared(-0.05, 0.001)


def report(
    overall: Slice,
    *,
    unseen: Comparison = NONE,
    seen: Comparison = NONE,
    residual: Comparison = NONE,
    measured: bool = True,
) -> Report:
    return Report(
        n=overall.n, systems=overall.systems, comparisons=overall.comparisons, collection="made-up", split="test",
        reference="base", tuned=["tuned"] if overall.comparisons else [], metrics=["ndcg@10"], overlap_measured=measured,
        slices={"unseen": part(unseen), "seen": part(seen), "residual": part(residual)}, per_query=[], examples=None,
        training={}, costs={}, provenance={},
    )  # fmt: skip


def test_gain_that_holds() -> None:
    found = report(
        part(UP), unseen=compared(0.1, 0.002, 40), seen=compared(0.17, 0.001, 60), residual=compared(0.05, 0.01, 50)
    )
    assert outcome(found) is Outcome.GAIN
    headline, measured, *rest = verdict(found)
    assert headline == "Tuning helped, and the gain holds on queries whose relevant documents training never saw."
    assert (
        "nDCG@10 went from 0.500 (base) to 0.640 (tuned): +0.140 (95% interval +0.120 to +0.160, p < 0.001)" in measured
    )
    assert "50 of 100 queries better, 25 the same, 25 worse" in measured
    assert rest[0] == "The smallest true difference that 100 queries would show with 80% power is about 0.030."
    assert rest[1].startswith("On 40 unseen queries, the gain holds: +0.100")
    assert rest[2].startswith("On 60 seen queries, the gain holds: +0.170")
    assert rest[3].startswith("With the documents that training saw taken away, on 50 residual queries, the gain holds")


@pytest.mark.parametrize(
    "unseen",
    [compared(-0.008, 0.4, 104), compared(-0.06, 0.001, 104), compared(0.01, 0.4, 104), compared(0.0, 1.0, 104)],
)
def test_gain_that_lives_only_in_seen(unseen: Comparison) -> None:
    found = report(part(UP), unseen=unseen, seen=compared(0.2, 0.0001, 196))
    assert outcome(found) is Outcome.SEEN_ONLY
    headline, *rest = verdict(found)
    assert headline.startswith("The headline gain lives only in seen queries")
    assert headline.endswith("no such gain is there.")
    told = "tuning made search worse" if unseen.significant else "no gain was shown"
    assert any(f"104 unseen queries, {told}" in sentence for sentence in rest)


@pytest.mark.parametrize(
    "unseen",
    [
        compared(0.1, 0.2, 8, width=0.15),
        compared(0.3, 1.0, 1),
        compared(-0.01, 0.9, 8, width=0.3),
        compared(-0.01, 1.0, 3),
    ],
)
def test_too_few_unseen_queries_leave_it_open(unseen: Comparison) -> None:
    found = report(part(UP), unseen=unseen, seen=compared(0.14, 0.001, 92))
    assert outcome(found) is Outcome.UNSETTLED
    noun = "query" if unseen.n == 1 else "queries"
    assert f"{unseen.n} unseen {noun} cannot settle" in verdict(found)[0]


def test_no_unseen_query_points_to_the_residual() -> None:
    found = report(part(UP), seen=UP, residual=compared(0.001, 0.8, 90))
    assert outcome(found) is Outcome.INDISTINCT
    text = " ".join(verdict(found))
    assert "memory and learning cannot be told apart" in text
    assert "No test query is unseen: look at the residual collection." in text
    assert "on 90 residual queries, no gain was shown (smallest effect that would be: 0.030): +0.001" in text


def test_overlap_that_nobody_measured() -> None:
    found = report(part(UP), measured=False)
    assert outcome(found) is Outcome.UNCHECKED
    assert "part of the gain may be memory" in verdict(found)[0]


def test_every_query_unseen() -> None:
    sentences = verdict(report(part(UP), unseen=UP))
    assert outcome(report(part(UP), unseen=UP)) is Outcome.GAIN
    assert "Every test query is unseen: none shares a relevant document with training." in sentences
    assert "The residual collection was not scored, or has no query left." in sentences


@pytest.mark.parametrize("flat", [FLAT, compared(-0.004, 0.6), compared(0.02, 0.06)])
def test_no_gain_is_said_plainly_with_what_could_have_been_shown(flat: Comparison) -> None:
    found = report(part(flat), unseen=flat)
    assert outcome(found) is Outcome.NOT_SHOWN
    headline, _, power, *_ = verdict(found)
    assert headline.startswith("No sure gain: the difference on 100 queries is within chance, and they are too few")
    low, high = signed(flat.low), signed(flat.high)
    assert power.endswith(f"about 0.030; true differences from {low} to {high} are not ruled out.")


def test_a_gain_is_ruled_out_only_where_it_would_have_shown() -> None:
    tight = compared(0.001, 0.6, 400, width=0.006).model_copy(update={"mde": 0.008})
    assert outcome(report(part(tight))) is Outcome.NO_GAIN
    assert "a true gain of 0.010 or more is ruled out" in verdict(report(part(tight)))[0]
    few = compared(0.001, 0.6, 30, width=0.006).model_copy(update={"mde": 0.008})
    for open_still in (few, tight.model_copy(update={"mde": 0.02}), tight.model_copy(update={"high": 0.012})):
        assert outcome(report(part(open_still))) is Outcome.NOT_SHOWN


def test_few_queries_and_ties_are_said_to_show_nothing() -> None:
    """11 queries of which 3 differ have no p below .25; six wins out of six are not enough beside another comparison."""
    tied = figures_of([0.1, 0.2, -0.05] + [0.0] * 8)
    assert outcome(tied) is Outcome.TOO_FEW
    headline, _, reason, *_ = verdict(tied)
    assert headline == "11 queries cannot show whether tuning helped."
    assert reason == (
        "3 untied queries can show nothing: the smallest p that they can give is 0.250, and 6 must differ."
    )
    six = figures_of([0.1, 0.2, 0.05, 0.1, 0.3, 0.02], others=[[0.3, 0.1, 0.1, 0.1, 0.2, 0.1]])
    assert outcome(six) is Outcome.TOO_FEW
    assert "and 7 must differ among so many comparisons" in " ".join(verdict(six))
    assert outcome(figures_of([0.1, 0.2, 0.05, 0.1, 0.3, 0.02])) is Outcome.UNCHECKED  # a gain, believed
    assert outcome(figures_of([0.1] * 5)) is Outcome.TOO_FEW


def test_one_of_several_is_told_why_it_is_not_believed() -> None:
    values = [0.1, 0.2, 0.05, 0.1, 0.3, 0.02, 0.2, -0.01, -0.04]
    others = [np.random.default_rng(seed).normal(0, 0.2, 9).tolist() for seed in range(3)]
    found = figures_of(values, others=others)
    it = found.headline
    assert it is not None
    assert it.p_value < 0.05 <= it.p_holm
    assert it.low <= 0 <= it.high  # the interval is that of the corrected test
    assert outcome(found) is Outcome.NOT_SHOWN
    assert "being one of several: by itself it would have p = 0.0" in " ".join(verdict(found))


def test_harm() -> None:
    found = report(part(DOWN), unseen=DOWN)
    assert outcome(found) is Outcome.HARM
    assert verdict(found)[0] == "Tuning made search worse, beyond chance."


def test_one_query() -> None:
    found = report(part(compared(0.4, 1.0, 1)))
    assert outcome(found) is Outcome.TOO_FEW
    assert verdict(found)[0] == "1 query cannot show whether tuning helped."
    assert "nan" not in " ".join(verdict(found))


def test_nothing_tuned() -> None:
    found = report(part())
    assert outcome(found) is Outcome.NOT_COMPARED
    assert verdict(found) == [
        "Nothing was tuned, so there is nothing to compare with base.",
        "nDCG@10 of base is 0.500 (95% interval 0.480–0.520) on 0 queries.",
    ]


def test_untuned_rival_ahead_and_further_pairs_are_told() -> None:
    pair = compared(0.05, 0.01, pair=("hybrid", "both"))
    sentences = verdict(report(part(UP, pair, hybrid=0.66, both=0.71), unseen=UP))
    assert "both against hybrid: +0.050 (95% interval +0.030 to +0.070, p = 0.010)." in sentences
    assert "hybrid, which is not tuned, is ahead of tuned by +0.020." in sentences
    assert not any("ahead" in sentence for sentence in verdict(report(part(UP, hybrid=0.6), unseen=UP)))


def test_all_ties_from_real_runs() -> None:
    evidence = made_up_evidence(queries=30, docs=60)
    found = build_report(replace(evidence, runs={**evidence.runs, "tuned": evidence.runs["base"]}), rounds=200)
    assert outcome(found) is Outcome.NO_CHANGE
    assert verdict(found)[0] == "Tuning changed nothing here: nDCG@10 is the same on all 30 queries."
    text = " ".join(verdict(found))
    assert "power" not in text
    assert "0.000 (95% interval 0.000 to 0.000, p = 1.000); 0 of 30 queries better, 30 the same, 0 worse" in text


def test_memory_is_recognised_from_real_runs() -> None:
    found = build_report(made_up_evidence(unseen_gain=-0.1, seen_gain=1.2), rounds=500)
    assert outcome(found) is Outcome.SEEN_ONLY
    assert math.isfinite(found.slices["unseen"].estimate("tuned").mean)


def fused(**deltas: Comparison) -> Report:
    told = {"fusions": {name: [compared(0.05, 0.001, pair=("bm25", name)), it] for name, it in deltas.items()}}
    return report(part(UP, hybrid=0.4), unseen=UP).model_copy(update=told)


def test_a_fusion_that_is_worse_than_its_part_is_told() -> None:
    worse, behind = compared(-0.1, 0.001, pair=("tuned", "hybrid")), compared(-0.01, 0.6, pair=("tuned", "hybrid"))
    ahead = compared(0.02, 0.3, pair=("tuned", "hybrid"))
    assert (
        "Fusing hurts: hybrid is worse than tuned alone: −0.100 (95% interval −0.120 to −0.080, p = 0.001). Use tuned, "
        "or fit the weights on dev."
    ) in verdict(fused(hybrid=worse))
    (sentence,) = (it for it in verdict(fused(hybrid=behind)) if it.startswith("Fusing"))
    assert sentence.startswith("Fusing is not shown to help: hybrid is behind tuned alone: −0.010")
    assert not any("Fusing" in sentence for sentence in verdict(fused(hybrid=ahead)))
    untuned = suite(compared(0.1, 0.001, pair=("bm25", "minilm")), bm25=0.5, minilm=0.6)
    untuned = untuned.model_copy(update={"fusions": {"hybrid": [compared(-0.1, 0.001, pair=("minilm", "hybrid"))]}})
    assert any("hybrid is worse than minilm alone" in sentence for sentence in verdict(untuned))


def test_fusions_are_compared_with_each_part() -> None:
    evidence = made_up_evidence(queries=60, docs=90)
    weak = {**evidence.runs, "hybrid": evidence.runs["bm25"], "base": evidence.runs["tuned"]}
    found = build_report(replace(evidence, runs=weak, fusions={"hybrid": ["bm25", "base"]}), rounds=500)
    same, other = found.fusions["hybrid"]
    assert (same.a, same.b, same.ties) == ("bm25", "hybrid", 60)
    assert other.a == "base"
    assert other.delta == pytest.approx(found.estimate("bm25").mean - found.estimate("base").mean)
    assert other.p_holm >= other.p_value


def test_missing_queries_are_told() -> None:
    evidence = made_up_evidence(queries=30, docs=60)
    runs = {**evidence.runs, "tuned": evidence.runs["tuned"].select(np.arange(30) > 0)}
    assert "tuned returned nothing for 1 query; each counts 0." in verdict(
        build_report(replace(evidence, runs=runs), rounds=200)
    )


def figures_of(gains: list[float], others: Sequence[list[float]] = ()) -> Report:
    """A report of these differences by query, beside those of other tuned systems."""
    columns = {"tuned": gains, **{f"other-{i}": column for i, column in enumerate(others)}}
    values = {"base": {"ndcg@10": np.full(len(gains), 0.5)}}
    values |= {name: {"ndcg@10": 0.5 + np.array(column)} for name, column in columns.items()}
    pairs = [("base", name) for name in columns]
    return report(figures(values, systems=list(values), pairs=pairs, metrics=["ndcg@10"], seed=13), measured=False)


def suite(*comparisons: Comparison, **means: float) -> Report:
    """A report of systems of which none was tuned."""
    systems = {
        name: SystemScores(metrics={"ndcg@10": Estimate(mean, mean - 0.02, mean + 0.02, 100)})
        for name, mean in means.items()
    }
    whole = Slice(n=100, systems=systems, comparisons=list(comparisons))
    return report(whole).model_copy(update={"reference": next(iter(means)), "tuned": []})


def test_untuned_systems_of_which_one_leads() -> None:
    pairs = [compared(0.1, 0.001, pair=("bm25", "minilm")), compared(-0.05, 0.01, pair=("minilm", "hybrid"))]
    pairs += [compared(0.05, 0.02, pair=("bm25", "hybrid"))]
    found = suite(*pairs, bm25=0.5, minilm=0.6, hybrid=0.55)
    assert outcome(found) is Outcome.LEADS
    head, means, *rest = verdict(found)
    assert head == "minilm is the best system here, beyond chance."
    assert means.startswith("Nothing was tuned: the systems are compared as they are. nDCG@10: minilm 0.600, hybrid")
    assert rest[0].startswith(
        "minilm against hybrid: +0.050 (95% interval +0.030 to +0.070, p = 0.010): a difference to"
    )
    assert rest[1].startswith("minilm against bm25: +0.100")


@pytest.mark.parametrize(
    ("p_value", "head"),
    [
        (0.001, "minilm is ahead, but 100 queries cannot tell it apart from hybrid."),
        (0.3, "No system is better than the others beyond chance; minilm has the highest mean."),
    ],
)
def test_untuned_systems_that_are_level(p_value: float, head: str) -> None:
    pairs = [compared(0.1, p_value, pair=("bm25", "minilm")), compared(-0.01, 0.4, pair=("minilm", "hybrid"))]
    found = suite(*pairs, bm25=0.5, minilm=0.6, hybrid=0.59)
    assert outcome(found) is Outcome.LEVEL
    assert verdict(found)[0] == head
    assert any("within chance, not to be believed" in sentence for sentence in verdict(found))
    assert verdict(found)[-1] == "True differences below about 0.030 would stay hidden on 100 queries."


def test_correction_decides_and_is_told() -> None:
    first = compared(0.04, 0.03).model_copy(update={"p_holm": 0.06, "p_t": 0.03, "effect_size": 0.25})
    found = report(part(first), unseen=first)
    assert outcome(found) is Outcome.NOT_SHOWN
    text = " ".join(verdict(found))
    assert "(95% interval +0.020 to +0.060, p = 0.060)" in text
    assert "the interval leaves out 0, but the p-value for all comparisons is too large" in text  # of an older report
    assert "effect size d = +0.250, small" in text


def test_two_tests_that_disagree_are_told() -> None:
    torn = compared(0.04, 0.03).model_copy(update={"p_holm": 0.03, "p_t": 0.07, "effect_size": 0.1})
    assert any("beyond chance by one test only (t-test: p = 0.070)" in text for text in verdict(report(part(torn))))


def test_several_tuned_systems() -> None:
    other, flat = compared(0.2, 0.001, pair=("base", "second")), compared(0.0, 0.9, pair=("base", "third"))
    found = report(part(UP, other, flat, second=0.7, third=0.5), unseen=UP)
    found = found.model_copy(update={"tuned": ["tuned", "second", "third"]})
    told = next(text for text in verdict(found) if text.startswith("The verdict speaks of tuned, the first of 3"))
    assert "better than base beyond chance: tuned and second; the highest mean is that of second" in told


def test_breakdown_is_at_most_one_sentence_and_losses_come_first() -> None:
    bins = {"1–3 words": part(UP), "4–9 words": part(DOWN), "10 words": part(FLAT)}
    found = report(part(UP), unseen=UP).model_copy(update={"breakdown": {"query length": bins, "tag": {"x": part(UP)}}})
    told = [text for text in verdict(found) if "of one kind" in text]
    assert told == [
        "It hurts on 100 queries of one kind (query length: 4–9 words): tuned against base −0.050 "
        "(95% interval −0.070 to −0.030, p = 0.001)."
    ]
    gains = found.model_copy(update={"breakdown": {"query length": {"a": part(UP), "b": part(FLAT)}}})
    assert "Most is gained on 100 queries of one kind (query length: a)" in " ".join(verdict(gains))
    level = found.model_copy(update={"breakdown": {"query length": {"a": part(FLAT), "b": part(FLAT)}}})
    assert "of one kind" not in " ".join(verdict(level))
