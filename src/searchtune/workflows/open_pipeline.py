"""From a pipeline's YAML to a chain that runs: every stage opened in both settings, on and off."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from searchtune.data.tasks import load_task, open_collection
from searchtune.models.identity import identify_generator
from searchtune.models.precision import device_type, dtype_name
from searchtune.pipeline.chain import Chain, Switch
from searchtune.pipeline.stages import (
    Answering,
    Dense,
    Fused,
    Judging,
    PairReranker,
    Quoting,
    Retrieval,
    Rewriting,
    Words,
)
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.retrieval.dense import DenseIndex
from searchtune.retrieval.gain_rule import Deciding
from searchtune.specs.base import apply_overrides, parse_spec, read_yaml
from searchtune.specs.card import FittedBlend
from searchtune.specs.pipeline import PipelineSpec, RetrieveStage
from searchtune.specs.reward import Mode as RewriteMode
from searchtune.storage.assets import find_asset
from searchtune.storage.fingerprint import sha256_json
from searchtune.types import Collection
from searchtune.workflows.encode import encode_texts, open_encoder
from searchtune.workflows.open_reranker import OpenReranker, open_reranker
from searchtune.workflows.pipeline_llms import LanguageModels, find_roles, make_answerer, make_judge, make_rewriter
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.retriever_identity import dense_identity, fused_identity, words_identity
from searchtune.workflows.rewrite_settle import Kind, Searched, Settled, Wishes, settle_use
from searchtune.workflows.sources import check_sources

_RERANKED = 50
"""Documents that a reranker reorders where neither pipeline nor card says."""


@dataclass(frozen=True)
class OpenPipeline:
    """A pipeline ready to run."""

    name: str
    spec: PipelineSpec
    collection: Collection
    chain: Chain
    identity: Mapping[str, Any]
    """All that results depend on beside the turns: the collection, and each stage in both settings."""
    models: LanguageModels


def load_pipeline(name_or_path: str, *, overrides: Sequence[str] = ()) -> PipelineSpec:
    """A pipeline by path, or by name under `configs/pipeline/`; `overrides` are `dotted.key=value`.

    Raises:
        ConfigError: no such file, an unknown key, a value of the wrong type, or stages that do not fit together.
    """
    file = find_asset("configs/pipeline", name_or_path)
    return parse_spec(PipelineSpec, apply_overrides(read_yaml(file), overrides), str(file))


def open_pipeline(
    spec: PipelineSpec, *, name: str = "pipeline", cache: EmbeddingCache | None = None, progress: Progress = SILENT
) -> OpenPipeline:
    """Open every stage of a pipeline.

    Raises:
        ArtifactError: an adapter is damaged, of another kind than its stage, or its base is another one.
        ConfigError, DataError, ModelError: what cannot be opened.
    """
    check_sources(spec)
    collection = open_collection(load_task(spec.task))
    models = LanguageModels(find_roles(spec), spec)
    identity: dict[str, Any] = {"collection": collection.fingerprint}
    progress.stage(f"{collection.name}: retrieve")
    retriever, found = _retrieve(spec, collection, cache)
    identity["retrieve"] = {**{"on" if on else "off": it for on, it in found.items()}, "depth": spec.retrieve.depth}
    reranker = None
    if spec.rerank is not None:
        progress.stage(f"{collection.name}: rerank")
        reranker, identity["rerank"] = _rerank(spec, collection)
    if models.roles:
        progress.stage("language models")
        identity |= _identify(spec, models)
    rewriting = _rewrite(spec, models, found, progress)
    identity["rewriting"] = rewriting.identity
    answer, judge = spec.answer, spec.judge
    chain = Chain(
        doc_ids=collection.doc_ids,
        documents=_read_by(models, "answer", collection),
        retriever=retriever,
        rewriter=rewriting.stage,
        reranker=reranker,
        answerer=_answer(spec, models),
        judge=None if judge is None else Switch[Judging](make_judge(models), default=judge.on),
        mode=rewriting.mode,
        abstention=rewriting.abstention(collection.documents),
        depth=spec.retrieve.depth,
        passages=1 if answer is None else answer.passages,
        judged=1 if judge is None else judge.passages,
        judged_documents=_read_by(models, "judge", collection),
        meters={
            "rewrite": models.meter("rewrite"),
            "answer": models.meter("answer", "answer_base"),
            "judge": models.meter("judge"),
        },
    )
    return OpenPipeline(name, spec, collection, chain, identity, models)


def _retrieve(
    spec: PipelineSpec, collection: Collection, cache: EmbeddingCache | None
) -> tuple[Switch[Retrieval], dict[bool, dict[str, Any]]]:
    """The retriever with its adapter and with its base, and the identity of each (see `OpenRetrieval`)."""
    stage = spec.retrieve
    words = Words(BM25Index(collection.documents)) if stage.words else None
    tuned = stage.adapter or stage.base
    on, identity = _retriever(tuned, words, spec, collection, cache)
    base = _base_of(stage)
    off, identity_off = (on, identity) if base == tuned else _retriever(base, words, spec, collection, cache)
    return Switch(on, off, stage.on), {True: identity, False: identity_off}


def _base_of(stage: RetrieveStage) -> str | None:
    """The bi-encoder without the adapter; None where only words are searched for."""
    if stage.base is not None or stage.adapter is None:
        return stage.base
    from searchtune.models.cards import read_card
    from searchtune.specs.card import adapter_folder

    return read_card(adapter_folder(stage.adapter)).base


def _retriever(
    model: str | None, words: Words | None, spec: PipelineSpec, collection: Collection, cache: EmbeddingCache | None
) -> tuple[Retrieval, dict[str, Any]]:
    parts: list[Retrieval] = [] if words is None else [words]
    identities = [] if words is None else [words_identity()]
    if model is not None:
        encoder = open_encoder(model, precision=spec.precision)
        vectors, _ = encode_texts(encoder.documents, encoder.reads(collection).documents, cache)
        parts.append(Dense(encoder.queries.encode, DenseIndex(vectors)))
        identities.append(dense_identity(encoder))
    return (parts[0], identities[0]) if len(parts) == 1 else (Fused(parts), fused_identity(identities))


def _rerank(spec: PipelineSpec, collection: Collection) -> tuple[Switch[Any], dict[str, Any]]:
    """The reranker with its adapter, and what stands in for it."""
    stage = spec.rerank
    assert stage is not None
    sides: dict[str, tuple[PairReranker, dict[str, Any]]] = {}
    for name in (stage.adapter, stage.base):
        if name is not None:
            opened = open_reranker(name, precision=spec.precision)
            sides[name] = _pair_reranker(opened, collection, stage.depth, spec.retrieve.depth)
    tuned = stage.adapter or stage.base
    assert tuned is not None
    on, identity = sides[tuned]
    off, identity_off = sides[stage.base] if stage.adapter and stage.base else (None, None)
    return Switch(on, off, stage.on), {"on": identity, "off": identity_off}


def _pair_reranker(
    opened: OpenReranker, collection: Collection, depth: int | None, most: int
) -> tuple[PairReranker, dict[str, Any]]:
    card = opened.card
    settled = min(depth or (_RERANKED if card is None else card.depth), most)
    blend: FittedBlend | None = None if card is None else card.blend
    identity = {**opened.key.fields, "depth": settled, "blend": None if blend is None else blend.model_dump()}
    return PairReranker(opened.load(), opened.reads(collection).documents, settled, blend), identity


@dataclass(frozen=True)
class _Rewriting:
    """The stage that rewrites, and how it is used: by whether the retriever is on."""

    stage: Switch[Rewriting] | None
    uses: Mapping[bool, Settled]

    @property
    def mode(self) -> RewriteMode:
        return self.uses[True].mode if self.uses else "replace"

    @property
    def identity(self) -> dict[str, Any]:
        rules = [use.abstention and use.abstention.to_json() for _, use in sorted(self.uses.items())]
        return {"mode": self.mode, "rules": sha256_json(rules)}

    def abstention(self, documents: Sequence[str]) -> Switch[Deciding] | None:
        """The rules over a corpus; None where every rewrite is used."""
        if not any(use.abstention for use in self.uses.values()):
            return None
        return Switch[Deciding](self.uses[True].rule(documents), self.uses[False].rule(documents))


def _rewrite(
    spec: PipelineSpec, models: LanguageModels, retrievers: Mapping[bool, Mapping[str, Any]], progress: Progress
) -> _Rewriting:
    """The rewriter, and what its card says of the retriever in either setting. Wishes are for the one by default."""
    stage = spec.rewrite
    if stage is None:
        return _Rewriting(None, {})
    rewriter = make_rewriter(models, stage.max_new_tokens)
    kinds: dict[str, Kind] = {"bm25": "bm25", "dense": "dense", "rrf": "mixed"}
    searched = {on: Searched(kinds[it["what"]], it, spec.retrieve.depth) for on, it in retrievers.items()}
    usual = spec.retrieve.on
    own = settle_use(rewriter, searched[usual], Wishes(stage.mode, stage.abstain), where="rewrite")
    wishes = Wishes(own.mode, None if stage.abstain else stage.abstain)
    where = f"rewrite, retrieve {'off' if usual else 'on'}"
    other = settle_use(rewriter, searched[not usual], wishes, where=where)
    for note in (own.note, other.note if own.abstention is not None and retrievers[True] != retrievers[False] else ""):
        if note:
            progress.note(note)
    if not own.never:
        _ = rewriter.backend  # loaded now, so that the first query need not wait; one that is never asked is not
    return _Rewriting(Switch(rewriter, None, stage.on), {usual: own, not usual: other})


def _answer(spec: PipelineSpec, models: LanguageModels) -> Switch[Answering] | None:
    """The answerer with its adapter, and its base or a quotation."""
    stage = spec.answer
    if stage is None:
        return None
    quoting = Quoting()
    by_base: Callable[[], Answering] = lambda: make_answerer(models, "answer_base", stage.max_new_tokens)  # noqa: E731
    if stage.adapter is None:
        return Switch(quoting if stage.base is None else by_base(), quoting, stage.on)
    tuned = make_answerer(models, "answer", stage.max_new_tokens)
    return Switch(tuned, quoting if stage.base is None else by_base(), stage.on)


def _read_by(models: LanguageModels, role: str, collection: Collection) -> Sequence[str]:
    """The documents as the adapter in a role was trained to read them; without one, as the task says."""
    card = models.roles[role].card if role in models.roles else None
    return collection.read_as(None if card is None else card.doc_template).documents


def _identify(spec: PipelineSpec, models: LanguageModels) -> dict[str, Any]:
    """What the language models' results depend on: weights, adapters and the stages' settings."""
    dtype = dtype_name(spec.precision, device_type())
    found: dict[str, Any] = {}
    for name, role in models.roles.items():
        quantise = spec.quantise or ("none" if role.card is None else role.card.quantise)
        found[name] = {
            **identify_generator(role.root, adapter=role.adapter, quantise=quantise, dtype=dtype),
            "prompt": None if role.card is None else [role.card.prompt, role.card.prompt_version],
        }
    for stage in ("rewrite", "answer", "judge"):
        settings = getattr(spec, stage)
        if settings is not None:
            found[f"{stage}_settings"] = settings.model_dump(mode="json", exclude={"adapter", "base", "on"})
    return found
