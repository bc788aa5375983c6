"""Finding a recipe by name or path, and changing single keys of it."""

from __future__ import annotations

from collections.abc import Sequence

from searchtune.specs.base import apply_overrides, parse_spec, read_yaml
from searchtune.specs.recipe import EmbedRecipe
from searchtune.storage.assets import find_asset


def load_recipe(name_or_path: str, *, task: str | None = None, overrides: Sequence[str] = ()) -> EmbedRecipe:
    """A recipe by path, or by name under `configs/`; `overrides` are `dotted.key=value`, and `task` replaces its task.

    Raises:
        ConfigError: no such recipe, an unknown key, or a value of the wrong type.
    """
    file = find_asset("configs", name_or_path)
    data = apply_overrides(read_yaml(file), overrides)
    return parse_spec(EmbedRecipe, data if task is None else data | {"task": task}, str(file))
