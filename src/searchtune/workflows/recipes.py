"""Finding a recipe by name or path, and changing single keys of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from searchtune.errors import ConfigError
from searchtune.specs.base import apply_overrides, parse_spec, read_yaml
from searchtune.specs.judge import JudgeRecipe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.assets import find_asset


def load_recipe(name_or_path: str, *, task: str | None = None, overrides: Sequence[str] = ()) -> EmbedRecipe:
    """An embedding recipe by path, or by name under `configs/embed/`.

    `overrides` are `dotted.key=value`, and `task` replaces the recipe's task.

    Raises:
        ConfigError: no such recipe, one of another kind, an unknown key, or a value of the wrong type.
    """
    return parse_spec(EmbedRecipe, *_read("embed", name_or_path, task, overrides))


def load_rerank_recipe(name_or_path: str, *, task: str | None = None, overrides: Sequence[str] = ()) -> RerankRecipe:
    """A reranker's recipe by path, or by name under `configs/rerank/`; otherwise as `load_recipe`."""
    return parse_spec(RerankRecipe, *_read("rerank", name_or_path, task, overrides))


def load_judge_recipe(name_or_path: str, *, overrides: Sequence[str] = ()) -> JudgeRecipe:
    """A judge's recipe by path, or by name under `configs/judge/`; otherwise as `load_recipe`."""
    return parse_spec(JudgeRecipe, *_read("judge", name_or_path, None, overrides))


def _read(kind: str, name: str, task: str | None, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What a recipe's file says after the overrides, and where it is."""
    is_path = Path(name).is_file() or "/" in name
    file = find_asset("configs" if is_path else f"configs/{kind}", name)
    data = apply_overrides(read_yaml(file), overrides)
    found = data.get("kind", kind)
    if found != kind:
        raise ConfigError(f"{file}: a recipe of kind {found!r}; use `searchtune {found} train`, or name another recipe")
    return data if task is None else data | {"task": task}, str(file)
