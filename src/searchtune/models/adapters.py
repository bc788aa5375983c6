"""Putting LoRA on a model (the only caller of peft), training it fast, and reading its weights back."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import Linear as LoraLinear
from peft.tuners.lora import LoraLayer
from peft.utils import ModulesToSaveWrapper
from torch import Tensor, nn

from searchtune.errors import ConfigError, did_you_mean
from searchtune.models.encoder import HasBackbone
from searchtune.models.lean_layers import lighten
from searchtune.models.quantisation import unpacked
from searchtune.models.quiet import quiet
from searchtune.models.stack import check_own_weights, layer_stack
from searchtune.specs.recipe import LoraMethod

ADAPTER = "default"


class Adapter:
    """LoRA weights, and those of a trained head, inside a model's backbone, which is changed in place."""

    def __init__(self, peft_model: PeftModel) -> None:
        self.peft_model = peft_model
        self.parameters: dict[str, nn.Parameter] = {
            name: parameter for name, parameter in peft_model.named_parameters() if parameter.requires_grad
        }

    @property
    def trainable(self) -> int:
        """How many numbers are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    @property
    def total(self) -> int:
        """How many numbers the model has, adapter included; a matrix in 4 bits has as many as before it was packed."""
        return sum(_numbers(parameter) for parameter in self.peft_model.parameters())

    def state(self) -> dict[str, Tensor]:
        """A copy of the weights on the CPU, under peft's parameter names."""
        return {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}

    @torch.no_grad()
    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Set the weights; names must match exactly."""
        if state.keys() != self.parameters.keys():
            raise ValueError(f"adapter weights differ in {sorted(state.keys() ^ self.parameters.keys())[:3]}")
        for name, parameter in self.parameters.items():
            parameter.copy_(state[name])


def _numbers(parameter: nn.Parameter) -> int:
    packed = getattr(parameter, "quant_state", None)
    return parameter.numel() if packed is None else int(packed.shape.numel())


def scaled(state: Mapping[str, Tensor], strength: float) -> dict[str, Tensor]:
    """Adapter weights whose change of the base is `strength` times that of `state`: B is scaled, A stays."""
    return {name: tensor * strength if ".lora_B." in name else tensor for name, tensor in state.items()}


@contextmanager
def without_adapter(adapter: Adapter) -> Iterator[None]:
    """Within this block the model computes as its base does; which parameters are trained stays as it was."""
    trained = {parameter: parameter.requires_grad for parameter in adapter.peft_model.parameters()}
    try:
        with adapter.peft_model.disable_adapter():
            yield
    finally:
        for parameter, needs in trained.items():  # peft lets all of the adapter be trained when it comes back
            parameter.requires_grad_(needs)


@quiet()
def add_lora(
    model: HasBackbone,
    method: LoraMethod,
    *,
    seed: int,
    task_type: str = "FEATURE_EXTRACTION",
    head: Sequence[str] = (),
    fused: bool = True,
) -> Adapter:
    """Put LoRA on the model's transformer layers; its A matrices are drawn from `seed`, its B matrices are zero.

    The modules named in `head` are trained whole, in float32, and saved with the adapter: without that peft leaves a
    new head frozen, random and unsaved. `fused` lets layers without dropout multiply once, see `_FusedLora`
    (a layer in 4 bits on a CPU alone), and makes norms and attention lean, see `lean_layers`.

    Raises:
        ConfigError: a target module that no layer has, or more top layers than there are.
    """
    name, stack = layer_stack(model.backbone)
    linears = sorted(path for path, module in stack[0].named_modules() if isinstance(module, nn.Linear))
    targets = linears if method.target_modules == "all-linear" else method.target_modules
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in linears):
            raise ConfigError(f"method.target_modules: no layer has {target!r}{did_you_mean(target, linears)}")
    top = method.top_layers or len(stack)
    if method.top_layers:
        check_own_weights(model.backbone, method.top_layers)
    if top > len(stack):
        raise ConfigError(f"method.top_layers is {top}, but the base has {len(stack)} layers")
    config = LoraConfig(
        r=method.rank,
        lora_alpha=method.alpha,  # type: ignore[arg-type]
        lora_dropout=method.dropout,
        target_modules=targets,
        layers_to_transform=list(range(len(stack) - top, len(stack))),
        layers_pattern=name.rpartition(".")[2],
        use_rslora=method.rslora,
        use_dora=method.dora,
        task_type=task_type,
        modules_to_save=list(head) or None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        adapter = Adapter(_in_float32(get_peft_model(model.backbone, config, adapter_name=ADAPTER)))
    fused = fused and not method.dropout and not method.dora
    for layer in _lora_layers(model):
        layer.train()
        if fused and type(layer) is LoraLinear:
            layer.forward = MethodType(_fused_forward, layer)  # type: ignore[method-assign]
    if fused:
        lighten(model.backbone)
    for adapted in _lora_in_4_bits(model) if fused else ():
        adapted.forward = MethodType(_fused_nf4_forward, adapted)
    return adapter


def copied_weights(backbone: nn.Module) -> tuple[list[Tensor], list[Tensor]]:
    """The weights of which fused layers keep a merged copy beside them, and the copies that were made so far."""
    fused = [m for m in backbone.modules() if isinstance(m, LoraLinear) and "forward" in m.__dict__]
    kept = (getattr(layer, "_searchtune_merged", None) for layer in fused)
    weights: list[Any] = [layer.base_layer.weight for layer in fused]
    return weights, [each[1] for each in kept if each is not None]


def _lora_layers(model: HasBackbone) -> list[LoraLinear]:
    return [module for module in model.backbone.modules() if isinstance(module, LoraLinear)]


def _lora_in_4_bits(model: HasBackbone) -> list[Any]:
    """LoRA around matrices in 4 bits on a CPU."""
    layers = (module for module in model.backbone.modules() if isinstance(module, LoraLayer))
    weights = ((layer, layer.get_base_layer().weight) for layer in layers)
    return [layer for layer, weight in weights if hasattr(weight, "quant_state") and weight.device.type == "cpu"]


def _in_float32(model: PeftModel) -> PeftModel:
    """Let heads that are trained whole compute in float32: steps of a learning rate are lost in bf16 weights."""
    for wrapper in (module for module in model.modules() if isinstance(module, ModulesToSaveWrapper)):
        trained = wrapper.modules_to_save[ADAPTER].float()
        trained.register_forward_pre_hook(lambda _, inputs: tuple(_widened(value) for value in inputs))
    return model


def _widened(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


class _FusedLora(torch.autograd.Function):
    """`x (W + s B A)^T + b` as one matrix product, with gradients for A and B only.

    Written out, LoRA costs three products and several copies a layer forward and more backward; with W frozen, one
    full-size product forward and one backward are enough, and the four products of the gradient are as thin as the
    rank. Where A is frozen (LoRA-FA), what A makes of `x` is kept in its place. `merged` gives W + s B A; a matrix in 4
    bits is unpacked for it anew each time, forward and backward, so that no layer's is held longer than it is used.
    """

    @staticmethod
    def forward(ctx: Any, *args: Any) -> Tensor:
        x, merged, bias, a, b, scale = args
        frozen = ctx.needs_input_grad[4] and not ctx.needs_input_grad[3]
        kept = x.reshape(-1, x.shape[-1]) @ a.to(x.dtype).T if frozen else x  # (tokens, rank) instead of (tokens, in)
        ctx.save_for_backward(kept, a, b)
        ctx.merged, ctx.scale, ctx.frozen = merged, scale, frozen
        return nn.functional.linear(x, merged(), bias)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        kept, a, b = ctx.saved_tensors
        (grad,) = grads
        grad_x = grad @ ctx.merged() if ctx.needs_input_grad[0] else None
        flat_grad, flat_x = grad.reshape(-1, grad.shape[-1]), kept.reshape(-1, kept.shape[-1])  # (tokens, ...) both
        low_x = flat_x if ctx.frozen else flat_x @ a.to(kept.dtype).T  # (tokens, rank)
        grad_b = ctx.scale * (low_x.T @ flat_grad).T.to(b.dtype)  # wide on the right: 2/3 of the other order's time
        if ctx.frozen:
            return grad_x, None, None, None, grad_b, None
        low_grad = flat_grad @ b.to(kept.dtype)  # (tokens, rank)
        grad_a = ctx.scale * (low_grad.T @ flat_x).to(a.dtype)
        return grad_x, None, None, grad_a, grad_b, None


def _fused_forward(layer: LoraLinear, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """Replaces `LoraLinear.forward` where there is one adapter without dropout."""
    if layer.disable_adapters:
        bare: Tensor = layer.base_layer(x)
        return bare
    a: Any = layer.lora_A[ADAPTER].weight
    b: Any = layer.lora_B[ADAPTER].weight
    scale = layer.scaling[ADAPTER]
    base: Any = layer.base_layer
    version = (a._version, b._version)
    cached = getattr(layer, "_searchtune_merged", None)
    if cached is None or cached[0] != version:
        cached = (version, _merged(base.weight, a, b, scale))
        layer._searchtune_merged = cached  # type: ignore[assignment]
    apply: Callable[..., Tensor] = _FusedLora.apply
    return apply(x, lambda: cached[1], base.bias, a, b, scale)


def _fused_nf4_forward(layer: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    """The same for a matrix in 4 bits on a CPU, which is merged after it is unpacked: no copy is kept."""
    if layer.disable_adapters:
        bare: Tensor = layer.base_layer(x)
        return bare
    a, b, base = layer.lora_A[ADAPTER].weight, layer.lora_B[ADAPTER].weight, layer.base_layer
    scale = layer.scaling[ADAPTER]
    apply: Callable[..., Tensor] = _FusedLora.apply
    return apply(x, lambda: _merged(unpacked(base).to(x.dtype), a, b, scale), base.bias, a, b, scale)


@torch.no_grad()
def _merged(weight: Tensor, a: Tensor, b: Tensor, scale: float) -> Tensor:
    """W + s B A in one pass over W. Shape: (out, in), (rank, in), (out, rank) -> (out, in)."""
    return torch.addmm(weight, b.to(weight.dtype), a.to(weight.dtype), alpha=scale)
