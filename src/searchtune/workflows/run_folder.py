"""What a training run writes first, and what a resumed run and every process of it must agree with."""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate import PartialState

from searchtune.errors import ConfigError
from searchtune.models.precision import compute_dtype
from searchtune.reading import read_json_object
from searchtune.specs.base import parse_spec
from searchtune.specs.llm import LlmRecipe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.workflows.provenance import now

RECIPE_FILE = "recipe.json"


def settle_run(
    recipe: EmbedRecipe | RerankRecipe | LlmRecipe, data: str, out: Path, *, policy: OutputPolicy, device: torch.device
) -> torch.dtype:
    """Record recipe, data fingerprint and precision at the first start, and return the precision on record.

    Raises:
        ConfigError: a resumed run has another recipe, or its collection has changed.
    """
    file = out / RECIPE_FILE
    state = PartialState()
    if state.is_main_process and not (policy == "resume" and file.is_file()):
        precision = "bf16" if compute_dtype(recipe.precision, device) == torch.bfloat16 else "fp32"
        record = {"recipe": recipe.model_dump(mode="json"), "data": data, "precision": precision, "started": now()}
        write_json(file, record)
    state.wait_for_everyone()
    saved = read_json_object(file, ConfigError)
    if parse_spec(type(recipe), saved["recipe"], str(file)) != recipe:
        raise ConfigError(f"{file}: the run was started with another recipe; resume with that one, or --overwrite")
    if saved["data"] != data:
        raise ConfigError(f"{file}: the collection has changed since the run was started; --overwrite begins anew")
    return torch.bfloat16 if saved["precision"] == "bf16" else torch.float32
