"""What a training run would hold in memory, from a base's `config.json` alone: no weight is read, none is made.

The base is built on torch's meta device, where tensors have shapes and no numbers, and LoRA is put on it by the very
code that trains. Parameters are therefore counted, not estimated. Activations are counted too: one and two of the
adapted layers run forward and backward on the meta device while every tensor that comes and goes is added up, and all
layers of a stack are alike. What is not counted: what a device's driver and kernels take for themselves.
"""

from __future__ import annotations

import weakref
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoModelForSequenceClassification

from searchtune.models.adapters import add_lora, copied_weights
from searchtune.models.opening import opening
from searchtune.models.quantisation import Quantise
from searchtune.models.quiet import quiet
from searchtune.models.reranker import head_modules
from searchtune.models.stack import encoder_class, layer_stack
from searchtune.specs.recipe import LoraMethod

Shape = Literal["encoder", "classifier", "causal"]
_ARCHITECTURES: dict[str, Any] = {
    "encoder": AutoModel,
    "classifier": AutoModelForSequenceClassification,
    "causal": AutoModelForCausalLM,
}
OPTIMISER_BYTES = {"adamw": 8.0, "adamw-8bit": 2.0 + 8 / 256, "paged-adamw-8bit": 2.0 + 8 / 256}
"""Bytes of optimiser state for a trained number: two float32 moments; two of 8 bits with a scale for each 256."""
_BLOCK, _SCALES_BLOCK = 64, 256
_TABLES = 16 * 4 + 256 * 4 + 4
"""Bytes of a 4-bit layer's own tables: 16 levels, 256 levels of its scales, and the mean of these."""


@dataclass(frozen=True)
class Skeleton:
    """A base without numbers, and the LoRA that a recipe puts on it."""

    backbone: Any
    base_bytes: int
    """The base's weights."""
    trainable: int
    total: int
    """All parameters, those of the adapter included."""
    adapted: int
    """How many layers have an adapter."""

    @property
    def dtype(self) -> torch.dtype:
        """What activations are computed in."""
        dtype: torch.dtype = next(p.dtype for p in self.backbone.parameters() if not p.requires_grad)
        return dtype

    @property
    def copies_bytes(self) -> int:
        """Second, merged copies of adapted weights, which training keeps so that a layer multiplies once."""
        return sum(weight.nbytes for weight in copied_weights(self.backbone)[0])


@dataclass(frozen=True)
class Held:
    """Bytes of activations, for one chunk of tokens through all adapted layers."""

    kept: int
    """What the backward pass waits for, when the forward pass is over."""
    peak: int
    """The most at any moment of both passes."""


def nf4_bytes(numbers: int) -> int:
    """Bytes of a matrix in NF4 with doubly quantised scales, as bitsandbytes stores it: levels, scales and tables.

    Half a byte a number; a byte for each 64 numbers; four bytes for each 256 of those (Dettmers et al. 2023,
    arXiv:2305.14314); 1,092 bytes of tables a matrix.
    """
    scales = -(-numbers // _BLOCK)
    return -(-numbers // 2) + scales + 4 * -(-scales // _SCALES_BLOCK) + _TABLES


def weight_bytes(model: nn.Module, quantise: Quantise = "none") -> int:
    """Bytes of a base's parameters, tied ones once; with `nf4` the linear layers of its stack are in 4 bits."""
    packed: set[int] = set()
    total = 0
    if quantise == "nf4":
        name, _ = layer_stack(model)
        for path, module in model.named_modules():
            if path.startswith(f"{name}.") and isinstance(module, nn.Linear):
                packed.add(id(module.weight))
                total += nf4_bytes(module.weight.numel())
    return total + sum(p.nbytes for p in model.parameters() if id(p) not in packed)


@quiet()
def skeleton(folder: Path, shape: Shape, dtype: torch.dtype) -> Any:
    """The model that `folder/config.json` describes, frozen, on the meta device.

    Raises:
        ModelError: transformers does not know the architecture, or has no class of this shape for it.
    """
    with opening(folder, f"its config.json gives no {shape} model"):
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
        if shape == "classifier":
            config.num_labels = 1
            config.pad_token_id = config.pad_token_id or 0
        with torch.device("meta"):
            architecture = encoder_class(folder) if shape == "encoder" else _ARCHITECTURES[shape]
            model = architecture.from_config(config, dtype=dtype, attn_implementation="eager")
    return model.requires_grad_(False).eval()


def adapted_skeleton(
    folder: Path, shape: Shape, method: LoraMethod, *, dtype: torch.dtype, quantise: Quantise = "none"
) -> Skeleton:
    """The base with its adapter, on the meta device. A base in 4 bits keeps no merged copies.

    Raises:
        ModelError: as `skeleton`.
        ConfigError: a target module that no layer has, or more top layers than there are.
    """
    model = skeleton(folder, shape, dtype)
    base_bytes = weight_bytes(model, quantise)
    layers = len(layer_stack(model)[1])
    head = head_modules(model) if shape == "classifier" else []
    task = {"encoder": "FEATURE_EXTRACTION", "classifier": "SEQ_CLS", "causal": "CAUSAL_LM"}[shape]
    adapter = add_lora(Backbone(model), method, seed=0, task_type=task, head=head, fused=quantise == "none")
    return Skeleton(model, base_bytes, adapter.trainable, adapter.total, method.top_layers or layers)


class Backbone(nn.Module):
    """A bare model, as `add_lora` takes it."""

    def __init__(self, backbone: Any) -> None:
        super().__init__()
        self.backbone = backbone


def activations(adapted: Skeleton, *, texts: int, width: int) -> Held:
    """Bytes of activations for `texts` texts of `width` tokens, with eager attention.

    One and two adapted layers are run; the difference between them is what each further layer adds.

    Shape: ids (texts, width).
    """
    name, stack = layer_stack(adapted.backbone)
    parent, _, leaf = name.rpartition(".")
    holder = adapted.backbone.get_submodule(parent)
    first = len(stack) - adapted.adapted
    found = []
    for layers in (1, 2):
        setattr(holder, leaf, stack[first : first + layers])
        try:
            found.append(_run(adapted.backbone, texts, width))
        finally:
            setattr(holder, leaf, stack)
    one, two = found
    more = adapted.adapted - 1
    step = two.kept - one.kept if len(stack) - first > 1 else 0
    return Held(one.kept + more * step, one.peak + more * step)


def _run(model: Any, texts: int, width: int) -> Held:
    _forward(model, 1, 1)  # makes the merged copies, which are counted apart
    with _Counting(model) as counting:
        loss: Any = _forward(model, texts, width).float().sum()
        kept = counting.live
        loss.backward()
    model.zero_grad(set_to_none=True)
    return Held(kept, counting.peak)


def _forward(model: Any, texts: int, width: int) -> Tensor:
    """Last hidden states. The head is left out: it is small, and logits are counted apart."""
    body = getattr(model, model.base_model_prefix, model)
    with torch.device("meta"):
        ids = torch.zeros(texts, width, dtype=torch.long)
        mask = torch.zeros(texts, 1, width, width, dtype=torch.bfloat16)  # a finished one: nobody looks at its numbers
    options = {"use_cache": False} if hasattr(model.config, "use_cache") else {}
    states: Tensor = body(input_ids=ids, attention_mask=mask, **options)[0]
    return states


class _Counting(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Adds up the bytes of all tensors that operations make, while they live; those of `model` are not among them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live = self.peak = 0
        weights = (*model.parameters(), *model.buffers(), *copied_weights(model)[1])
        self._known = {_key(tensor): 0 for tensor in weights}

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = operation(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, Tensor) and _key(tensor) not in self._known:
                self._add(tensor)
        return result

    def _add(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        self._known[_key(tensor)] = storage.nbytes()
        self.live += storage.nbytes()
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._drop, _key(tensor))

    def _drop(self, key: int) -> None:
        self.live -= self._known.pop(key)


def _key(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def kv_cache_bytes(config: Any, tokens: int, itemsize: int) -> int:
    """Bytes of keys and values of `tokens` tokens in all layers; windows that some layers have are not taken off."""
    text = config.get_text_config(decoder=True)
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    size = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return int(2 * text.num_hidden_layers * heads * size * tokens * itemsize)


def logit_bytes(vocabulary: int, rows: int, itemsize: int) -> int:
    """Bytes of the logits of `rows` tokens over a vocabulary: as computed, in float32, and their gradient."""
    return rows * vocabulary * (itemsize + 4 + 4)


def smallest_device(total: float, sizes: tuple[int, ...] = (8, 16, 24, 40, 48, 80, 141)) -> int | None:
    """The smallest usual GPU memory, in GiB, that holds `total` bytes with a tenth to spare; None above all."""
    return next((size for size in sizes if total * 1.1 <= size * 2**30), None)
