"""`PipelineSpec`: the stages of a search as users run it, each with its adapter on or off. One file under
`configs/pipeline/`.

A stage that is left out (null) is not there. One that is `on: false` runs as it does without its adapter:

    rewrite   off: what was said
    retrieve  off: the base bi-encoder in place of the adapter
    rerank    off: the base reranker where one is named, else the order of the retrieval
    answer    off: the base language model where one is named, else the beginning of the best passage
    judge     off: nothing is judged
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.reward import Mode as RewriteMode

Positive = Annotated[int, Field(gt=0)]
StageName = Literal["rewrite", "retrieve", "rerank", "answer", "judge"]
STAGES: tuple[StageName, ...] = ("rewrite", "retrieve", "rerank", "answer", "judge")
"""In the order in which they run."""


class RewriteStage(Spec):
    """Puts what was said into a query that stands alone."""

    adapter: str | None = None
    """A rewriter's adapter folder or run folder; null takes `base` as it is."""
    base: str | None = None
    """The language model; null takes the adapter's own."""
    on: bool = True
    mode: RewriteMode | None = None
    """Search for the rewrite, for utterance and rewrite as one text, or for both and fuse the two rankings (RRF). Null
    takes what the adapter's card says is best for the retriever, and `replace` where it says nothing."""
    abstain: bool | None = None
    """Use a rewrite only where the adapter's card expects a gain, and what was said elsewhere. Null does so where the
    card has a rule; one that was fitted for another retriever or mode expects no gain here. True insists on a rule for
    this one, false uses every rewrite."""
    max_new_tokens: Positive | None = None
    """Null takes the rewriter's own."""


class RetrieveStage(Spec):
    """Finds documents by words, by vectors, or by both (RRF)."""

    adapter: str | None = None
    """An embedding adapter's folder or run folder."""
    base: str | None = None
    """The bi-encoder that is used when the stage is off, or where there is no adapter; null takes the adapter's own."""
    words: bool = False
    """Search by words (BM25) too, or alone where neither adapter nor base is named."""
    on: bool = True
    depth: Positive = 100
    """Documents handed on."""


class RerankStage(Spec):
    """Puts the top into a better order."""

    adapter: str | None = None
    """A reranker's adapter folder or run folder."""
    base: str | None = None
    """The reranker that is used when the stage is off, or where there is no adapter; null leaves the order as it is."""
    on: bool = True
    depth: Positive | None = None
    """Documents reordered; null takes what the adapter was trained for, or 50."""


class AnswerStage(Spec):
    """Writes an answer from the top passages."""

    adapter: str | None = None
    """An answerer's adapter folder or run folder."""
    base: str | None = None
    """The language model that answers when the stage is off, or where there is no adapter; null quotes the best passage
    there."""
    on: bool = True
    passages: Positive = 3
    """How many of the top documents it reads."""
    max_new_tokens: Positive | None = None
    """Null takes the answerer's own."""


class JudgeStage(Spec):
    """Grades the top passages."""

    adapter: str
    """A judge's adapter folder or run folder, or a language model."""
    on: bool = True
    passages: Positive = 3
    """How many of the top documents it grades."""


class PipelineSpec(Spec):
    """One file under `configs/pipeline/`."""

    kind: Literal["pipeline"] = "pipeline"
    task: str
    """A name under `tasks/`, a task file, or a BEIR folder: what is searched."""
    rewrite: RewriteStage | None = None
    retrieve: RetrieveStage
    rerank: RerankStage | None = None
    answer: AnswerStage | None = None
    judge: JudgeStage | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What models compute in; `auto` takes bf16 where it is faster."""
    quantise: Literal["none", "nf4"] | None = None
    """How language models are loaded; null takes what their adapters were trained on."""
    top: Positive = 10
    """Documents that a result lists."""
    seed: int = 13

    @property
    def present(self) -> tuple[StageName, ...]:
        """The stages that are there, in order."""
        return tuple(name for name in STAGES if getattr(self, name) is not None)

    @property
    def switches(self) -> dict[str, bool]:
        """Whether each stage that is there is on."""
        return {name: getattr(self, name).on for name in self.present}

    @property
    def tuned(self) -> tuple[StageName, ...]:
        """The stages whose on and off differ and that move what is found or answered: those with something to earn."""
        idle = {"judge"}
        if self.retrieve.adapter is None:
            idle.add("retrieve")
        if self.answer is not None and self.answer.adapter is None and self.answer.base is None:
            idle.add("answer")
        return tuple(name for name in self.present if name not in idle)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.rewrite is not None and self.rewrite.adapter is None and self.rewrite.base is None:
            raise ValueError("rewrite names neither adapter nor base; name one, or leave the stage out (rewrite: null)")
        if self.rerank is not None and self.rerank.adapter is None and self.rerank.base is None:
            raise ValueError("rerank names neither adapter nor base; name one, or leave the stage out (rerank: null)")
        where = self.retrieve
        if where.adapter is None and where.base is None and not where.words:
            raise ValueError("retrieve names neither adapter nor base, nor words: true; give it something to search by")
        for name, stage in (("rerank", self.rerank), ("answer", self.answer), ("judge", self.judge)):
            reach = None if stage is None else getattr(stage, "depth" if name == "rerank" else "passages")
            if reach is not None and reach > where.depth:
                raise ValueError(f"{name} looks at {reach} documents, and retrieve hands on {where.depth}: raise depth")
        if self.top > where.depth:
            raise ValueError(f"top {self.top} is beyond retrieve's depth {where.depth}")
        return self
