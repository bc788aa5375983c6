"""`RetrievalReward` and `AbstentionSpec`: learning to rewrite from what searches find, and when not to rewrite."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.recipe import NonNegative, Positive, Share

Mode = Literal["replace", "append", "fuse"]
"""How a rewrite is searched: alone, behind the utterance, or apart and fused with the utterance's ranking."""


class PreferenceSpec(Spec):
    """How the better of two rewrites is learned (DPO, Rafailov et al. 2023, arXiv:2305.18290)."""

    beta: Annotated[float, Field(gt=0)] = 0.1
    """How strongly the model is held to the reference: the larger, the closer."""
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = 0.0
    """The share of pairs that are taken to be the wrong way round (Mitchell 2023, conservative DPO)."""
    sft_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the better rewrite's mean negative log-likelihood (Pang et al. 2024, arXiv:2404.19733). Rewrites that
    were made from documents are not the model's own: without it the model learns what to avoid and not what to say."""
    reference: Literal["start", "base"] = "start"
    """What gains are measured from: the model as preference training finds it, or the base without any adapter. The
    two are the same where training starts from nothing."""


class RetrievalReward(Spec):
    """Candidates for every training query, what each finds, and how the difference is learned."""

    task: str
    """A task name, task file or BEIR folder. No human rewrite is needed."""
    split: Literal["train"] = "train"
    """Whose labels reward. Those of dev and test never do."""
    retrievers: Annotated[list[str], Field(min_length=1)] = ["bm25"]
    """`bm25`, a bi-encoder (hub id, folder, `package:NAME/path`) or an embedding adapter; several are fused by
    reciprocal rank."""
    metric: str = "ndcg@10"
    """The reward, of one query's ranking: any ranking metric, such as `ndcg@10`, `recall@100` or `mrr@10`."""
    mode: Mode = "append"
    """How a candidate is searched; the rewriter must be used in the same way."""
    depth: Positive = 100
    """How deep a candidate is searched, and how much of each ranking is fused."""
    samples: NonNegative = 6
    """Candidates drawn from the model for each query, beside its likeliest rewrite."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Of the draws; the recipe's `max_new_tokens` bounds their length."""
    from_documents: bool = False
    """Also try rewrites made from the relevant documents of the training split: with words of a query's own document
    that other training pairs let one guess from the query, and with the best guesses as such (see
    `data/candidates.py`). They give a small model something good to learn from where its own candidates are poor."""
    document_words: Positive = 4
    """How many words such a rewrite takes from a document."""
    keep_original: bool = True
    """Whether the utterance itself is a candidate, so that the model can learn to leave it as it is."""
    min_margin: Annotated[float, Field(gt=0, le=1)] = 0.1
    """The least difference in reward between the better and the worse rewrite of a pair."""
    pairs_per_query: Positive = 2
    """Best against worst, second best against second worst, ..."""
    max_queries: Positive | None = None
    """Only so many training queries, chosen by the hash of their ids."""
    warm_start: NonNegative = 1
    """Epochs over each query's best rewrite before preferences are learned; 0 leaves this out."""
    preference: PreferenceSpec = PreferenceSpec()

    @model_validator(mode="after")
    def _candidates(self) -> Self:
        if self.samples + self.from_documents + self.keep_original < 1:
            raise ValueError("nothing to compare a rewrite with: set samples, from_documents or keep_original")
        return self


class AbstentionSpec(Spec):
    """When a rewrite is used and when the utterance stays, as learned on dev."""

    features: list[str] | None = None
    """Names of what the decision is made from (see `metrics/gain_prediction.py`); null takes all there is."""
    aim: Literal["gain", "harm"] = "gain"
    """`gain` uses a rewrite where that makes the mean on dev greatest; `harm` does too, among the thresholds under
    which at most `max_harmed` of the queries become worse."""
    max_harmed: Share = 0.05
    certainty: Annotated[float, Field(ge=0.5, lt=1)] = 0.9
    """How sure dev must be of a gain above 0, one-sided, before any rewrite is used at all."""
    folds: Annotated[int, Field(ge=2)] = 5
    """Parts of dev: each is decided on by a model and a threshold that come from the others."""
    seed: int = 13
