"""Finding a recipe by name or path, and changing single keys of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from searchtune.errors import ConfigError, did_you_mean
from searchtune.reading import user_path
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.base import Spec, apply_overrides, parse_spec, read_yaml
from searchtune.specs.judge import JudgeRecipe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.specs.rewrite import RewriteRecipe
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


def load_rewrite_recipe(name_or_path: str, *, overrides: Sequence[str] = ()) -> RewriteRecipe:
    """A rewriter's recipe by path, or by name under `configs/rewrite/`; otherwise as `load_recipe`."""
    return parse_spec(RewriteRecipe, *_read("rewrite", name_or_path, None, overrides))


def load_answer_recipe(name_or_path: str, *, overrides: Sequence[str] = ()) -> AnswerRecipe:
    """An answerer's recipe by path, or by name under `configs/answer/`; otherwise as `load_recipe`."""
    return parse_spec(AnswerRecipe, *_read("answer", name_or_path, None, overrides))


RECIPES: dict[str, type[Spec]] = {
    "embed": EmbedRecipe,
    "rerank": RerankRecipe,
    "rewrite": RewriteRecipe,
    "judge": JudgeRecipe,
    "answer": AnswerRecipe,
}
"""The spec of each kind of recipe; its folder under `configs/` has its name."""


def load_any_recipe(name_or_path: str, *, overrides: Sequence[str] = ()) -> Any:
    """A recipe of any kind, by path, or by name under any folder of `configs/`.

    Raises:
        ConfigError: as `load_recipe`; and a name that several kinds have, or a kind that there is not.
    """
    if user_path(name_or_path).is_file() or "/" in name_or_path:
        file = find_asset("configs", name_or_path)
        kind = str(read_yaml(file).get("kind", "embed"))
    else:
        kinds = [kind for kind in RECIPES if _has(kind, name_or_path)]
        if len(kinds) > 1:
            raise ConfigError(f"{name_or_path}: there is one under each of {kinds}; name it as configs/KIND/NAME.yaml")
        kind = kinds[0] if kinds else "embed"
    if kind not in RECIPES:
        raise ConfigError(f"{name_or_path}: no recipe is of kind {kind!r}{did_you_mean(kind, list(RECIPES))}")
    return parse_spec(RECIPES[kind], *_read(kind, name_or_path, None, overrides))


def _has(kind: str, name: str) -> bool:
    try:
        find_asset(f"configs/{kind}", name)
    except ConfigError:
        return False
    return True


def _read(kind: str, name: str, task: str | None, overrides: Sequence[str]) -> tuple[dict[str, Any], str]:
    """What a recipe's file says after the overrides, and where it is."""
    is_path = user_path(name).is_file() or "/" in name
    file = find_asset("configs" if is_path else f"configs/{kind}", name)
    data = apply_overrides(read_yaml(file), overrides)
    found = data.get("kind", kind)
    if found != kind:
        raise ConfigError(f"{file}: a recipe of kind {found!r}; use `searchtune {found} train`, or name another recipe")
    return data if task is None else data | {"task": task}, str(file)
