"""From an `AnswerSource` to questions, and from questions to what a model is trained on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from searchtune.data.answering import (
    AnswerExample,
    AnswerSet,
    answers_of_labels,
    md5_range,
    read_answers,
    sampled_answers,
    shared_questions,
    split_by_md5,
)
from searchtune.data.coverage import coverages
from searchtune.data.grounding import cited, drops_gold, markdown, mixed, pool
from searchtune.data.leakage import few
from searchtune.data.problems import current_policy, tell_left_out
from searchtune.data.tasks import find_source_file, load_task, open_collection
from searchtune.errors import ConfigError, DataError, LeakError, did_you_mean
from searchtune.metrics.abstention import Evidence, check_both_kinds
from searchtune.prompts.answer import LABELS, AnswerPrompt, parse_answer
from searchtune.prompts.chat import ChatExample, Conversation
from searchtune.prompts.fences import draw_nonce
from searchtune.retrieval.bm25 import BM25Index
from searchtune.specs.answer import AnswerRecipe, AnswerSource
from searchtune.types import NO_DOC
from searchtune.workflows.progress import Progress
from searchtune.workflows.training_set import Leaks

_DEPTH = 24
"""Passages that are looked at for distractors; those of the question itself are among them."""
_DEV_SEED = 1_000_003
"""Added to the recipe's seed, so that dev is mixed otherwise than training."""


@dataclass(frozen=True, eq=False)
class AnswerPart:
    """Questions as a model reads them, mixed with distractors."""

    examples: list[AnswerExample]
    prompts: list[AnswerPrompt]
    """One for each question: its nonce is its own."""

    @property
    def answerable(self) -> npt.NDArray[np.bool_]:
        """Shape: (questions,)."""
        return np.array([one.answerable for one in self.examples], dtype=np.bool_)

    @cached_property
    def evidence(self) -> Evidence:
        """What is known of each question without a model."""
        texts = [one.question for one in self.examples]
        return Evidence(coverages(texts, [one.passages for one in self.examples]), self.answerable)

    @property
    def asked(self) -> list[Conversation]:
        """What is asked first about each question."""
        return [
            prompt.asked(one.question, one.passages) for one, prompt in zip(self.examples, self.prompts, strict=True)
        ]

    def labelled(self) -> list[ChatExample]:
        """Whether each question is answerable, as the word that is read; none where abstention is written."""
        return [
            ChatExample(prompt.asked(one.question, one.passages), LABELS[one.answerable])
            for one, prompt in zip(self.examples, self.prompts, strict=True)
            if prompt.abstain == "read"
        ]

    def written(self) -> list[ChatExample]:
        """The answer to each answerable question; where abstention is written, the abstentions too."""
        return [
            ChatExample(prompt.write(one.question, one.passages), _completion(one, prompt))
            for one, prompt in zip(self.examples, self.prompts, strict=True)
            if (one.answerable and one.references) or prompt.abstain == "written"
        ]


@dataclass(frozen=True)
class AnswerData:
    """Questions of three parts that share none."""

    train: AnswerSet
    dev: AnswerSet
    test: AnswerSet | None


def open_answers(source: AnswerSource) -> AnswerSet:
    """The questions of a source.

    Raises:
        ConfigError: no such file, task or split.
        DataError: broken rows, or no question at all.
    """
    found = _from_file(source) if source.task is None else _from_task(source)
    if (source.start, source.stop) != (0.0, 1.0):
        found = md5_range(found, source.start, source.stop)
    return found if source.max_examples is None else sampled_answers(found, source.max_examples)


def open_answer_data(recipe: AnswerRecipe, leaks: Leaks, progress: Progress) -> AnswerData:
    """Training, dev and test questions, and whatever of them would only be missed after training.

    Raises:
        LeakError: a training question is also, or nearly, a test question, and `leaks` is "fail".
        DataError: questions that cannot be learned from.
    """
    found = open_answers(recipe.train)
    test = None if recipe.test is None else open_answers(recipe.test)
    if test is not None:
        found = _without_leaks(found, test, leaks, progress)
    parts = split_by_md5(found, {"train": 1 - recipe.dev.share, "dev": recipe.dev.share})
    train, dev = parts["train"], sampled_answers(parts["dev"], recipe.dev.max_examples)
    near = shared_questions(dev, train)
    dev = dev.select(lambda one: one.id not in near)
    for name, part in (("training", train), ("dev", dev)):
        if not any(one.references for one in part.examples):
            raise DataError(f"none of the {len(part):,} {name} questions has an answer: give some, or more questions")
    progress.note(f"training questions: {_counts(train)}; dev: {_counts(dev)}" + _test_counts(test))
    return AnswerData(train, dev, test)


def mixed_parts(recipe: AnswerRecipe, data: AnswerData) -> tuple[AnswerPart, AnswerPart]:
    """Training and dev questions among distractors; those of both come from the two parts together, never from test.

    Raises:
        DataError: all questions of a part are answerable, or none is, where that is to be learned.
    """
    among = [*data.train.examples, *data.dev.examples]
    train = mixed_part(recipe, data.train, among, repeats=recipe.repeats, seed=recipe.seed)
    dev = mixed_part(recipe, data.dev, among, repeats=1, seed=recipe.seed + _DEV_SEED)
    for name, part in (("training", train), ("dev", dev)):
        if recipe.abstain == "read":
            check_both_kinds(part.answerable, f"{name} questions")
    return train, dev


def mixed_part(
    recipe: AnswerRecipe, part: AnswerSet, among: Sequence[AnswerExample], *, repeats: int, seed: int
) -> AnswerPart:
    """The questions with distractors from the passages of `among`, each `repeats` times, mixed anew."""
    others = distractors_of(part.examples, among, recipe.distractors)
    examples, prompts = [], []
    for turn in range(repeats):
        lost = drops_gold(part.examples, recipe.no_gold_share, seed=(seed, turn))
        for place, one in enumerate(part.examples):
            examples.append(
                mixed(
                    one,
                    _turned(others[one.id], turn, recipe.distractors),
                    distractors=recipe.distractors,
                    drop_gold=lost.get(one.id, False),
                    seed=(seed, turn, place),
                )
            )
            prompts.append(answer_prompt(recipe).under(draw_nonce(f"{recipe.seed} {turn} {one.id}")))
    return AnswerPart(examples, prompts)


def distractors_of(
    examples: Sequence[AnswerExample], among: Sequence[AnswerExample], count: int
) -> Mapping[str, list[tuple[str, str]]]:
    """By question id, passages of other questions in the order in which BM25 finds them for the question."""
    passages = pool(among)
    index = BM25Index([text for _, text in passages])
    run = index.search(np.arange(len(examples)), [one.question for one in examples], _DEPTH + count)
    found = {}
    for row, one in enumerate(examples):
        own = set(one.passages)
        ranked = [passages[int(doc)] for doc in run.docs[row] if doc != NO_DOC]
        found[one.id] = [(name, text) for name, text in ranked if text not in own]
    return found


def answer_prompt(recipe: AnswerRecipe) -> AnswerPrompt:
    """The prompt that a recipe trains under."""
    return AnswerPrompt(recipe.style, recipe.format, recipe.abstain)


def _turned(others: Sequence[tuple[str, str]], turn: int, step: int) -> list[tuple[str, str]]:
    """The ranking begun `turn` steps further down, so that each repetition meets other distractors."""
    start = (turn * step) % max(1, len(others))
    return [*others[start:], *others[:start]]


def _completion(example: AnswerExample, prompt: AnswerPrompt) -> str:
    """The first person's answer with its citations, in the prompt's format; the abstention where it is none."""
    if not (example.answerable and example.references):
        return prompt.abstention
    text = cited(example.references[0], example.passages, example.gold, example.selected)
    text = markdown(text) if prompt.format == "markdown" else text
    return prompt.completion(text, parse_answer(text, len(example.passages)).citations)


def _from_file(source: AnswerSource) -> AnswerSet:
    found = read_answers(find_source_file(str(source.file), "answers"), source.form, on_problem=current_policy())
    tell_left_out(str(source.file), found.warnings)
    if source.split is None:
        return found
    kept = found.select(lambda one: one.part == source.split)
    if not len(kept):
        parts = sorted({one.part for one in found.examples if one.part is not None})
        raise ConfigError(f"{source.file}: no question has split {source.split!r}{did_you_mean(source.split, parts)}")
    return kept


def _from_task(source: AnswerSource) -> AnswerSet:
    collection = open_collection(load_task(str(source.task)))
    split = source.split or "test"
    if split not in collection.qrels:
        raise ConfigError(f"{collection.name} has no split {split!r}{did_you_mean(split, collection.qrels)}")
    return answers_of_labels(collection, collection.qrels[split])


def _without_leaks(train: AnswerSet, test: AnswerSet, leaks: Leaks, progress: Progress) -> AnswerSet:
    """The training questions that are not test questions too, as `leaks` wants it."""
    shared = shared_questions(train, test)
    if not shared:
        return train
    named = few([one.question for one in train.examples if one.id in shared])
    if leaks == "fail":
        raise LeakError(
            f"{len(shared)} training questions are also, or nearly, test questions: {named}; take them out, or pass "
            "--leaks drop (leave them out of training) or --leaks allow"
        )
    progress.note(f"{len(shared)} training questions are also test questions ({leaks})")
    if leaks == "drop" and len(shared) == len(train):
        raise LeakError("every training question is also, or nearly, a test question: nothing is left to train on")
    return train if leaks == "allow" else train.select(lambda one: one.id not in shared)


def _counts(part: AnswerSet) -> str:
    answerable = sum(one.answerable for one in part.examples)
    return f"{len(part):,} ({answerable:,} answerable)"


def _test_counts(test: AnswerSet | None) -> str:
    return "" if test is None else f"; test: {_counts(test)}"
