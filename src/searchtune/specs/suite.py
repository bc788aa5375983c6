"""`SuiteSpec`: which systems are measured on which tasks, by which metrics. One file under `eval/suites/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from searchtune.specs.base import Spec

Positive = Annotated[int, Field(gt=0)]
SystemName = Annotated[str, Field(pattern=r"^[\w.+-]+$")]
"""Letters, digits, `_ . + -`: names become table rows and file names."""


class IndexSpec(Spec):
    """How document vectors are searched."""

    kind: Literal["exact", "flat", "ivf", "hnsw", "pq", "sq", "factory"] = "flat"
    """`flat` is FAISS's exact index, `exact` the reference on arrays; of the others the report states the loss."""
    params: dict[str, int | str] = {}
    """Settings of that kind, such as `lists` and `probes` of `ivf`; see `retrieval/faiss_index.py`."""
    save: str | None = None
    """A folder that keeps the index: it is written where there is none, and mapped instead of built where there is one
    of the same encoder, documents and settings; one of others is refused. `{task}` stands for the task's name."""


class Bm25System(Spec):
    """Ranks by words."""

    kind: Literal["bm25"]


class DenseSystem(Spec):
    """Ranks by the vectors of a bi-encoder."""

    kind: Literal["dense"]
    model: str
    """A base model (hub id, folder, `package:NAME/path`), or an adapter folder or run folder of searchtune."""
    revision: str | None = None
    max_tokens: Positive | None = None
    """Texts are cut here; null takes the model's own length. Not for an adapter, whose card settles it."""
    query_prompt: str | None = None
    document_prompt: str | None = None
    dimensions: Positive | None = None
    """Keep so many components of every vector, the first ones: a size that a Matryoshka adapter was trained for, or any
    of a base. Null keeps all."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """What the model computes in; `auto` takes bf16 where it is faster."""
    index: IndexSpec = IndexSpec()


class FusionSystem(Spec):
    """Fuses the runs of systems named earlier."""

    kind: Literal["fusion"]
    of: Annotated[list[str], Field(min_length=2)]
    method: Literal["rrf", "combsum", "combmnz", "combmax"] = "rrf"
    normalisation: Literal["none", "min-max", "z-score", "rank"] = "min-max"
    weights: list[Annotated[float, Field(ge=0)]] | Literal["dev"] | None = None
    """One a system, or `dev`: fitted on dev by the headline metric (for `rrf`, its k is)."""


class RerankSystem(Spec):
    """Reorders the top of a system named earlier."""

    kind: Literal["rerank"]
    of: str
    """The system whose ranking is reranked."""
    model: str
    """A reranker's adapter folder or run folder, or a cross-encoder (hub id, folder, `package:NAME/path`)."""
    depth: Positive = 50
    """How many documents of each ranking are reranked."""
    sweep: list[Positive] = []
    """Further depths, shallower than `depth`, that the report compares with what they cost."""
    blend: bool = True
    """Weigh the first stage's scores in, where the adapter's card says how."""
    early_exit: bool = False
    """Stop going down a ranking as the adapter's card says."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"

    @property
    def depths(self) -> list[int]:
        """All depths, rising."""
        return sorted({*self.sweep, self.depth})


class RewriteSystem(Spec):
    """Puts a rewriter of queries in front of a system named earlier."""

    kind: Literal["rewrite"]
    model: str
    """A rewriter's adapter folder or run folder, or a language model (hub id, folder, `package:NAME/path`)."""
    of: str
    """The system that searches: `bm25`, `dense`, or a `fusion` or `rerank` of such."""
    mode: Literal["replace", "append", "fuse"] | None = None
    """Search with the rewrite alone, with utterance and rewrite as one query, or with each and fuse the rankings; null
    takes what the adapter's card says is best for this retriever, and `replace` where it says nothing."""
    abstain: bool | None = None
    """Use a rewrite only where the adapter's card expects a gain, and rank for the query as it is elsewhere. Null does
    so where the card has a rule; one that was fitted for another retriever or mode expects no gain here. True insists
    on a rule for this one, false uses every rewrite."""
    history: bool = True
    """Read the earlier turns of a conversation, where all query ids of the task are CONVERSATION_TURN."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    endpoint: str | None = None
    """An OpenAI-compatible address, such as http://localhost:8000/v1, that has the model called `model`."""
    key_variable: str | None = None
    """The environment variable that holds the key of that address."""
    max_tokens: Positive | None = None
    """Stop asking that address when so many tokens are used."""

    @model_validator(mode="after")
    def _far_or_near(self) -> Self:
        far = [name for name in ("key_variable", "max_tokens") if getattr(self, name) is not None]
        if far and self.endpoint is None:
            raise ValueError(f"{far[0]} belongs to an endpoint: name one, or leave it out")
        if self.endpoint is not None and self.precision != "auto":
            raise ValueError("precision belongs to a model on this machine: leave it out beside an endpoint")
        return self


class RunSystem(Spec):
    """A ranking made elsewhere."""

    kind: Literal["run"]
    file: str
    """A TREC run file, plain or .gz; `{task}` stands for the task's name. A query that it lacks is an empty ranking."""
    unknown_documents: Literal["fail", "skip"] = "fail"
    """Refuse a file that ranks documents which the collection lacks, or leave those out."""


System = Annotated[
    Bm25System | DenseSystem | FusionSystem | RerankSystem | RewriteSystem | RunSystem, Field(discriminator="kind")
]


class SuiteSpec(Spec):
    """Tasks x systems x metrics."""

    name: str
    description: str = ""
    tasks: Annotated[list[str], Field(min_length=1)]
    """Names under `tasks/`, task files, BEIR folders or `irds:` ids."""
    split: str = "test"
    systems: Annotated[dict[SystemName, System], Field(min_length=1)]
    """In the order in which the report shows them."""
    reference: str | None = None
    """The system that others are compared with; null takes the first."""
    compare: list[str] | None = None
    """The systems that are compared with the reference; null takes all others."""
    metrics: Annotated[list[str], Field(min_length=1)] = ["ndcg@10", "recall@10", "recall@100", "mrr@10"]
    """What is measured."""
    headline: str = "ndcg@10"
    """The one of `metrics` that the report's verdict, pictures, kinds of queries and examples are about."""
    depth: Positive = 100
    """Documents ranked for each query."""
    duplicates: Literal["apart", "as one"] = "apart"
    """Whether documents of equal text are scored as one."""
    seed: int = 13

    @property
    def baseline(self) -> str:
        """The name of the reference system."""
        return self.reference or next(iter(self.systems))

    @property
    def candidates(self) -> list[str]:
        """The systems that are compared with the reference."""
        return [name for name in self.systems if name != self.baseline] if self.compare is None else self.compare

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.headline not in self.metrics:
            raise ValueError(
                f"headline {self.headline!r}, which the report is about, is not among the metrics {self.metrics}: add "
                "it there, or choose one of them"
            )
        names = list(self.systems)
        for key, named in (("reference", [self.baseline]), ("compare", self.candidates)):
            for name in named:
                if name not in names:
                    raise ValueError(f"{key} names {name!r}, but the systems are {', '.join(names)}")
        if self.baseline in self.candidates:
            raise ValueError(f"compare names {self.baseline!r}, which is the reference itself")
        for place, (name, system) in enumerate(self.systems.items()):
            if isinstance(system, FusionSystem):
                _check_fusion(name, system, names[:place])
            if isinstance(system, RewriteSystem):
                _check_rewriting(name, system, names[:place], self.systems)
            if isinstance(system, RerankSystem) and system.of not in names[:place]:
                raise ValueError(
                    f"systems.{name} reranks {system.of!r}, which is not among the systems before it: {names[:place]}"
                )
            if isinstance(system, RerankSystem) and max(system.depths) > min(self.depth, system.depth):
                raise ValueError(
                    f"systems.{name}: depths {system.depths} go beyond its depth {system.depth} or that of the suite, "
                    f"{self.depth}"
                )
        return self


def made_of(systems: Mapping[str, System], name: str) -> list[str]:
    """A system and all that it is made of, in the order of the suite."""
    wanted, waiting = {name}, [name]
    while waiting:
        system = systems[waiting.pop()]
        parts = system.of if isinstance(system, FusionSystem) else [getattr(system, "of", "")]
        fresh = {part for part in parts if part} - wanted
        wanted |= fresh
        waiting += fresh
    return [one for one in systems if one in wanted]


def _check_rewriting(name: str, system: RewriteSystem, earlier: list[str], systems: Mapping[str, System]) -> None:
    if system.of not in earlier:
        raise ValueError(
            f"systems.{name} rewrites for {system.of!r}, which is not among the systems before it: {earlier}"
        )
    for part in made_of(systems, system.of):
        if isinstance(systems[part], RunSystem | RewriteSystem):
            raise ValueError(
                f"systems.{name} rewrites for {system.of!r}, but {part!r} is of kind {systems[part].kind}, which ranks "
                "nothing for other queries; name a system of bm25 and dense ones"
            )


def _check_fusion(name: str, system: FusionSystem, earlier: list[str]) -> None:
    for part in system.of:
        if part not in earlier:
            raise ValueError(f"systems.{name} fuses {part!r}, which is not among the systems before it: {earlier}")
    weights: Any = system.weights
    if isinstance(weights, list) and len(weights) != len(system.of):
        raise ValueError(f"systems.{name} fuses {len(system.of)} systems with {len(weights)} weights")
