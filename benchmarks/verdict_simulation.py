"""How often a report's verdict is wrong, on simulated collections of few queries.

    python benchmarks/verdict_simulation.py --draws 2000

Each draw is a collection of 1 to 30 queries of which 0 to 100 % tie, with no, a small or a large true gain (0, .02
and .15 of nDCG), and differences that are normal, steps (as of a metric with one relevant document), or skewed. The
real code compares base and tuned system, beside a second pair as in the reports of `embed train`, and words the
verdict. Printed:

* wrong claims: the share of draws without a true gain (or with a loss) in which the verdict says that tuning helped;
* "did not help" without power: the share of all draws in which the verdict denies a gain (or rules one out) although
  the observed effect, taken for the true one, would be shown in less than half of all samples of this size;
* contradictions: the share of draws whose sentence and interval (as figures and as printed) say different things;
* coverage of the interval of the difference, found gains, and how often each outcome is given.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from searchtune.evaluation import Outcome, Report, Slice, outcome, verdict
from searchtune.evaluation.figures import figures
from searchtune.evaluation.report import Comparison
from searchtune.metrics.significance import sign_flips
from searchtune.types import FloatArray64

GAINS = {"none": 0.0, "small": 0.02, "large": 0.15}
SHAPES = ("normal", "steps", "skewed")
CLAIMS = {Outcome.GAIN, Outcome.SEEN_ONLY, Outcome.UNSETTLED, Outcome.INDISTINCT, Outcome.UNCHECKED}
"""Outcomes that say that the tuned system is better."""
DENIALS = ("did not help", "does not help", "gained nothing", "no such gain")
POWER = 0.5


class Draw(NamedTuple):
    """One simulated collection with its verdict."""

    gain: str
    truth: float
    """The true mean difference over all queries, ties included."""
    report: Report
    differences: FloatArray64

    @property
    def comparison(self) -> Comparison:
        found = self.report.headline
        assert found is not None
        return found


def simulate(draws: int, seed: int, rounds: int = 10_000) -> Iterator[Draw]:
    """Draws in a cycle over true gains, shapes and shares of ties."""
    rng = np.random.default_rng(seed)
    for i in range(draws):
        gain = list(GAINS)[i % 3]
        shape = SHAPES[i // 3 % 3]
        n, ties = int(rng.integers(1, 31)), float(rng.choice([0, 0, 0.2, 0.5, 0.8, 0.95, 1]))
        untied = rng.random(n) >= ties
        effect = GAINS[gain]
        differences = np.where(untied, effect + _noise(shape, n, rng), 0.0)
        second = np.where(rng.random(n) >= ties, _noise("normal", n, rng), 0.0)
        yield Draw(gain, effect * (1 - ties), report_of(differences, second, rounds=rounds), differences)


def _noise(shape: str, n: int, rng: np.random.Generator) -> FloatArray64:
    """Differences around a true mean of 0. Shape: (n,)."""
    if shape == "normal":
        return rng.normal(0, 0.2, n)
    if shape == "steps":
        return rng.choice([-0.5, -0.37, -0.13, 0.13, 0.37, 0.5], n)
    return 0.2 * (rng.exponential(1, n) - 1)


def report_of(differences: FloatArray64, second: FloatArray64, *, rounds: int = 10_000) -> Report:
    """A report whose headline comparison has these differences, beside another pair."""
    values = {"base": np.full(len(differences), 0.5), "hybrid": np.full(len(differences), 0.5)}
    values |= {"tuned": 0.5 + differences, "hybrid-tuned": 0.5 + second}
    by_metric = {name: {"ndcg@10": column} for name, column in values.items()}
    pairs = [("base", "tuned"), ("hybrid", "hybrid-tuned")]

    def part(scores: dict[str, dict[str, FloatArray64]]) -> Slice:
        return figures(scores, systems=list(values), pairs=pairs, metrics=["ndcg@10"], seed=13, rounds=rounds)

    whole, nothing = part(by_metric), part({})
    return Report(
        n=whole.n, systems=whole.systems, comparisons=whole.comparisons, collection="simulated", split="test",
        reference="base", tuned=["tuned"], metrics=["ndcg@10"], overlap_measured=True,
        slices={"unseen": whole, "seen": nothing, "residual": nothing}, per_query=[], examples=None,
        training={}, costs={}, provenance={},
    )  # fmt: skip


def power_of(draw: Draw, samples: int = 200) -> float:
    """How often samples of this size, drawn from the differences seen, show a difference of this sign at its level."""
    rng = np.random.default_rng(1)
    drawn = rng.choice(draw.differences, size=(len(draw.differences), samples))
    alpha, sign = draw.comparison.alpha, np.sign(draw.comparison.delta)
    return float(np.mean([it.p_value < alpha and it.mean * sign > 0 for it in sign_flips(drawn, seed=1, rounds=2000)]))


def contradicts(draw: Draw) -> str:
    """What the verdict says against the interval; empty where they agree."""
    it, said = draw.comparison, outcome(draw.report)
    if said in CLAIMS and not it.low > 0:
        return f"{said} with {it.low:+.4f} to {it.high:+.4f}"
    if said is Outcome.HARM and not it.high < 0:
        return f"{said} with {it.low:+.4f} to {it.high:+.4f}"
    if said not in CLAIMS | {Outcome.HARM} and (it.low > 0 or it.high < 0):
        return f"{said} with {it.low:+.4f} to {it.high:+.4f}"
    if said is Outcome.NO_CHANGE and (it.low or it.high):
        return f"{said} with {it.low:+.4f} to {it.high:+.4f}"
    if (it.p_holm < 0.05) != it.significant:
        return f"p {it.p_holm} and significant {it.significant}"
    return ""


class Rates(NamedTuple):
    """What was counted; shares of 0 to 1."""

    draws: int
    wrong_claims: float
    denied_without_power: float
    contradictions: float
    coverage: float
    """Of the intervals there are, those that hold the true mean."""
    found: dict[str, float]
    """By true gain: the share of draws in which the verdict says that tuning helped."""
    outcomes: Counter[str]
    faults: list[str]


def rates(draws: int, seed: int, rounds: int = 10_000) -> Rates:
    """Run the simulation and count."""
    claims: dict[str, list[bool]] = {name: [] for name in GAINS}
    denied, outcomes, faults, covered = 0, Counter[str](), [], []
    for draw in simulate(draws, seed, rounds):
        said = outcome(draw.report)
        outcomes[str(said)] += 1
        claims[draw.gain if draw.truth > 0 else "none"].append(said in CLAIMS)
        sentences = verdict(draw.report)
        if any(word in " ".join(sentences) for word in DENIALS) and power_of(draw) < POWER:
            denied += 1
        if fault := contradicts(draw):
            faults.append(fault)
        if math.isfinite(draw.comparison.low) and draw.comparison.untied:
            covered.append(draw.comparison.low - 1e-9 <= draw.truth <= draw.comparison.high + 1e-9)
    return Rates(
        draws=draws,
        wrong_claims=float(np.mean(claims["none"])),
        denied_without_power=denied / draws,
        contradictions=len(faults) / draws,
        coverage=float(np.mean(covered)),
        found={name: float(np.mean(told)) for name, told in claims.items()},
        outcomes=outcomes,
        faults=faults,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--draws", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    found = rates(given.draws, given.seed)
    print(f"{found.draws} draws, seed {given.seed}")
    print(f"wrong claims of a gain              {found.wrong_claims:.2%}")
    print(f"gain denied without power           {found.denied_without_power:.2%}")
    print(f"sentence contradicts interval       {found.contradictions:.2%}  {found.faults[:3] or ''}")
    print(f"intervals that hold the true mean   {found.coverage:.2%}")
    print("said to have helped, by true gain   " + ", ".join(f"{k} {v:.1%}" for k, v in found.found.items()))
    print("outcomes                            " + ", ".join(f"{k} {v}" for k, v in found.outcomes.most_common()))


if __name__ == "__main__":
    main()
