"""`LlmRecipe`: what the recipes of all stages that train a language model share."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec
from searchtune.specs.recipe import FEWEST_DEV, LoraMethod, Optimiser, Positive, ProbeTexts


class LlmDev(Spec):
    """How training is watched on the dev split."""

    metric: str = "loss"
    """The figure by which the best weights are known; the stage says which there are."""
    times: Annotated[int, Field(ge=0)] = 2
    """How many times dev is scored, evenly over the run, the end included; 0 never, and the last weights are kept."""
    max_examples: Positive = 400
    """At most so many dev examples are scored, chosen by the hash of their ids."""
    min_queries: Annotated[int, Field(ge=0)] = FEWEST_DEV
    """With fewer dev queries (turns, questions) the last weights are kept, since chance would choose."""


class LlmRecipe(Spec):
    """LoRA for a causal language model. Stages add their `kind`, their data and their objective."""

    base: str
    """A causal language model: hub id, folder, GGUF file, or `package:NAME/path`."""
    revision: str | None = None
    """Hub revision; pin a commit for runs that others shall repeat."""
    max_tokens: Positive = 512
    """Prompt, and completion where there is one, together; passages lose their ends where a prompt is longer."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto` measures at start whether bf16 is faster here and falls back to float32."""
    quantise: Literal["none", "nf4"] = "none"
    """`nf4` loads the layers in 4 bits (QLoRA, Dettmers et al. 2023, arXiv:2305.14314)."""
    tokens_per_chunk: Positive = 8192
    """Tokens run at once; memory grows with it, results do not depend on it."""
    gradient_caching: bool | Literal["auto"] = "auto"
    """Run each chunk again in the backward pass so that one chunk's activations are in memory at a time; `auto` does so
    when a batch is larger than one chunk."""
    method: LoraMethod = LoraMethod(rank=16, alpha=32)
    optim: Optimiser = Optimiser(lr=2e-4, epochs=1, batch_size=16)
    dev: LlmDev = LlmDev()
    probe: ProbeTexts = "synthetic"
    """What the card's probe is made of: texts drawn from the tokenizer's vocabulary, or examples of the training data,
    which the adapter's folder then holds verbatim."""
    seed: int = 13

    @property
    def recompute(self) -> bool | None:
        """`gradient_caching` as objectives take it: None where it shall depend on the batch."""
        return None if self.gradient_caching == "auto" else self.gradient_caching

    @model_validator(mode="after")
    def _chunks(self) -> Self:
        if self.tokens_per_chunk < self.max_tokens:
            raise ValueError(
                f"tokens_per_chunk {self.tokens_per_chunk} is less than one text of max_tokens {self.max_tokens}"
            )
        return self
