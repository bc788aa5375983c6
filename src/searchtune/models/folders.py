"""What writing and opening a PEFT adapter's folder has in common for all models that are read from logits."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

from searchtune.errors import ArtifactError
from searchtune.models.adapters import Adapter
from searchtune.models.cards import name_base
from searchtune.models.opening import opening
from searchtune.models.quantisation import keep_trainable, nf4_options
from searchtune.specs.card import CARD_FILE, LlmCard, RerankerCard
from searchtune.storage.atomic import write_json


def write_adapter(folder: Path, adapter: Adapter, card: RerankerCard | LlmCard, backbone: Any, tokenizer: Any) -> None:
    """Put the adapter's weights, its tokenizer and its card into a folder that is being written."""
    adapter.peft_model.save_pretrained(str(folder), safe_serialization=True)
    name_base(folder / "adapter_config.json", card, backbone)
    tokenizer.save_pretrained(str(folder))
    write_json(folder / CARD_FILE, card.model_dump(mode="json"))


def put_adapter(backbone: Any, folder: Path, root: Path) -> PeftModel:
    """The base from `root` with the adapter in `folder` on it.

    Raises:
        ArtifactError: peft refuses it.
    """
    with opening(folder, f"peft cannot put this adapter onto {root}", ArtifactError):
        return PeftModel.from_pretrained(backbone, str(folder))


def open_plainly(folder: Path, card: RerankerCard | LlmCard, root: Path) -> PeftModel:
    """A language model and its adapter by transformers' and peft's own classes alone, in float32 on the CPU."""
    options: dict[str, Any] = {}
    if card.quantise == "nf4":
        options = {"quantization_config": nf4_options(root, torch.float32), "device_map": {"": "cpu"}}
    plain = AutoModelForCausalLM.from_pretrained(
        root, dtype=torch.float32, local_files_only=True, use_safetensors=True, **options
    )
    if card.quantise == "nf4":
        keep_trainable(plain)  # packed for inference, layers in 4 bits would compute in bf16 on some CPUs
    return PeftModel.from_pretrained(plain, str(folder)).eval()
