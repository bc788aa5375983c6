"""NF4: a frozen base in 4 bits, for training LoRA on top of it (QLoRA: Dettmers et al. 2023, arXiv:2305.14314).

The linear layers of the transformer stack are held as NF4 in blocks of 64 with doubly quantised scales, about 4.13 bits
a number; embeddings, norms and the output layer stay as they are. Products run in the type the model computes in. Runs
on GPUs and on CPUs, where a layer is unpacked for each product.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.stack import layer_stack

Quantise = Literal["none", "nf4"]


def nf4_options(folder: Path, compute: torch.dtype, architecture: Any = AutoModelForCausalLM) -> BitsAndBytesConfig:
    """What `from_pretrained` needs for opening the model in `folder` in NF4, its products computed in `compute`.

    Every linear layer outside the transformer stack is left as it is. `architecture` is the class that opens it.

    Raises:
        MissingExtraError: bitsandbytes is not installed.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("quantise: nf4 takes bitsandbytes: pip install 'searchtune[llm]'")
    with torch.device("meta"):
        skeleton = architecture.from_config(AutoConfig.from_pretrained(folder, local_files_only=True))
    stack, _ = layer_stack(skeleton)
    outside = [
        name
        for name, module in skeleton.named_modules()
        if isinstance(module, nn.Linear) and not name.startswith(f"{stack}.")
    ]
    options: Any = BitsAndBytesConfig
    return options(  # type: ignore[no-any-return]
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
        llm_int8_skip_modules=outside,
    )


def quantised_layers(model: nn.Module) -> dict[str, Any]:
    """The 4-bit linear layers of a model, by name."""
    from bitsandbytes.nn.modules import Linear4bit

    return {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}


def unpacked(layer: Any) -> Tensor:
    """The matrix of a 4-bit linear layer, in the type that it had before. Shape: (out, in)."""
    from bitsandbytes.functional import dequantize_4bit

    weight: Tensor = dequantize_4bit(layer.weight.data, layer.weight.quant_state)
    return weight


def keep_trainable(model: nn.Module) -> None:
    """See that 4-bit layers hand on gradients on every CPU, whatever ran before.

    On CPUs with AVX512-BF16, bitsandbytes 0.50 repacks the weights of a layer in place when it first meets an input
    without gradient outside training, and from then on that layer hands no gradient back, with a warning at most. This
    switches the repacking off.

    Raises:
        ModelError: no layer is in 4 bits, or bitsandbytes knows no such switch and has repacked a layer.
    """
    layers = quantised_layers(model)
    if not layers:
        raise ModelError(f"{type(model).__name__} has no layer in 4 bits: its linear layers are of a kind of their own")
    for name, layer in layers.items():
        layer.support_avx512bf16_for_cpu = False
        if getattr(layer.weight.quant_state, "packing_format_for_cpu", False):
            raise ModelError(f"{name}: its 4-bit weights are already packed for inference; open the base anew")
