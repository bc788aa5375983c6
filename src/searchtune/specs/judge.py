"""`JudgeRecipe`: how a judge of relevance is trained. One YAML file under `configs/judge/` is one recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.llm import LlmDev, LlmRecipe
from searchtune.specs.recipe import Positive, Share


class PairSource(Spec):
    """Where pairs of query and passage come from: a file of pairs, or a task with its labels or with rankings."""

    file: str | None = None
    """JSON lines, plain or .gz, one pair each, with `query_id`, `query`, `doc_id` and `passage`. A relative path is
    looked for in the working directory, in `$SEARCHTUNE_DATA` and in `./datasets`."""
    grade_field: str | None = "human"
    """The field with the people's grade; null where the file has none."""
    judges_field: str | None = None
    """The field with what other judges said: an object of name -> grade."""
    task: str | None = None
    """A task name, task file or BEIR folder instead of a file."""
    split: str = "test"
    """Whose labels are taken from a task."""
    runs: list[str] = []
    """TREC run files over the task: then the pairs are their top `depth` instead of what is labelled."""
    depth: Positive = 10
    holes: bool = False
    """Of these, only pairs that nobody has judged."""
    as_grade: dict[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]] = {}
    """From the grades that are there to the rubric's, such as `{1: 3}` for a task that knows only relevant or not."""
    negatives: Annotated[int, Field(ge=0)] = 0
    """Where a task labels only what is relevant: so many of BM25's best unlabelled documents of each query are taken as
    grade 0."""
    max_queries: Positive | None = None
    """Only so many of the queries, chosen by the hash of their ids."""
    max_pairs: Positive | None = None
    """Only so many of the pairs, chosen by the hash of their ids: a random sample that stays the same."""

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.file is None) == (self.task is None):
            raise ValueError("name either a `file` of pairs or a `task`")
        if self.task is None and (self.runs or self.holes or self.negatives):
            raise ValueError("`runs`, `holes` and `negatives` belong to a `task`")
        if self.runs and self.negatives:
            raise ValueError("`negatives` go with the labels of a task, not with `runs`")
        if self.holes and not self.runs:
            raise ValueError("`holes` are looked for in `runs`: name at least one")
        return self


class OwnRubric(Spec):
    """A task's own grades."""

    name: str
    meanings: dict[int, str]
    """Grade -> when it applies, completing "the passage ...": 0, 1, 2, ... without a gap."""
    min_grade: Positive = 1
    """The lowest grade that counts as relevant."""
    version: Positive = 1


class JudgeDev(LlmDev):
    """How training is watched on dev, which is cut from the training pairs by query."""

    metric: Literal["kappa", "auc", "log_likelihood"] = "kappa"
    """`kappa` is Cohen's, relevant or not, at the threshold that is best on dev; `auc` the mean over queries of the
    share of pairs of a relevant and another passage that are in order; `log_likelihood` that of the person's grade."""
    share: Annotated[Share, Field(gt=0)] = 0.2
    """Of the queries."""
    max_examples: Positive = 1500


class JudgeRecipe(LlmRecipe):
    """LoRA or QLoRA for a judge that reads its grade off the labels' logits, or off the query's likelihood."""

    kind: Literal["judge"] = "judge"
    train: PairSource
    """Pairs that people graded."""
    more: list[PairSource] = []
    """Further pairs to train on, of tasks with many queries where `train` has few. Dev is cut from `train` alone."""
    test: PairSource | None = None
    """Pairs that base and tuned judge are measured on; null measures nothing."""
    rubric: str | OwnRubric = "umbrela"
    """`umbrela` (0-3), `binary`, or grades of one's own."""
    style: Literal["brief", "short", "full", "likelihood"] = "short"
    """How much the prompt says. A tuned judge needs little, and every token costs. `likelihood` asks for no grade, but
    reads from how likely the query is after the passage: a small model then knows much before it is tuned."""
    per_grade: Positive | None = None
    """Train on at most so many pairs of each grade, spread over the queries; null trains on all."""
    per_query: Annotated[int, Field(ge=2)] | None = None
    """Train on at most so many pairs of each query, as many relevant as not, so that the query alone says nothing about
    the grade; null trains on all."""
    centre: bool = False
    """Bring the queries of a job to one level before a threshold decides: for jobs that judge many passages of each
    query, whose labels then depend on all of these."""
    canary_share: Share = 0.0
    """Into so many of the training pairs that are not relevant a canary is planted, so that the judge learns not to
    follow what a passage says of itself. Another set of canaries than the ones that are measured."""
    canaries: Annotated[int, Field(ge=0)] = 110
    """How many test pairs are judged with a canary too."""
    dev: JudgeDev = JudgeDev()
