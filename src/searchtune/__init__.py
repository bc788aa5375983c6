"""searchtune: adapt the models of a search pipeline with small adapters you can trust.

The names below are the public API. Each is imported when it is first used, so that `import searchtune` loads no torch.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from searchtune.errors import SearchtuneError as SearchtuneError
    from searchtune.specs.card import AdapterCard as AdapterCard
    from searchtune.specs.recipe import EmbedRecipe as EmbedRecipe
    from searchtune.specs.task import TaskSpec as TaskSpec
    from searchtune.types import Collection as Collection
    from searchtune.types import Qrels as Qrels
    from searchtune.types import RankExample as RankExample
    from searchtune.types import Run as Run

__version__ = "0.1.0"

_HOMES = {
    "AdapterCard": "searchtune.specs.card",
    "Collection": "searchtune.types",
    "EmbedRecipe": "searchtune.specs.recipe",
    "Qrels": "searchtune.types",
    "RankExample": "searchtune.types",
    "Run": "searchtune.types",
    "SearchtuneError": "searchtune.errors",
    "TaskSpec": "searchtune.specs.task",
}
"""The public names and the modules they live in; the imports above say the same to type checkers."""


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOMES])
