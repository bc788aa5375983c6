"""`RerankRecipe`: how a reranker is trained. One YAML file under `configs/rerank/` is one recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.recipe import FEWEST_DEV, HardNegatives, LoraMethod, Optimiser, Positive, ProbeTexts
from searchtune.specs.suite import Bm25System, DenseSystem, FusionSystem, System, SystemName

Depth = Annotated[int, Field(ge=1, le=1000)]


class RankNegatives(HardNegatives):
    """Negatives taken from the first stage at the ranks that will be reranked."""

    per_query: Positive = 5
    first_rank: Positive = 1
    last_rank: Positive = 50
    margin: Annotated[float, Field(ge=0, lt=1)] = 0.0
    system: SystemName | None = None
    """The system of the first stage whose ranking they are taken from; null takes the one that is reranked. A dense
    system whose `model` is an adapter mines with the tuned retriever: train that one first, then name it here."""


class RankingObjective(Spec):
    """What a group (one query, some documents) is trained towards."""

    name: Literal["bce", "regression", "margin", "softmax", "lambda", "margin-mse", "kl"] = "softmax"
    """`bce` judges each pair alone; `regression` fits grades; `margin` orders pairs (RankNet, Burges et al. 2005);
    `softmax` finds each positive among the negatives (ListNet's top-one, Cao et al. 2007); `lambda` weighs pairs by
    what they move in nDCG (LambdaLoss, Wang et al. 2018); the last two distil a teacher (Hofstaetter et al. 2020,
    arXiv:2010.02666)."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    negatives: RankNegatives = RankNegatives()
    positives_per_query: Positive = 4
    """How many of a query's positives one epoch draws at most."""
    teacher: str | None = None
    """A TREC run file with the teacher's score of every pair in a group; `margin-mse` and `kl` need it."""

    @model_validator(mode="after")
    def _teacher(self) -> Self:
        distils = self.name in ("margin-mse", "kl")
        if distils and self.teacher is None:
            raise ValueError(f"{self.name} learns from a teacher: name a TREC run file as objective.teacher")
        if not distils and self.teacher is not None:
            raise ValueError(f"{self.name} does not use a teacher; take margin-mse or kl, or leave teacher out")
        return self


class RerankDev(Spec):
    """How training is watched, and what is fitted on dev afterwards."""

    metric: str = "ndcg@10"
    times: Annotated[int, Field(ge=0)] = 2
    """How many times dev is reranked during training, the end included; 0 never, and the last weights are kept."""
    max_queries: Positive = 100
    """At most so many dev queries are reranked while training, chosen by the hash of their id."""
    min_queries: Annotated[int, Field(ge=0)] = FEWEST_DEV
    """With fewer dev queries the last weights are kept, since chance would choose."""
    fit_queries: Positive = 400
    """The same for what is fitted afterwards: the blend, the early exit and the calibration."""


class RerankRecipe(Spec):
    """LoRA for a cross-encoder, or for the yes/no logits of a causal language model."""

    kind: Literal["rerank"] = "rerank"
    task: str
    """A name under `tasks/`, a task file, or a BEIR folder."""
    base: str
    """A cross-encoder, an encoder without a head (a new one is trained), or a causal language model: hub id, folder, or
    `package:NAME/path`."""
    revision: str | None = None
    head: Literal["classifier", "yes-no"] | None = None
    """Null takes `yes-no` for a causal language model and `classifier` for others."""
    template: str | None = None
    """Text around `{query}` and `{document}`; null leaves it to the tokenizer, or takes our question for `yes-no`."""
    first_stage: Annotated[dict[SystemName, System], Field(min_length=1)]
    """What is reranked, written as in a suite; the last system's ranking is, the others may be fused in it."""
    depth: Depth = 50
    """How many documents of each ranking are reranked, and how deep training looks for negatives on dev and test."""
    sweep: list[Depth] = [10, 20, 50]
    """Depths that the report compares, with what they cost."""
    train_on: Literal["train", "train+dev"] = "train"
    max_train_queries: Positive | None = None
    """At most so many training queries are used, chosen by the hash of their id; null uses all."""
    max_test_queries: Positive | None = None
    """The same for the queries that the report measures: a language model reads every pair of them twice."""
    max_tokens: Positive = 256
    """Query, document and what stands around them together."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    quantise: Literal["none", "nf4"] = "none"
    """`nf4` loads the base's layers in 4 bits, whichever the head (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""
    tokens_per_chunk: Positive = 8192
    gradient_caching: bool | Literal["auto"] = "auto"
    """Score each chunk again in the backward pass so that one chunk's activations are in memory at a time; `auto` does
    so when a batch is larger than one chunk."""
    method: LoraMethod = LoraMethod(rank=32, alpha=64)
    objective: RankingObjective = RankingObjective()
    optim: Optimiser = Optimiser(batch_size=32)
    dev: RerankDev = RerankDev()
    probe: ProbeTexts = "synthetic"
    """What the card's probe is made of: texts drawn from the tokenizer's vocabulary, or queries and documents of the
    training data, which the adapter's folder then holds verbatim."""
    seed: int = 13

    @property
    def reranked(self) -> str:
        """The name of the system whose ranking is reranked."""
        return list(self.first_stage)[-1]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        earlier: list[str] = []
        for name, system in self.first_stage.items():
            if not isinstance(system, Bm25System | DenseSystem | FusionSystem):
                raise ValueError(f"first_stage.{name} must be bm25, dense or fusion, so that train can be ranked too")
            if isinstance(system, FusionSystem):
                unknown = [part for part in system.of if part not in earlier]
                if unknown:
                    raise ValueError(f"first_stage.{name} fuses {unknown[0]!r}, which is not before it: {earlier}")
                if system.weights == "dev":
                    raise ValueError(f"first_stage.{name}: give fusion weights as numbers")
            earlier.append(name)
        miner = self.objective.negatives.system
        if miner is not None and miner not in self.first_stage:
            raise ValueError(f"objective.negatives.system names {miner!r}, but first_stage has {earlier}")
        if self.sweep != sorted(set(self.sweep)) or (self.sweep and self.sweep[-1] > self.depth):
            raise ValueError(f"sweep {self.sweep} must rise, without repeats, up to the depth {self.depth}")
        return self
