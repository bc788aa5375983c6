"""`RewriteRecipe`: how a rewriter of queries is trained. One YAML file under `configs/rewrite/` is one recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.llm import LlmDev, LlmRecipe
from searchtune.specs.recipe import NonNegative, Positive, Share
from searchtune.specs.reward import AbstentionSpec, Mode, RetrievalReward

__all__ = ["Mode", "RetrievalTest", "RewriteDev", "RewriteRecipe", "RewriteSource"]


class RewriteSource(Spec):
    """Where utterances, what was said before them, and people's rewrites come from."""

    file: str
    """JSON lines, plain or .gz, one turn each: `history` (a list of {role: user | system | assistant | title, text}),
    `utterance`, `rewrite`, and `conversation`, whose turns stay on one side of the dev split. A relative path is looked
    for in the working directory, in `$SEARCHTUNE_DATA` and in `./datasets`; `builtin:conversations` is a small set that
    comes with searchtune."""
    changed_only: bool = False
    """Leave out turns whose rewrite says what the utterance says. With them, a rewriter learns what to leave alone."""
    max_examples: Positive | None = None
    """Only so many turns, chosen by the hash of their ids."""
    repeat: Positive = 1
    """How often training sees each turn in one epoch: a small source that is like the use counts more."""


class RetrievalTest(Spec):
    """Searching for the turns of a task as they were said and as they are rewritten."""

    task: str
    """The utterances as they were said. Where all query ids are CONVERSATION_TURN, such as `cast21_106_3`, the earlier
    turns of the conversation are the history."""
    history: bool = True
    """False takes every query by itself, whatever its id looks like."""
    human: str | None = None
    """A task with people's rewrites under the same query ids."""
    retrievers: Annotated[list[str], Field(min_length=1)] = ["bm25"]
    """`bm25`, or a bi-encoder: a model or an embedding adapter."""
    split: str = "test"
    max_queries: Positive | None = None
    """Only so many judged queries of each split, chosen by the hash of their ids."""


class RewriteDev(LlmDev):
    """How training is watched on dev, which is cut from the training turns by conversation."""

    metric: Literal["token_f1", "exact_match", "loss"] = "loss"
    """`loss` is quick; the others write a rewrite of every dev turn each time."""
    share: Annotated[Share, Field(gt=0)] = 0.1
    """Of the turns, whole conversations together."""
    max_examples: Positive = 300


class RewriteRecipe(LlmRecipe):
    """LoRA or QLoRA for a rewriter, which learns from people's rewrites, or from what its own rewrites find."""

    kind: Literal["rewrite"] = "rewrite"
    train: list[RewriteSource] = []
    """People's rewrites."""
    reward: RetrievalReward | None = None
    """A task whose labels say which rewrites are worth something, in place of people's rewrites."""
    start: str | None = None
    """With `reward`, the adapter of a rewriter that training begins with; null begins with the base."""
    abstain: AbstentionSpec | None = AbstentionSpec()
    """With `reward`, when a rewrite is used, as fitted on the task's dev split; null always uses it."""
    test: RetrievalTest | None = None
    """What base and tuned rewriter are searched with; null searches for nothing."""
    style: Literal["short", "search", "full"] = "short"
    """How much the prompt says. A tuned rewriter needs little, and every token costs. `search` asks for a search
    query, for single questions; `full` is for large models that are not tuned."""
    history_turns: NonNegative = 12
    """How many of the last turns are read, replies counted; titles are always read."""
    history_words: NonNegative = 160
    """How many words of history are read; the oldest turns are left out first."""
    reply_words: NonNegative = 32
    """How many words of each reply in the history are read, from its beginning; 0 leaves replies out."""
    max_new_tokens: Positive = 64
    """Of a rewrite."""
    dev: RewriteDev = RewriteDev()

    @model_validator(mode="after")
    def _one_teacher(self) -> Self:
        if bool(self.train) == (self.reward is not None):
            raise ValueError("learn from people's rewrites (`train`) or from a search (`reward`), one of the two")
        if self.reward is not None and self.test is not None:
            raise ValueError("with `reward`, the test split of its own task is measured: leave `test` out")
        if self.start is not None and self.reward is None:
            raise ValueError("`start` goes with `reward`")
        return self

    @model_validator(mode="after")
    def _room(self) -> Self:
        if self.max_new_tokens >= self.max_tokens:
            raise ValueError(
                f"max_new_tokens {self.max_new_tokens} leaves no room for a prompt in max_tokens {self.max_tokens}"
            )
        return self
