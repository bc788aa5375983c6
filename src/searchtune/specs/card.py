"""`AdapterCard`: all that inference needs to know of an adapter, and what proves that it reloads as it was trained."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from searchtune.specs.base import Spec

CARD_FILE = "adapter_card.json"


class Probe(Spec):
    """Inputs encoded in float32 before the artifact was saved, and what came out."""

    queries: list[str]
    documents: list[str]
    vectors_file: str = "probe_vectors.npy"
    """Array (queries + documents, dim) float32, beside the card."""
    tolerance: float = 1e-5
    """Largest absolute difference of a component that still counts as the same."""


class AdapterCard(Spec):
    """Written beside the adapter's weights as `adapter_card.json`."""

    format: Literal[1] = 1
    kind: Literal["embed"] = "embed"
    name: str
    base: str
    """The base as the recipe names it."""
    revision: str | None
    base_weights_sha256: str
    """Hash over names, shapes and bytes of the base's weights: peft loads an adapter onto any base of that shape."""
    tokenizer_sha256: str
    side: Literal["both", "query"]
    pooling: Literal["mean", "cls", "last", "max"]
    normalise: bool
    query_prompt: str
    document_prompt: str
    max_tokens: int
    query_max_tokens: int
    dim: int
    matryoshka: list[int]
    trainable_parameters: int
    recipe_sha256: str
    data_fingerprint: str
    train_positives_sha256: str
    """Hash over the ids of the documents that training saw as positives (`train_positives.json` lists them)."""
    probe: Probe
    metrics: dict[str, float]
    """Dev figures of the kept checkpoint."""
    versions: dict[str, str]
    created: str
    """UTC, ISO 8601."""
    extra: dict[str, Any] = {}


def adapter_folder(folder: Path | str) -> Path:
    """The adapter that is meant by its own folder or by the folder of the run that made it."""
    folder = Path(folder).expanduser()
    inner = folder / "adapter"
    return inner if (inner / CARD_FILE).is_file() and not (folder / CARD_FILE).is_file() else folder
