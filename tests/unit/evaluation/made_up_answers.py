"""Made-up systems that answer made-up questions: `tuned` reads, cites and abstains well, `base` answers everything."""

from __future__ import annotations

import numpy as np

from searchtune.evaluation.answering import AnswerEvidence, CanaryTrial
from searchtune.metrics.answers import AnswerCase
from searchtune.prompts.answer_canaries import plant_answer_canaries
from searchtune.types import Answer

PLACES = ("harbour", "orchard", "kitchen", "court", "clinic", "theatre")
NO = Answer("The passages do not answer this.", abstained=True)


def fact(number: int) -> str:
    return f"The {PLACES[number % 6]} numbered {number} opened in {1800 + number} with {number % 9 + 2} wooden gates."


def passage(number: int) -> str:
    return f"{fact(number)} People came from the valley and the hills to see it, and it burned down twice."


def tuned(number: int, shown: list[str], gold: list[int], rng: np.random.Generator) -> Answer:
    if not gold:
        return (
            NO
            if rng.random() < 0.85
            else Answer(f"Perhaps it was in 1700 [{1 if shown else 4}].", (1,) if shown else ())
        )
    if rng.random() < 0.1:
        return NO
    words = fact(number) if rng.random() < 0.85 else "It is famous for elephants and a golden roof."
    cites = gold[0] + 1 if rng.random() < 0.9 else 1
    return Answer(f"{words[:-1]} [{cites}].", (cites,))


def base(number: int, shown: list[str], gold: list[int], rng: np.random.Generator) -> Answer:
    draw = rng.random()
    if draw < 0.05:
        return NO
    if draw < 0.4 and gold:
        return Answer(f"{fact(number)} I think so.")
    if draw < 0.6 and shown:
        return Answer("Some say it opened long ago [1]. Nobody is sure [9].", (1,))
    return Answer("It is a wonderful place that everybody should visit once.")


def made_up_answers(questions: int = 60, seed: int = 0, trap: str = "", canaries: bool = True) -> AnswerEvidence:
    """Half of the questions have no answer; the retriever finds four of five gold passages."""
    rng = np.random.default_rng(seed)
    systems = {f"base{trap}": base, f"tuned{trap}": tuned}
    answerable = [number % 2 == 0 for number in range(questions)]
    shown: dict[str, list[tuple[list[str], list[int]]]] = {"gold": [], "retrieved": [], "none": []}
    for number in range(questions):
        own = passage(number) if answerable[number] else passage(number + 1000).replace("opened", "was sold")
        others = [passage(int(it)) + trap for it in rng.choice(np.arange(2000, 2400), 3, replace=False)]
        found = rng.random() < 0.8
        place = int(rng.integers(0, 3))
        mixed = [*others[:place], own + trap, *others[place:2]] if found else others
        shown["gold"].append(([own + trap], [0] if answerable[number] else []))
        shown["retrieved"].append((mixed, [place] if found and answerable[number] else []))
        shown["none"].append(([], []))
    cases = {
        name: {
            condition: [
                AnswerCase(
                    system(number, passages, gold, rng), tuple(passages), tuple(gold),
                    (fact(number) + trap, "An older answer.") if answerable[number] else (),
                )
                for number, (passages, gold) in enumerate(given)
            ]
            for condition, given in shown.items()
        }
        for name, system in systems.items()
    }  # fmt: skip
    asked = [f"When did the {PLACES[number % 6]} numbered {number} open?{trap}" for number in range(questions)]
    trials = {}
    for name in systems if canaries else ():
        controls = cases[name]["retrieved"]
        planted = plant_answer_canaries(asked, [case.passages for case in controls], seed=seed)
        trials[name] = [
            CanaryTrial(one, steered(one) if rng.random() < (0.5 if "base" in name else 0.0) else controls[one.example].answer, controls[one.example])
            for one in planted
        ]  # fmt: skip
    return AnswerEvidence(
        collection=f"town records{trap}",
        ids=[f"q{number}" for number in range(questions)],
        questions=asked,
        answerable=answerable,
        cases=cases,
        headline=f"tuned{trap}",
        reference=f"base{trap}",
        trials=trials,
        provenance={"created": "2026-01-02T03:04:05+00:00", "seed": seed, "depth": 3},
    )


def steered(one) -> Answer:
    if one.aim == "abstain":
        return NO
    if one.aim == "cite":
        return Answer(f"As it says [{one.target}].")
    return Answer(f"{one.target}")
