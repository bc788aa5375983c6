"""From the name of a model to a reranker: open a base or an adapter, and say what its scores are filed under."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache as once
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from searchtune.errors import ConfigError
from searchtune.models.cards import check_base, read_reranker_card
from searchtune.models.identity import identify_reranker
from searchtune.models.precision import Precision, device_type, dtype_name, pick_device
from searchtune.models.sources import resolve_model
from searchtune.retrieval.cache import EncoderKey
from searchtune.retrieval.early_exit import EarlyExit
from searchtune.specs.card import CARD_FILE, RerankerCard, adapter_folder
from searchtune.types import Collection
from searchtune.workflows.document_texts import as_trained
from searchtune.workflows.progress import SILENT, Progress

if TYPE_CHECKING:
    from searchtune.models.reranker import Reranker


@dataclass(frozen=True)
class OpenReranker:
    """A reranker by name. Its weights are loaded when a pair must be scored."""

    name: str
    key: EncoderKey
    load: Callable[[], Reranker]
    card: RerankerCard | None
    """None for a base without an adapter."""

    def reads(self, collection: Collection, progress: Progress = SILENT) -> Collection:
        """A collection as it reads it, documents written as at training (see `as_trained`)."""
        return as_trained(collection, None if self.card is None else self.card.doc_template, self.name, progress)


def open_reranker(
    name: str,
    *,
    base: str | None = None,
    revision: str | None = None,
    precision: Precision = "auto",
    max_tokens: int | None = None,
    template: str | None = None,
) -> OpenReranker:
    """An adapter's folder (or its run's), or a cross-encoder or language model: folder, `package:NAME/path` or hub id.

    `base` is for an adapter whose base is not where its card says; revision, length and template are for a base alone.

    Raises:
        ModelError: there is no such model, or it has no head for ranking.
        ArtifactError: the adapter is damaged, of another kind, or its base is another one.
        ConfigError: settings for an adapter that its card settles.
    """
    dtype = dtype_name(precision, device_type())
    if (adapter_folder(name) / CARD_FILE).is_file():
        if any(given is not None for given in (max_tokens, revision, template)):
            raise ConfigError(f"{name} is an adapter, whose card settles revision, length and template: leave them out")
        folder = adapter_folder(name)
        card = read_reranker_card(folder)
        root = resolve_model(base or card.base, None if base else card.revision)
        check_base(card, root)
        fields = identify_reranker(
            root, adapter=folder, head=card.head, template=card.template, max_tokens=card.max_tokens, dtype=dtype
        )
        return OpenReranker(
            str(folder), EncoderKey(fields, str(folder)), once(partial(_tuned, folder, base, dtype)), card
        )
    root = resolve_model(name, revision)
    fields = identify_reranker(
        root, adapter=None, head="", template=template or "", max_tokens=max_tokens or 0, dtype=dtype
    )
    load = once(partial(_plain, name, root, dtype, max_tokens, template))
    return OpenReranker(name, EncoderKey(fields, name), load, None)


def exit_of(opened: OpenReranker) -> EarlyExit:
    """The early exit that was fitted for a reranker; a `ConfigError` where there is none."""
    if opened.card is None or opened.card.early_exit is None:
        raise ConfigError(f"{opened.name}: no early exit was fitted for it (that needs a dev split)")
    rule = opened.card.early_exit
    return EarlyExit(int(rule["step"]), float(rule["margin"]), int(rule["keep"]))


def _tuned(folder: Path, base: str | None, dtype: str) -> Reranker:
    import torch

    from searchtune.models.reranker_artifact import load_reranker_artifact

    return load_reranker_artifact(folder, dtype=getattr(torch, dtype), device=pick_device(), base=base)[0]


def _plain(name: str, root: Path, dtype: str, max_tokens: int | None, template: str | None) -> Reranker:
    import torch

    from searchtune.models.reranker import Reading, load_reranker

    reading = Reading(max_tokens=max_tokens, template=template)
    reranker = load_reranker(root, reading, dtype=getattr(torch, dtype), device=pick_device())
    if reranker.fresh_head:
        raise ConfigError(f"{name} has no head for ranking: train one with `searchtune rerank train`")
    return reranker
