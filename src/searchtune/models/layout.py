"""How a bi-encoder turns token states into one vector: pooling, normalisation, prompts, length, as its folder says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

from searchtune.errors import ModelError

Pooling = Literal["mean", "cls", "last", "max"]

_POOLING_FLAGS: dict[str, Pooling] = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_lasttoken": "last",
    "pooling_mode_max_tokens": "max",
}


@dataclass(frozen=True)
class Layout:
    """What follows the transformer in a sentence-transformers folder."""

    pooling: Pooling = "mean"
    normalise: bool = True
    max_tokens: int | None = None
    """The length the base was made for, in tokens, special tokens included."""
    max_positions: int | None = None
    """The most tokens it can take; None where there is no fixed limit."""
    query_prompt: str = ""
    document_prompt: str = ""


def read_layout(folder: Path) -> Layout:
    """The layout a folder declares; a plain transformers folder means mean pooling and unit length.

    Raises:
        ModelError: the folder has a module that we do not run (a Dense projection, say), or an unknown pooling.
    """
    modules_file = folder / "modules.json"
    if not modules_file.is_file():
        return Layout(max_tokens=_position_limit(folder), max_positions=_position_limit(folder))
    modules = _read_json(modules_file)
    kinds = {str(module["type"]).rsplit(".", 1)[-1]: folder / str(module["path"]) for module in modules}
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown or "Transformer" not in kinds:
        raise ModelError(
            f"{modules_file}: module {', '.join(unknown) or 'Transformer (missing)'} is not supported; "
            "searchtune runs Transformer -> Pooling -> Normalize"
        )
    transformer = kinds["Transformer"] / "sentence_bert_config.json"
    limit = _read_json(transformer).get("max_seq_length") if transformer.is_file() else None
    prompts = _prompts(folder)
    return Layout(
        pooling=_read_pooling(kinds["Pooling"] / "config.json") if "Pooling" in kinds else "mean",
        normalise="Normalize" in kinds,
        max_tokens=int(limit) if limit else _position_limit(folder),
        max_positions=_position_limit(folder),
        query_prompt=prompts.get("query", ""),
        document_prompt=prompts.get("document", prompts.get("passage", "")),
    )


def _read_pooling(file: Path) -> Pooling:
    config = _read_json(file)
    declared = config.get("pooling_mode")
    modes = [declared] if declared else [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = [{"lasttoken": "last"}.get(str(mode), mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in _POOLING_FLAGS.values():
        raise ModelError(f"{file}: pooling {modes or config} is not supported; known: mean, cls, last, max")
    return cast(Pooling, modes[0])


def _prompts(folder: Path) -> dict[str, str]:
    file = folder / "config_sentence_transformers.json"
    return dict(_read_json(file).get("prompts") or {}) if file.is_file() else {}


def _position_limit(folder: Path) -> int | None:
    config = _read_json(folder / "config.json")
    limit = config.get("max_position_embeddings")
    if limit is None:
        return None
    return int(limit) - (2 if config.get("model_type") in {"roberta", "xlm-roberta", "mpnet", "camembert"} else 0)


def _read_json(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError(f"{file}: cannot be read as JSON: {error}") from error
