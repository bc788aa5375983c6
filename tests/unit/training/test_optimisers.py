"""Choosing the optimiser: errors that name the remedy, what LoRA-FA freezes, and plain numbers in a checkpoint."""

import importlib.util

import pytest
import torch
from torch import nn

from searchtune.errors import ConfigError, MissingExtraError
from searchtune.specs.recipe import Optimiser
from searchtune.training.checkpoint import optimiser_tensors, restore_optimiser
from searchtune.training.optimisers import make_optimiser, trained_parameters
from unit.training.llm import open_llm


@pytest.mark.parametrize("name", ["adamw-8bit", "paged-adamw-8bit"])
def test_8_bit_optimisers_need_a_gpu_and_bitsandbytes(name, monkeypatch):
    with pytest.raises(ConfigError, match="runs on GPUs, and the model is on the CPU; set optim.name=adamw"):
        make_optimiser({nn.Parameter(torch.zeros(2)): "w"}, Optimiser(name=name))
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n, *rest: None if n == "bitsandbytes" else find(n))
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[llm\]'"):
        make_optimiser({nn.Parameter(torch.zeros(2, device="meta")): "w"}, Optimiser(name=name))


def test_lora_fa_freezes_a_alone(tiny_llm):
    model, adapter = open_llm(tiny_llm)
    names = trained_parameters(model, Optimiser(lora_fa=True))
    assert len(names) == len(adapter.parameters) // 2
    assert all("lora_B" in name for name in names.values())
    with pytest.raises(ConfigError, match="this method has none"):
        trained_parameters(nn.Linear(2, 2), Optimiser(lora_fa=True))


def test_plain_numbers_of_a_state_come_back_as_they_were():
    weight = nn.Parameter(torch.zeros(3))
    weight.grad = torch.ones(3)
    first, second = (torch.optim.AdamW([weight]) for _ in range(2))
    first.step()
    first.state[weight]["count"] = 7
    restore_optimiser(second, {weight: "w"}, optimiser_tensors(first, {weight: "w"}))
    assert second.state[weight]["count"] == 7 and isinstance(second.state[weight]["count"], int)
    assert torch.equal(second.state[weight]["step"], first.state[weight]["step"])
    assert torch.equal(second.state[weight]["exp_avg"], first.state[weight]["exp_avg"])


def test_lora_fa_keeps_less_for_the_backward_pass(tiny_llm):
    kept = []
    for frozen in (False, True):
        model, _ = open_llm(tiny_llm)
        trained_parameters(model, Optimiser(lora_fa=frozen))
        total = [0]

        def pack(tensor, total=total):
            total[0] += tensor.numel()
            return tensor

        layer = model.backbone.model.layers[0].mlp.down_proj
        x = torch.randn(30, layer.in_features, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            layer(x)
        kept.append(total[0])
    assert kept[0] - kept[1] == 30 * (layer.in_features - 4)
