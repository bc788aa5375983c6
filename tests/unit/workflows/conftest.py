"""Runs of the whole workflow, small and without a second process."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import support
from searchtune.evaluation import build_report
from searchtune.specs.recipe import EmbedRecipe
from searchtune.workflows import finish, measure
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.embed import EmbedResult, train_embedding

Recipe = Callable[..., EmbedRecipe]

SMALL: dict[str, Any] = {
    "max_tokens": 64,
    "precision": "fp32",
    "method": {"rank": 4, "alpha": 8, "top_layers": 1},
    "optim": {"lr": 1e-2, "epochs": 1, "min_steps": 0, "batch_size": 16, "checkpoint_every": 2},
    "dev": {"times": 2},
}


def small_recipe(task: Path, base: Path, **changes: Any) -> EmbedRecipe:
    """One epoch of five steps on the tiny model."""
    return EmbedRecipe.model_validate({**SMALL, "task": str(task), "base": str(base), **changes})


@pytest.fixture
def recipe(tiny_collection: Path, tiny_model: Path) -> Recipe:
    """Make a recipe for the tiny collection and model, with some keys changed."""
    return lambda **changes: small_recipe(
        changes.pop("task", tiny_collection), changes.pop("base", tiny_model), **changes
    )


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify in this process, resample little and draw no page: the `finished` run and other tests do it all."""
    monkeypatch.setattr(finish, "verify_in_fresh_process", verify_adapter)
    monkeypatch.setattr(measure, "build_report", partial(build_report, rounds=200))
    monkeypatch.setattr(measure, "write_page", lambda report, file: None)


@pytest.fixture(scope="session")
def finished(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> EmbedResult:
    """A finished run on the tiny collection and model. Read only."""
    folder = tmp_path_factory.mktemp("finished")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "verify_in_fresh_process", verify_adapter)
        settled = small_recipe(support.write_collection(folder / "tiny"), tiny_model)
        result = train_embedding(settled, folder / "run")
    assert result is not None
    return result
