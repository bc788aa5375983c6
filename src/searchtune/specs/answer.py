"""`AnswerRecipe`: how a writer of grounded answers is trained. One YAML file under `configs/answer/` is one recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.llm import LlmDev, LlmRecipe
from searchtune.specs.recipe import NonNegative, Positive, Share

UpToOne = Annotated[float, Field(ge=0, le=1)]


class AnswerSource(Spec):
    """Where questions with passages and answers come from: a file of them, or a task with its labels."""

    file: str | None = None
    """JSON lines, plain or .gz. A relative path is looked for in the working directory, in `$SEARCHTUNE_DATA` and in
    `./datasets`."""
    form: Literal["passages", "clapnq", "pubmedqa"] = "passages"
    """How its rows look: `{id, question, passages, gold, answers}`, or as in ClapNQ or PubMedQA."""
    task: str | None = None
    """A task name, task file or BEIR folder instead of a file: the query is the question, the relevant document the
    gold passage, and the answer names that document's title."""
    split: str | None = None
    """Of a task, whose labels are taken (default: test); of a file, only the rows whose field `split` is this."""
    start: UpToOne = 0.0
    stop: UpToOne = 1.0
    """Only the questions between these shares, in the order of the md5 of their ids: 0 to .5 and .5 to 1 are halves."""
    max_examples: Positive | None = None
    """Only so many of these, chosen by the md5 of their ids."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.task is None):
            raise ValueError("name either a `file` of questions or a `task`")
        if self.start >= self.stop:
            raise ValueError(f"start {self.start:g} is not below stop {self.stop:g}: no question lies between")
        return self


class AnswerDev(LlmDev):
    """How training is watched on dev, which is cut from the training questions by the md5 of their ids."""

    metric: Literal["auc", "abstention_f1", "log_likelihood"] = "auc"
    """`auc` says how well answerable and other questions are told apart, `abstention_f1` how well at the threshold that
    is fitted on dev; both take `abstain: read`. `log_likelihood` is the mean over the tokens of people's answers."""
    share: Annotated[Share, Field(gt=0)] = 0.2
    """Of the questions."""


class AnswerRecipe(LlmRecipe):
    """LoRA or QLoRA for a writer of answers that cite their passages and abstain where these do not answer."""

    kind: Literal["answer"] = "answer"
    train: AnswerSource
    test: AnswerSource | None = None
    """Questions that answers are measured on; training keeps clear of them."""
    style: Literal["brief", "full"] = "brief"
    """How much the prompt says. A tuned model needs little, and every token costs."""
    format: Literal["plain", "markdown", "json"] = "plain"
    abstain: Literal["read", "written"] = "read"
    """`read` weighs yes against no before an answer is written, at a threshold fitted on dev; `written` has the model
    write a fixed sentence in place of an answer."""
    distractors: NonNegative = 2
    """Up to so many passages that do not answer are mixed in (RAFT, Zhang et al. 2024, arXiv:2403.10131): BM25's best
    for the question among the passages of other questions of its part. Each number from 0 on is as likely."""
    no_gold_share: Share = 0.1
    """In so many of the answerable questions distractors take the gold passages' place: to be left unanswered."""
    repeats: Positive = 1
    """How many times each question is mixed in one epoch: each time other passages are drawn, in another order."""
    coverage: bool = True
    """Where abstention is read, also weigh how far the passages cover the question's words; how much is fitted."""
    label_weight: Annotated[float, Field(gt=0)] = 10.0
    """How much a token of the word that is read counts beside one of an answer."""
    max_new_tokens: Positive = 160
    """An answer that is longer is cut off."""
    dev: AnswerDev = AnswerDev()

    @model_validator(mode="after")
    def _reading(self) -> Self:
        if self.abstain == "written" and self.dev.times and self.dev.metric != "log_likelihood":
            raise ValueError(
                f"dev.metric {self.dev.metric} is of what is read: with abstain: written take log_likelihood"
            )
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError(f"max_new_tokens {self.max_new_tokens} leaves no room for a prompt in {self.max_tokens}")
        return self
