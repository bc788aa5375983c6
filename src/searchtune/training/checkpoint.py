"""Checkpoints of a training run: safetensors and JSON in a folder that is complete or not there.

A checkpoint holds the weights, the optimiser's state, the generators' state and the log, which is all that a resumed
run needs to end in the same bits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from searchtune.errors import ArtifactError
from searchtune.reading import read_json_object
from searchtune.storage.atomic import new_folder, remove_folder, sweep, write_json
from searchtune.storage.marker import check_complete, is_complete

_WEIGHTS, _OPTIMISER, _STATE = "weights.safetensors", "optimiser.safetensors", "state.json"


@dataclass(frozen=True)
class Checkpoint:
    """What was read from a complete checkpoint folder."""

    step: int
    weights: dict[str, Tensor]
    optimiser: dict[str, Tensor]
    state: dict[str, Any]


def save_checkpoint(
    folder: Path, step: int, weights: Mapping[str, Tensor], optimiser: Mapping[str, Tensor], state: Mapping[str, Any]
) -> Path:
    """Write `folder/step-NNNNNN`, whole or not at all. `state` must be JSON."""
    target = folder / f"step-{step:06d}"
    for leftover in folder.glob(".step-*.tmp-*"):  # of a kill while a checkpoint was written or removed
        sweep(folder / leftover.name[1:].rpartition(".tmp-")[0])
    if not is_complete(target):
        remove_folder(target)
    with new_folder(target) as temporary:
        save_file({name: tensor.contiguous() for name, tensor in weights.items()}, temporary / _WEIGHTS)
        save_file({name: tensor.contiguous() for name, tensor in optimiser.items()}, temporary / _OPTIMISER)
        write_json(temporary / _STATE, {"step": step, **state})
    return target


def newest_checkpoint(folder: Path) -> Checkpoint | None:
    """The newest complete checkpoint; incomplete and damaged ones are passed over."""
    for candidate in sorted(folder.glob("step-*"), reverse=True):
        try:
            return load_checkpoint(candidate)
        except ArtifactError:
            continue
    return None


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read one checkpoint after checking every byte of it.

    Raises:
        ArtifactError: the folder is incomplete, or a file is not what was written.
    """
    check_complete(folder)
    state = read_json_object(folder / _STATE, ArtifactError)
    return Checkpoint(state.pop("step"), load_file(folder / _WEIGHTS), load_file(folder / _OPTIMISER), state)


def prune_checkpoints(newest: Path, keep: int) -> None:
    """Keep `newest` and the `keep` - 1 before it; those after it were damaged, or belong to an earlier run."""
    found = sorted(newest.parent.glob("step-*"))
    place = found.index(newest)
    for other in (*found[: max(0, place + 1 - keep)], *found[place + 1 :]):
        remove_folder(other)


def optimiser_tensors(optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]) -> dict[str, Tensor]:
    """The optimiser's state as named tensors, `PARAMETER/KEY`."""
    tensors: dict[str, Tensor] = {}
    for parameter, name in names.items():
        for key, value in optimiser.state.get(parameter, {}).items():
            tensor = value if isinstance(value, Tensor) else torch.tensor(value)
            tensors[f"{name}/{key}"] = tensor.detach().cpu()
    return tensors


def restore_optimiser(
    optimiser: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what `optimiser_tensors` gave."""
    by_name = {name: parameter for parameter, name in names.items()}
    for path, tensor in tensors.items():
        name, _, key = path.rpartition("/")
        parameter = by_name[name]
        if not tensor.dim() and not tensor.is_floating_point():  # it was a plain number
            optimiser.state[parameter][key] = tensor.item()
            continue
        device = parameter.device if tensor.dim() else tensor.device
        optimiser.state[parameter][key] = tensor.to(device).clone()


def random_state() -> dict[str, Any]:
    """State of torch's generators, as JSON."""
    state: dict[str, Any] = {"cpu": torch.get_rng_state().numpy().tobytes().hex()}
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state().numpy().tobytes().hex()
    return state


def restore_random_state(state: Mapping[str, Any]) -> None:
    """Put back what `random_state` gave."""
    torch.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cpu"]), dtype=torch.uint8))
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(torch.frombuffer(bytearray.fromhex(state["cuda"]), dtype=torch.uint8))
