"""Cards: all that inference needs to know of an adapter, and what proves that it reloads as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import field_validator

from searchtune.errors import ConfigError
from searchtune.reading import user_path
from searchtune.specs.base import Spec
from searchtune.specs.task import check_template

CARD_FILE = "adapter_card.json"


class Probe(Spec):
    """Inputs encoded in float32 before the artifact was saved, and what came out."""

    queries: list[str]
    documents: list[str]
    vectors_file: str = "probe_vectors.npy"
    """Array (queries + documents, dim) float32, beside the card."""
    tolerance: float = 1e-5
    """Largest absolute difference of a component that still counts as the same."""


class PairProbe(Spec):
    """Pairs scored in float32 before the artifact was saved: `queries[i]` with `documents[i]`, and their scores."""

    queries: list[str]
    documents: list[str]
    scores_file: str = "probe_scores.npy"
    """Array (pairs,) float32, beside the card."""
    tolerance: float = 1e-5
    """Largest absolute difference of a score that still counts as the same: 1e-5 of the largest score, of the tokens of
    the longest completion, or of 1, whichever is most."""


class Card(Spec):
    """What the cards of all stages hold. Written beside the adapter's weights as `adapter_card.json`."""

    format: Literal[1] = 1
    name: str
    base: str
    """The base as the recipe names it."""
    revision: str | None
    base_weights_sha256: str
    """Hash over names, shapes and bytes of the base's weights: peft loads an adapter onto any base of that shape."""
    tokenizer_sha256: str
    max_tokens: int
    trainable_parameters: int
    recipe_sha256: str
    data_fingerprint: str
    train_positives_sha256: str
    """Hash over the ids of the documents that training saw as positives (`train_positives.json` lists them)."""
    metrics: dict[str, float]
    """Dev figures of the kept checkpoint."""
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""
    doc_template: str | None = None
    """How title and text of a document became the text that was trained on: whoever uses the adapter writes documents
    so. None where training had texts as they are, and on cards that are older than this key."""
    extra: dict[str, Any] = {}

    @field_validator("doc_template")
    @classmethod
    def _plain_template(cls, template: str | None) -> str | None:
        try:
            if template is not None:
                check_template(template)
        except ConfigError as error:
            raise ValueError(str(error)) from error
        return template


class AdapterCard(Card):
    """The card of an embedding adapter."""

    kind: Literal["embed"] = "embed"
    side: Literal["both", "query"]
    pooling: Literal["mean", "cls", "last", "max"]
    normalise: bool
    query_prompt: str
    document_prompt: str
    query_max_tokens: int
    dim: int
    matryoshka: list[int]
    probe: Probe


class FittedBlend(Spec):
    """How reranker and first stage are weighed together, as fitted on dev."""

    weight: float
    """Share of the reranker; the rest is the first stage's."""
    normalisation: Literal["none", "min-max", "z-score", "rank"]


class RerankerCard(Card):
    """The card of a reranker's adapter."""

    kind: Literal["rerank"] = "rerank"
    head: Literal["classifier", "yes-no"]
    template: str
    """Text around query and document; empty where the tokenizer's own special tokens stand around them. It is no chat
    template, and none is put around it."""
    quantise: Literal["none", "nf4"] = "none"
    """How the base was loaded when the adapter was trained."""
    depth: int
    """How many documents of a ranking it was trained to reorder."""
    blend: FittedBlend | None = None
    calibration: dict[str, Any] | None = None
    """From score to probability of relevance, as fitted on dev."""
    early_exit: dict[str, Any] | None = None
    """When to stop going down a ranking, as fitted on dev."""
    probe: PairProbe


class ProbePart(Spec):
    """A part of a message; a passage may be cut where the prompt is too long."""

    text: str
    passage: bool = False


class ProbeTurn(Spec):
    """One message of a probe."""

    role: Literal["system", "user", "assistant"]
    parts: list[ProbePart]


class ProbeExample(Spec):
    """A conversation, and the reply whose log-probability is taken where labels are not read."""

    turns: list[ProbeTurn]
    completion: str = ""


class ChatProbe(Spec):
    """Conversations run in float32 before the artifact was saved, and what came out."""

    examples: list[ProbeExample]
    scores_file: str = "probe_scores.npy"
    """Array float32, beside the card: (examples, labels) logits of the card's labels, or (examples, 1)
    log-probabilities of the completions where it has none."""
    tolerance: float = 1e-5
    """Largest absolute difference of a score that still counts as the same: 1e-5 of the largest score, of the tokens of
    the longest completion, or of 1, whichever is most."""


class RewriteUse(Spec):
    """How a rewriter is asked, and how its rewrites are searched with."""

    history_turns: int
    history_words: int
    reply_words: int
    max_new_tokens: int
    modes: dict[str, Literal["replace", "append", "fuse"]] = {}
    """Retriever (`bm25`, `dense`) -> how its rewrites served it best on dev: alone, behind the utterance, or as a
    ranking fused with the utterance's. Empty where nothing was searched with."""


class LlmCard(Card):
    """The card of an adapter for a language model: a judge of relevance, a rewriter of queries, a writer of answers."""

    kind: Literal["judge", "rewrite", "answer"]
    prompt: str
    """The name of the prompt under which it was trained."""
    prompt_version: str
    chat_template_sha256: str
    """Hash of the base's chat template: another one writes other prompts."""
    labels: list[str] = []
    """What it replies with, the lowest grade first, where its logits are read; empty where it writes text."""
    rubric: dict[str, Any] = {}
    """A judge's grades and what they mean (see `Rubric.fields`)."""
    calibration: dict[str, Any] | None = None
    """A judge's, from its distribution to one that can be believed (see `GradeCalibration`), as fitted on dev."""
    rewriting: RewriteUse | None = None
    """A rewriter's, beside its prompt."""
    abstention: dict[str, Any] | None = None
    """Of a rewriter that was trained by reward: when its rewrites are used (see `Abstention`), as fitted on dev."""
    quantise: Literal["none", "nf4"] = "none"
    """How the base was loaded when the adapter was trained."""
    probe: ChatProbe


def adapter_folder(folder: Path | str) -> Path:
    """The adapter that is meant by its own folder or by the folder of the run that made it."""
    folder = user_path(folder)
    inner = folder / "adapter"
    return inner if (inner / CARD_FILE).is_file() and not (folder / CARD_FILE).is_file() else folder
