"""The optimisers a recipe can name, over the parameters that shall be trained."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from searchtune.errors import ConfigError, MissingExtraError
from searchtune.specs.recipe import Optimiser

_BITSANDBYTES = {"adamw-8bit": "AdamW8bit", "paged-adamw-8bit": "PagedAdamW8bit"}


def trained_parameters(module: nn.Module, optim: Optimiser) -> dict[nn.Parameter, str]:
    """The parameters that need gradients, with their names; with `lora_fa` the A matrices are frozen first.

    Raises:
        ConfigError: `lora_fa`, and the module has no A matrices.
    """
    if optim.lora_fa:
        first = [parameter for name, parameter in module.named_parameters() if ".lora_A." in name]
        if not first:
            raise ConfigError("optim.lora_fa freezes LoRA's A matrices, and this method has none; leave it out")
        for parameter in first:
            parameter.requires_grad_(False)
    return {parameter: name for name, parameter in module.named_parameters() if parameter.requires_grad}


def make_optimiser(names: Mapping[nn.Parameter, str], optim: Optimiser) -> torch.optim.Optimizer:
    """AdamW (Loshchilov and Hutter 2019, arXiv:1711.05101), or one of those that keep its state in 8 bits.

    Raises:
        ConfigError: an 8-bit optimiser for parameters that are not on a GPU.
        MissingExtraError: an 8-bit optimiser without bitsandbytes.
    """
    groups = parameter_groups(names, optim)
    if optim.name == "adamw":
        return torch.optim.AdamW(groups, lr=optim.lr, weight_decay=optim.weight_decay)
    device = next(iter(names)).device
    if device.type == "cpu":
        raise ConfigError(f"optim.name {optim.name!r} runs on GPUs, and the model is on the CPU; set optim.name=adamw")
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError(f"optim.name {optim.name!r} takes bitsandbytes: pip install 'searchtune[llm]'")
    library: Any = importlib.import_module("bitsandbytes.optim")
    made: torch.optim.Optimizer = getattr(library, _BITSANDBYTES[optim.name])(
        groups, lr=optim.lr, weight_decay=optim.weight_decay
    )
    return made


def parameter_groups(names: Mapping[nn.Parameter, str], optim: Optimiser) -> list[dict[str, Any]]:
    """Two groups where LoRA+ asks for a faster B, else one. `ratio` multiplies the schedule's rate."""
    fast = [p for p, name in names.items() if optim.lora_plus_ratio != 1.0 and "lora_B" in name]
    slow = [p for p in names if not any(p is other for other in fast)]
    groups = [{"params": slow, "ratio": 1.0}]
    return [*groups, {"params": fast, "ratio": optim.lora_plus_ratio}] if fast else groups
