"""Fitting when an answerer abstains, on a recipe's dev questions: what training does for its own, for any other."""

from __future__ import annotations

from dataclasses import replace

from searchtune.errors import ConfigError
from searchtune.metrics.abstention import fit_abstention
from searchtune.prompts.answer import LABELS
from searchtune.specs.answer import AnswerRecipe
from searchtune.workflows.answer_sets import mixed_parts, open_answer_data
from searchtune.workflows.open_answerer import OpenAnswerer
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.training_set import Leaks


def fit_answerer(
    answerer: OpenAnswerer, recipe: AnswerRecipe, *, leaks: Leaks = "fail", progress: Progress = SILENT
) -> OpenAnswerer:
    """The same answerer with the rule that fits its readings of the recipe's dev questions.

    So that a base model is compared with the tuned one when both abstain as well as they can.

    Raises:
        ConfigError: its abstention is written, so that there is nothing to read.
        DataError: as in training.
    """
    if answerer.prompt.abstain != "read":
        raise ConfigError(f"{answerer.name} writes its abstentions: ask it under a prompt with abstain='read'")
    train, dev = mixed_parts(recipe, open_answer_data(recipe, leaks, progress))
    asked = [answerer.prompt.asked(one.question, one.passages) for one in dev.examples]
    progress.stage(f"reading dev with {answerer.name}")
    shares = answerer.backend.read_labels(asked, LABELS).probabilities
    rule = fit_abstention(shares, dev.evidence, train.evidence if recipe.coverage else None)
    return replace(answerer, rule=rule)
