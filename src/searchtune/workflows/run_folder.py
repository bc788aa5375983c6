"""A training run's folder: held by one process at a time, with what its processes and a resumed run must agree on."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState

from searchtune.errors import ConfigError
from searchtune.models.precision import compute_dtype, pick_device
from searchtune.reading import user_path
from searchtune.specs.base import Spec, parse_spec, read_spec
from searchtune.specs.llm import LlmRecipe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.atomic import write_json
from searchtune.storage.lock import sole_writer
from searchtune.storage.output import RUN_FILE, OutputPolicy, check_output, mark_finished, prepare_output
from searchtune.workflows.progress import SILENT, Progress, WarningRecord
from searchtune.workflows.provenance import now
from searchtune.workflows.sources import check_sources

RECIPE_FILE = "recipe.json"
Recipe = EmbedRecipe | RerankRecipe | LlmRecipe


class RunRecord(Spec):
    """What `recipe.json` holds from the first start on."""

    recipe: dict[str, Any]
    data: str
    """Fingerprint of what is trained on."""
    precision: Literal["bf16", "fp32"]
    started: str = ""


def read_record(file: Path) -> RunRecord:
    """The record of a run.

    Raises:
        ConfigError: the file cannot be read, or is none.
    """
    return read_spec(file, RunRecord, "the record of a run", ConfigError)


@dataclass(frozen=True)
class TrainingRun:
    """One run: where it writes, on what it computes, whom it tells, and what it warned of."""

    recipe: Recipe
    out: Path
    policy: OutputPolicy
    device: torch.device
    main: bool
    """Whether this process writes; a distributed run has others too."""
    progress: WarningRecord
    """Silent in all but the main process."""

    @property
    def resume(self) -> bool:
        return self.policy == "resume"

    @property
    def warnings(self) -> list[str]:
        """What the run has warned of so far."""
        return self.progress.warnings

    def begin(self, data: str) -> torch.dtype:
        """Make the folder; record recipe, data fingerprint and precision at the first start; return the precision.

        Raises:
            OutputExistsError, StorageError: as `prepare_output`.
            ConfigError: a resumed run has another recipe, or its collection has changed.
        """
        if self.main:
            prepare_output(self.out, self.policy)
        return settle_run(self.recipe, data, self.out, policy=self.policy, device=self.device)


@contextmanager
def training_run(recipe: Recipe, out: Path | str, policy: OutputPolicy, progress: Progress) -> Iterator[TrainingRun]:
    """Check what can be checked before anything is read, then hold the folder for this process until the block ends.

    Of a distributed run the main process holds it. A block that ends well leaves the run marked as finished.

    Raises:
        OutputBusyError: another process is writing there.
        OutputExistsError: something is there, and `policy` does not say what to do about it.
        ModelError, MissingExtraError: a base cannot be opened here; the message has the command that mends it.
    """
    device = pick_device()
    main = PartialState(cpu=device.type == "cpu").is_main_process
    out = user_path(out).resolve()
    check_sources(recipe)
    with sole_writer(out) if main else nullcontext(False) as nested:
        if main:
            check_output(out, policy)
        yield TrainingRun(recipe, out, policy, device, main, WarningRecord(progress if main else SILENT))
        if main and not nested and (out / RUN_FILE).is_file():
            mark_finished(out)


def settle_run(recipe: Recipe, data: str, out: Path, *, policy: OutputPolicy, device: torch.device) -> torch.dtype:
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
    saved = read_record(file)
    if parse_spec(type(recipe), saved.recipe, str(file)) != recipe:
        raise ConfigError(f"{file}: the run was started with another recipe; resume with that one, or --overwrite")
    if saved.data != data:
        raise ConfigError(f"{file}: the collection has changed since the run was started; --overwrite begins anew")
    return torch.bfloat16 if saved.precision == "bf16" else torch.float32
