"""`EmbedRecipe`: how an embedding adapter is trained. One YAML file under `configs/embed/` is one recipe."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec

Positive = Annotated[int, Field(gt=0)]
NonNegative = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, lt=1)]


ProbeTexts = Literal["synthetic", "data"]
FEWEST_DEV = 10
"""Dev queries (turns, questions) that it takes to choose between weights. Below six, no difference between two of them
could reach the 5 % level of a paired test, whatever they find; of a few more, ties leave too few."""


class LoraMethod(Spec):
    """LoRA (Hu et al. 2021, arXiv:2106.09685) as peft builds it."""

    name: Literal["lora"] = "lora"
    rank: Positive = 16
    alpha: Annotated[float, Field(gt=0)] = 32
    dropout: Share = 0.0
    """Dropout on the adapter's input. 0 is faster on a CPU and, on these short runs, no worse."""
    target_modules: list[str] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get an adapter, or all of them."""
    top_layers: Positive | None = None
    """Adapt only the last so many transformer layers; null adapts every layer."""
    rslora: bool = False
    """Scale by alpha / sqrt(rank) instead of alpha / rank (Kalajdzievski 2023, arXiv:2312.03732)."""
    dora: bool = False
    """Train the length of each weight column apart from its direction (Liu et al. 2024, arXiv:2402.09353); slower."""


class HardNegatives(Spec):
    """Negatives mined once with the base model before training."""

    per_query: NonNegative = 0
    """How many mined negatives each training pair carries; 0 mines none."""
    first_rank: Positive = 5
    """The best rank taken, counted from 1 among documents that are not relevant."""
    last_rank: Positive = 100
    margin: Share = 0.05
    """Skip documents whose score is above (1 - margin) x the positive's: they may be unlabelled positives
    (de Souza P. Moreira et al. 2024, NV-Retriever, arXiv:2407.15831)."""

    @model_validator(mode="after")
    def _window(self) -> Self:
        if self.last_rank < self.first_rank:
            raise ValueError(f"last_rank {self.last_rank} comes before first_rank {self.first_rank}")
        return self


class ContrastiveObjective(Spec):
    """InfoNCE with temperature over candidates (van den Oord et al. 2018, arXiv:1807.03748)."""

    name: Literal["contrastive"] = "contrastive"
    temperature: Annotated[float, Field(gt=0)] = 0.05
    candidates: Literal["batch", "positives", "corpus"] = "batch"
    """What the softmax runs over: the batch, every training positive, or the whole corpus.
    The last two need `side: query`, since they take document vectors that do not move."""
    symmetric: bool = True
    """Also find the query of each document (ignored when candidates are not the batch)."""
    hard_negatives: HardNegatives = HardNegatives()
    matryoshka: list[Positive] = []
    """Vector sizes that shall work when cut short, largest first (Kusupati et al. 2022, arXiv:2205.13147)."""
    positives_per_query: Positive = 4
    """How many of a query's positives one epoch draws at most."""


class Optimiser(Spec):
    """AdamW with linear warm-up and decay."""

    name: Literal["adamw", "adamw-8bit", "paged-adamw-8bit"] = "adamw"
    """The last two are bitsandbytes' (Dettmers et al. 2022, arXiv:2110.02861), for GPUs: state in 8 bits, and paged out
    to the host's memory where the GPU's is short."""
    lr: Annotated[float, Field(gt=0)] = 1e-3
    epochs: Positive = 2
    min_steps: NonNegative = 20
    """Epochs are raised until the run has so many steps, and the run says so: in fewer an adapter hardly leaves its
    start. 0 keeps `epochs` as they are."""
    batch_size: Annotated[int, Field(ge=2)] = 64
    """Training pairs in one optimiser step, over all processes together."""
    warmup: Share = 0.1
    """Share of the steps over which the learning rate rises."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    lora_plus_ratio: Annotated[float, Field(ge=1)] = 1.0
    """Learning rate of LoRA's B over that of A (Hayou et al. 2024, LoRA+, arXiv:2402.12354)."""
    lora_fa: bool = False
    """Keep LoRA's A as it was drawn and train B alone (Zhang et al. 2023, arXiv:2308.03303): fewer activations are
    kept, and half of the gradients and of the optimiser's state fall away."""
    checkpoint_every: Positive = 50
    """Steps between checkpoints."""
    keep_checkpoints: Positive = 2

    def epochs_for(self, steps_per_epoch: int) -> int:
        """Epochs that are trained where one has so many steps."""
        return max(self.epochs, -(-self.min_steps // max(1, steps_per_epoch)))

    @model_validator(mode="after")
    def _rates(self) -> Self:
        if self.lora_fa and self.lora_plus_ratio != 1.0:
            raise ValueError("lora_fa trains B alone, so lora_plus_ratio compares it with nothing; raise lr instead")
        return self


class DevEvaluation(Spec):
    """How training is watched on the dev split."""

    metric: str = "ndcg@10"
    times: NonNegative = 4
    """How many times dev is scored, evenly over the run, the end included; 0 never, and the last weights are kept."""
    max_queries: Positive = 300
    """At most so many dev queries are scored, chosen by the hash of their id."""
    min_queries: NonNegative = FEWEST_DEV
    """With fewer dev queries nothing is chosen by them, since chance would: the last weights are kept."""
    strengths: Annotated[list[Annotated[float, Field(gt=0, le=1)]], Field(min_length=1)] = [1.0]
    """Shares of the trained change that are tried on dev at the end; the best is kept, the first of equals.
    Half-way between base and tuned weights is often better on what training never saw (Wortsman et al. 2021, WiSE-FT,
    arXiv:2109.01903)."""


class EmbedRecipe(Spec):
    """Contrastive LoRA for a bi-encoder."""

    kind: Literal["embed"] = "embed"
    task: str
    """A name under `tasks/`, a task file, or a BEIR folder."""
    base: str
    """A model: hub id, folder, or `package:NAME/path` for one inside an installed Python package."""
    revision: str | None = None
    """Hub revision; pin a commit for runs that others shall repeat."""
    train_on: Literal["train", "train+dev"] = "train"
    """`train+dev` puts dev back into training, for a last run with settings that dev has already chosen: nothing is
    scored on the way and the last weights are kept."""
    side: Literal["both", "query"] = "both"
    """`both` adapts one encoder for queries and documents; `query` adapts queries only and keeps the document index."""
    frozen_prefix: bool = False
    """Cache the hidden states below the adapted layers once and train from the cache (needs method.top_layers)."""
    prefix_cache: Literal["memory", "disk"] = "memory"
    """Where that cache lies; it takes 2 x hidden size bytes for every token of the collection."""
    max_tokens: Positive = 256
    """Documents are cut at this many tokens, at training and at inference."""
    query_max_tokens: Positive | None = None
    """The same for queries; null means `max_tokens`."""
    train_max_tokens: Positive | None = None
    """A shorter cut while training, to save time; null means `max_tokens`. Not with frozen_prefix."""
    query_prompt: str | None = None
    """Text put before every query; null takes the base model's own, if it has one."""
    document_prompt: str | None = None
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """`auto` measures at start whether bf16 is faster here and falls back to float32."""
    tokens_per_chunk: Positive = 16384
    """Tokens encoded at once; memory grows with it, results do not depend on it."""
    gradient_caching: bool | Literal["auto"] = "auto"
    """Re-encode each chunk in the backward pass so that one chunk's activations are in memory at a time
    (Gao et al. 2021, arXiv:2101.06983); `auto` does so when a batch is larger than one chunk."""
    method: LoraMethod = LoraMethod()
    objective: ContrastiveObjective = ContrastiveObjective()
    optim: Optimiser = Optimiser()
    dev: DevEvaluation = DevEvaluation()
    probe: ProbeTexts = "synthetic"
    """What the card's probe is made of: texts drawn from the tokenizer's vocabulary, or queries and documents of the
    training data, which the adapter's folder then holds verbatim."""
    seed: int = 13

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.frozen_prefix and self.method.top_layers is None:
            raise ValueError("frozen_prefix needs method.top_layers: the layers above the cache")
        if self.frozen_prefix and self.train_max_tokens is not None:
            raise ValueError("frozen_prefix caches states at max_tokens; leave train_max_tokens out")
        if self.side == "both" and self.objective.candidates != "batch":
            raise ValueError(f"objective.candidates {self.objective.candidates!r} needs side: query")
        if self.method.dora and self.dev.strengths != [1.0]:
            raise ValueError("method.dora has no half-way: leave dev.strengths at [1.0]")
        if self.train_on == "train+dev" and self.dev.strengths != [self.dev.strengths[0]]:
            raise ValueError("train_on: train+dev leaves no dev to choose among dev.strengths; give one")
        sizes = self.objective.matryoshka
        if sizes != sorted(set(sizes), reverse=True):
            raise ValueError(f"objective.matryoshka {sizes} must fall, without repeats")
        return self
