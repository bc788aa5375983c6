"""The demo: the packaged recipe on the built-in collection."""

from __future__ import annotations

from pathlib import Path

from searchtune.storage.output import OutputPolicy
from searchtune.workflows.embed import EmbedResult, train_embedding
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.recipes import load_recipe

DEMO_RECIPE = "embed/minilm-pystdlib"


def run_demo(out: Path, *, policy: OutputPolicy = "fail", progress: Progress = SILENT) -> EmbedResult | None:
    """Train, verify and report `DEMO_RECIPE` into `out`."""
    return train_embedding(load_recipe(DEMO_RECIPE), out, policy=policy, progress=progress)
