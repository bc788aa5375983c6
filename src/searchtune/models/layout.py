"""How a bi-encoder turns token states into one vector: pooling, normalisation, prompts, length, as its folder says."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, cast

from searchtune.errors import ModelError
from searchtune.reading import read_json, read_json_object, shown

_MODULES = "modules.json"
_LIBRARY = "sentence_transformers."
_TWO_FEWER = {"roberta", "xlm-roberta", "mpnet", "camembert"}
"""Their first position is the one behind the padding token's."""

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
    if not (folder / _MODULES).is_file():
        return Layout(max_tokens=_position_limit(folder), max_positions=_position_limit(folder))
    kinds = read_modules(folder)
    transformer = kinds["Transformer"] / "sentence_bert_config.json"
    limit = _whole(transformer, "max_seq_length") if transformer.is_file() else None
    prompts = _prompts(folder)
    return Layout(
        pooling=_read_pooling(kinds["Pooling"] / "config.json") if "Pooling" in kinds else "mean",
        normalise="Normalize" in kinds,
        max_tokens=limit or _position_limit(folder),
        max_positions=_position_limit(folder),
        query_prompt=prompts.get("query", ""),
        document_prompt=prompts.get("document", prompts.get("passage", "")),
    )


def _read_pooling(file: Path) -> Pooling:
    config = read_json_object(file, ModelError)
    declared = config.get("pooling_mode")
    modes = [declared] if declared else [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    modes = [{"lasttoken": "last"}.get(str(mode), mode) for mode in modes]
    if len(modes) != 1 or modes[0] not in _POOLING_FLAGS.values():
        raise ModelError(
            f"{file}: pooling {shown(modes or config)} is none of mean, cls, last, max; choose another base"
        )
    return cast(Pooling, modes[0])


def read_modules(folder: Path) -> dict[str, Path]:
    """Each module's class and folder, once all are known to be of sentence-transformers and inside `folder`."""
    file = folder / _MODULES
    listed = read_json(file, ModelError)
    kinds: dict[str, Path] = {}
    for module in listed if isinstance(listed, list) else [listed]:
        kind, path = (module.get("type"), module.get("path", "")) if isinstance(module, dict) else (None, None)
        if not isinstance(kind, str) or not isinstance(path, str) or "\0" in path:
            raise ModelError(
                f"{file}: {shown(repr(module))} is no module with `type` and `path`; fetch the model again"
            )
        if not kind.startswith(_LIBRARY):
            raise ModelError(
                f"{file}: module {shown(kind)} is code of its own and would be run; searchtune opens only modules of "
                "sentence-transformers: choose another base"
            )
        if not (folder / path).resolve().is_relative_to(folder.resolve()):
            raise ModelError(f"{file}: module path {shown(path)!r} leads out of the folder; fetch the model again")
        kinds[kind.rpartition(".")[2]] = folder / path
    unknown = sorted(set(kinds) - {"Transformer", "Pooling", "Normalize"})
    if unknown or "Transformer" not in kinds:
        raise ModelError(
            f"{file}: module {', '.join(map(shown, unknown)) or 'Transformer (missing)'} is not supported; "
            "searchtune runs Transformer -> Pooling -> Normalize: choose another base (or a copy of the folder without "
            f"{_MODULES}: the bare transformer with mean pooling, another model than the published one)"
        )
    return kinds


def _prompts(folder: Path) -> dict[str, str]:
    file = folder / "config_sentence_transformers.json"
    prompts = read_json_object(file, ModelError).get("prompts") or {} if file.is_file() else {}
    if not isinstance(prompts, dict) or not all(isinstance(text, str) for text in prompts.values()):
        raise ModelError(f"{file}: prompts is {shown(repr(prompts))}, and not names with texts; correct it")
    return prompts


def _position_limit(folder: Path) -> int | None:
    file = folder / "config.json"
    limit = _whole(file, "max_position_embeddings")
    kind = read_json_object(file, ModelError).get("model_type")
    return limit if limit is None else limit - (2 if kind in _TWO_FEWER else 0)


def _whole(file: Path, key: str) -> int | None:
    """A positive whole number in a JSON file; None where it is not there."""
    value = read_json_object(file, ModelError).get(key)
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
        raise ModelError(f"{file}: {key} is {shown(repr(value))}, and no whole number above 0; correct it")
    return value
