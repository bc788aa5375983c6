"""Opening a judge by name: a judge's adapter, a plain language model, a reranker, or a model behind an address."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, get_args

import numpy as np

from searchtune.errors import ArtifactError, ConfigError
from searchtune.metrics.grade_calibration import GradeCalibration
from searchtune.models.cut_count import CutCount
from searchtune.models.identity import identify_generator
from searchtune.models.precision import Precision, device_type, dtype_name, pick_device
from searchtune.prompts.judge import VERSIONS, JudgePrompt, Style, judge_conversations
from searchtune.prompts.rubrics import BINARY, Rubric, find_rubric, own_rubric
from searchtune.specs.card import CARD_FILE, LlmCard, RerankerCard, adapter_folder
from searchtune.specs.circularity import ModelFacts
from searchtune.specs.judge import OwnRubric
from searchtune.types import FloatArray64

if TYPE_CHECKING:
    from searchtune.models.backends import Backend, LabelReadings, LabelRow
    from searchtune.models.endpoint import Endpoint
    from searchtune.models.quantisation import Quantise
    from searchtune.models.remote import Budget, RemoteBackend
    from searchtune.models.reranker import Reranker


_MAX_TOKENS = 4096
"""Of a prompt, for a plain language model; passages of longer ones lose their ends."""
Read = Callable[[JudgePrompt, Sequence[str], Sequence[str]], "Iterator[LabelRow]"]
"""Prompt, queries, passages -> how likely each grade is, pair by pair as soon as it is known."""


@dataclass(frozen=True)
class OpenJudge:
    """A judge by name. Its weights are loaded when the first pair is read."""

    name: str
    rubric: Rubric
    style: Style | None
    """None for a judge that is not asked in words."""
    identity: Mapping[str, str]
    """All that its readings depend on, beside prompt and pair."""
    facts: ModelFacts
    read: Read
    calibration: GradeCalibration | None = None
    doc_template: str | None = None
    """How title and text of a document become the passage that it reads, as at training; None: as the task says."""
    cuts: CutCount = field(default_factory=CutCount, compare=False)
    """Of the prompts or pairs that it read in this process."""
    price: Callable[[int, int], float] | None = None
    """Prompt and completion tokens -> what they cost, where prices are known."""
    close: Callable[[], None] = lambda: None

    def under(self, rubric: Rubric | None, style: Style | None) -> OpenJudge:
        """The same model asked under another rubric or style; its calibration is then no longer its own."""
        if self.style is None and (rubric is not None or style is not None):
            raise ConfigError(f"{self.name} is a reranker: it is asked under no rubric and in no style")
        changed = replace(self, rubric=rubric or self.rubric, style=style or self.style)
        return (
            self if (changed.rubric, changed.style) == (self.rubric, self.style) else replace(changed, calibration=None)
        )


def settle_rubric(rubric: str | OwnRubric) -> Rubric:
    """The rubric that a recipe or an option names."""
    if isinstance(rubric, str):
        return find_rubric(rubric)
    return own_rubric(rubric.name, rubric.meanings, min_grade=rubric.min_grade, version=rubric.version)


def open_judge(
    name: str,
    *,
    base: str | None = None,
    quantise: Quantise | None = None,
    precision: Precision = "auto",
    max_tokens: int | None = None,
) -> OpenJudge:
    """A judge's adapter, a reranker's adapter, or a plain language model (folder, `package:NAME/path`, hub id).

    `base` is for an adapter whose base is not where its card says; `quantise` and the rubric `umbrela` are for a plain
    model, whose adapter's card settles them otherwise.

    Raises:
        ModelError: there is no such model.
        ArtifactError: the adapter is damaged, of another kind, or its base is another one.
        ConfigError: settings that the card settles.
    """
    folder = adapter_folder(name)
    if not (folder / CARD_FILE).is_file():
        return _plain(name, quantise or "none", precision, max_tokens or _MAX_TOKENS)
    from searchtune.models.cards import read_any_card

    card = read_any_card(folder)
    if max_tokens is not None:
        raise ConfigError(f"{folder}: its card settles max_tokens: {card.max_tokens}; leave it out")
    if quantise is not None and quantise != getattr(card, "quantise", "none"):
        raise ConfigError(f"{folder}: its card settles quantise: {getattr(card, 'quantise', 'none')}; leave it out")
    if isinstance(card, RerankerCard):
        return _reranker(folder, card, base, precision)
    if not isinstance(card, LlmCard) or card.kind != "judge":
        raise ArtifactError(f"{folder}: an adapter of kind {card.kind!r}; a judge's or a reranker's is needed here")
    return _tuned(folder, card, base, precision)


def open_remote_judge(
    endpoint: Endpoint, budget: Budget, rubric: Rubric, style: Style, *, max_new_tokens: int | None = None
) -> OpenJudge:
    """A judge behind an OpenAI-compatible address; one that gives no log-probabilities is read by its words.

    `max_new_tokens` bounds a reply, which is to hold a grade and no more.

    Raises:
        ConfigError: the style `likelihood`: such addresses do not say how likely a query is that they did not write.
    """
    from searchtune.models.remote import LABEL_TOKENS, RemoteBackend

    if style == "likelihood":
        raise ConfigError("a model behind an address does not say how likely a query is: choose brief, short or full")
    backend = RemoteBackend(endpoint, budget=budget, label_tokens=max_new_tokens or LABEL_TOKENS)
    return OpenJudge(
        name=endpoint.model,
        rubric=rubric,
        style=style,
        identity=dict(backend.identity),
        facts=ModelFacts(endpoint.model, f"{backend.url} {endpoint.model}"),
        read=partial(_ask_far, backend),
        price=budget.price if budget.price_in + budget.price_out else None,
        close=backend.close,
    )


def makers(adapters: Sequence[str]) -> dict[str, list[ModelFacts]]:
    """Kind of adapter -> those adapters, given by their folders (or their runs'), that made or taught what is judged.

    Raises:
        ArtifactError: a folder is no adapter.
    """
    from searchtune.models.cards import read_any_card
    from searchtune.models.identity import adapter_sha256

    used: dict[str, list[ModelFacts]] = {}
    for name in adapters:
        folder = adapter_folder(name)
        card = read_any_card(folder)
        used.setdefault(card.kind, []).append(ModelFacts(name, card.base_weights_sha256, adapter_sha256(folder)))
    return used


def _ask(
    load: Callable[[], Backend], prompt: JudgePrompt, queries: Sequence[str], passages: Sequence[str]
) -> Iterator[LabelRow]:
    from searchtune.pipeline.judging import read_grades

    backend, began = load(), time.perf_counter()
    yield from _rows(read_grades(backend, prompt, queries, passages), began)


def _ask_far(
    backend: RemoteBackend, prompt: JudgePrompt, queries: Sequence[str], passages: Sequence[str]
) -> Iterator[LabelRow]:
    yield from backend.stream_labels(judge_conversations(prompt, queries, passages), prompt.rubric.labels)


def _rows(readings: LabelReadings, began: float) -> Iterator[LabelRow]:
    """Readings of pairs that were read together since `began`, with each one's share of tokens and time."""
    from searchtune.models.backends import LabelRow, Source

    count = len(readings.reasons)
    seconds = (time.perf_counter() - began) / max(1, count)
    tokens = np.diff(np.linspace(0, readings.prompt_tokens, count + 1).round()).astype(int).tolist()
    for place, (row, reason) in enumerate(zip(readings.probabilities, readings.reasons, strict=True)):
        shares = None if np.isnan(row).any() else row
        outside, refused = float(readings.outside[place]), place in readings.refused
        source: Source | None = None if shares is None else "probabilities"
        yield LabelRow(place, shares, outside, reason, True, tokens[place], 0, seconds, refused, source)


def _dtype(precision: Precision) -> str:
    return dtype_name(precision, device_type())


def _plain(name: str, quantise: Quantise, precision: Precision, max_tokens: int) -> OpenJudge:
    from searchtune.models.sources import resolve_model, weights_sha256

    root, dtype = resolve_model(name), _dtype(precision)

    def load() -> Backend:
        import torch

        from searchtune.models.backends import LocalBackend
        from searchtune.models.generator import load_causal_lm

        model = load_causal_lm(root, dtype=getattr(torch, dtype), device=pick_device(), quantise=quantise)
        return LocalBackend(model, identity, max_tokens=max_tokens, cuts=cuts)

    cuts = CutCount()
    identity = identify_generator(root, adapter=None, quantise=quantise, dtype=dtype) | {"max_tokens": str(max_tokens)}
    facts = ModelFacts(name, weights_sha256(root))
    return OpenJudge(name, find_rubric("umbrela"), "short", identity, facts, partial(_ask, once(load)), cuts=cuts)


def _tuned(folder: Path, card: LlmCard, base: str | None, precision: Precision) -> OpenJudge:
    from searchtune.models.cards import check_base
    from searchtune.models.sources import resolve_model

    root, dtype = resolve_model(base or card.base, None if base else card.revision), _dtype(precision)
    check_base(card, root)
    rubric, style = Rubric.of(card.rubric), _style(folder, card)
    identity = identify_generator(root, adapter=folder, quantise=card.quantise, dtype=dtype)
    identity |= {"max_tokens": str(card.max_tokens)}

    def load() -> Backend:
        import torch

        from searchtune.models.backends import LocalBackend
        from searchtune.models.llm_artifact import load_llm_adapter

        model, _ = load_llm_adapter(folder, dtype=getattr(torch, dtype), device=pick_device(), base=base)
        return LocalBackend(model, identity, max_tokens=card.max_tokens, cuts=cuts)

    cuts = CutCount()
    calibration = None if card.calibration is None else GradeCalibration.from_json(card.calibration)
    facts = ModelFacts(str(folder), card.base_weights_sha256, identity["adapter_sha256"])
    read = partial(_ask, once(load))
    return OpenJudge(card.name, rubric, style, identity, facts, read, calibration, card.doc_template, cuts)


def _style(folder: Path, card: LlmCard) -> Style:
    """The style of its prompt, whose words must still be the ones it was trained under."""
    for style in get_args(Style):
        if card.prompt == f"judge/{style}" and card.prompt_version == str(VERSIONS[style]):
            found: Style = style
            return found
    raise ArtifactError(
        f"{folder}: trained under version {card.prompt_version} of the prompt {card.prompt!r}, which is not here: use "
        "the searchtune that trained it, or train it anew"
    )


def _reranker(folder: Path, card: RerankerCard, base: str | None, precision: Precision) -> OpenJudge:
    """A reranker as a judge of two grades: its probability of relevance, calibrated where its card says how."""
    from searchtune.metrics.calibration import Calibration
    from searchtune.workflows.open_reranker import open_reranker

    opened = open_reranker(str(folder), base=base, precision=precision)
    calibration = None if card.calibration is None else Calibration.from_json(card.calibration)

    def read(_: JudgePrompt, queries: Sequence[str], passages: Sequence[str]) -> Iterator[LabelRow]:
        from searchtune.models.backends import LabelReadings

        reranker: Reranker = opened.load()
        began = time.perf_counter()
        scores, tokens = _scores(reranker, queries, passages, cuts)
        relevant = 1 / (1 + np.exp(-scores)) if calibration is None else calibration(scores)
        shares = np.stack([1 - relevant, relevant], axis=1)
        reasons = tuple("the model's numbers are not finite" if np.isnan(row).any() else None for row in shares)
        yield from _rows(LabelReadings(shares, reasons, np.full(len(scores), np.nan), tokens, 0), began)

    cuts = CutCount()
    identity = {**{name: str(value) for name, value in opened.key.fields.items()}, "what": "reranker"}
    facts = ModelFacts(str(folder), card.base_weights_sha256, str(opened.key.fields.get("adapter_sha256") or ""))
    return OpenJudge(card.name, BINARY, None, identity, facts, read, doc_template=card.doc_template, cuts=cuts)


def _scores(
    reranker: Reranker, queries: Sequence[str], passages: Sequence[str], cuts: CutCount
) -> tuple[FloatArray64, int]:
    from searchtune.models.pairs import pair_store

    asked = list(dict.fromkeys(queries))
    place = {query: i for i, query in enumerate(asked)}
    store = pair_store(reranker.tokenizer, asked, list(passages), reranker.form)
    rows = np.array([place[query] for query in queries], dtype=np.int64)
    columns = np.arange(len(passages))
    store.count(rows, columns, cuts)
    scores = reranker.score_store(store, rows, columns).astype(np.float64)
    return scores, int(store.lengths(rows, columns).sum())
