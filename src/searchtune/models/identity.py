"""What decides the vector of a text, as plain values: two encoders with one identity give the same vectors.

Rounding is no part of it: the batch a text is in, the device and the versions of the libraries move the last bits of a
vector, by about 1e-7 in float32 and 1e-3 in bf16.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from searchtune.errors import ModelError
from searchtune.models.cut_count import LEAST_DOCUMENT
from searchtune.models.layout import Layout, Pooling
from searchtune.models.sources import tokenizer_sha256, weights_sha256
from searchtune.reading import read_json_object, read_text
from searchtune.storage.fingerprint import sha256_file, sha256_json

if TYPE_CHECKING:
    import torch

ADAPTER_WEIGHTS = "adapter_model.safetensors"
_NO_MATTER = {
    "config.json": ("_name_or_path", "transformers_version", "torch_dtype", "dtype", "architectures"),
    "adapter_config.json": ("base_model_name_or_path", "revision", "peft_version"),
}
"""Keys that say where a model comes from, not what it computes."""


@dataclass(frozen=True)
class EncoderIdentity:
    """An encoder in one role: as it reads queries, or as it reads documents."""

    base_sha256: str
    """Hash of the base's weights, as in an adapter's card."""
    config_sha256: str
    """Hash of what the base's `config.json` says of its computation, such as its activation."""
    tokenizer_sha256: str
    adapter_sha256: str | None
    """Hash of the adapter's weights and its scaling; None for a plain base."""
    pooling: Pooling
    normalise: bool
    prompt: str
    """Stands before every text."""
    max_tokens: int
    dtype: str
    """Precision of the weights and activations; the vectors themselves are float32."""

    def fields(self) -> dict[str, str | int | bool | None]:
        """Every field by name."""
        return asdict(self)


def identify(
    root: Path, layout: Layout, *, adapter: Path | None = None, prompt: str, max_tokens: int, dtype: torch.dtype | str
) -> EncoderIdentity:
    """The identity of the base in `root`, under the adapter in `adapter` if there is one.

    `dtype` is torch's or its name, such as `float32`. All of the weights are read and hashed, once per process: about
    .1 s for 90 MB.

    Raises:
        ModelError: a file of the model is missing or cannot be read.
    """
    return EncoderIdentity(
        base_sha256=weights_sha256(root),
        config_sha256=sha256_json(_settings(root / "config.json")),
        tokenizer_sha256=tokenizer_sha256(root),
        adapter_sha256=None if adapter is None else adapter_sha256(adapter),
        pooling=layout.pooling,
        normalise=layout.normalise,
        prompt=prompt,
        max_tokens=max_tokens,
        dtype=str(dtype).removeprefix("torch."),
    )


def identify_reranker(
    root: Path, *, adapter: Path | None, head: str, template: str, max_tokens: int, dtype: str
) -> dict[str, str | int | None]:
    """All that decides the score of a pair, by name, under the adapter in `adapter` if there is one.

    Raises:
        ModelError: a file of the model is missing or cannot be read.
    """
    return {
        "what": "reranker",
        "base_sha256": weights_sha256(root),
        "config_sha256": sha256_json(_settings(root / "config.json")),
        "tokenizer_sha256": tokenizer_sha256(root),
        "adapter_sha256": None if adapter is None else adapter_sha256(adapter),
        "head": head,
        "template": template,
        "max_tokens": max_tokens,
        "dtype": dtype,
        **({} if head == "classifier" and not template else {"least_document": str(LEAST_DOCUMENT)}),
    }


def identify_generator(root: Path, *, adapter: Path | None, quantise: str, dtype: str) -> dict[str, str]:
    """All that decides what the causal language model in `root` says to a prompt, by name.

    Raises:
        ModelError: a file of the model is missing or cannot be read.
    """
    template = root / "chat_template.jinja"
    return {
        "what": "generator",
        "base_sha256": weights_sha256(root),
        "config_sha256": sha256_json(_settings(root / "config.json")),
        "tokenizer_sha256": tokenizer_sha256(root),
        "template_sha256": sha256_json(
            [
                read_text(template, ModelError) if template.is_file() else None,
                _settings(root / "tokenizer_config.json").get("chat_template"),
            ]
        ),
        "adapter_sha256": "" if adapter is None else adapter_sha256(adapter),
        "quantise": quantise,
        "dtype": dtype,
    }


def adapter_sha256(folder: Path) -> str:
    """Hash over an adapter's weights and settings.

    Raises:
        ModelError: the folder holds no adapter.
    """
    weights = folder / ADAPTER_WEIGHTS
    if not weights.is_file():
        raise ModelError(f"{weights}: missing, so {folder} is no adapter; name the folder that training wrote")
    return sha256_json({"weights": sha256_file(weights), "config": _settings(folder / "adapter_config.json")})


def _settings(file: Path) -> dict[str, Any]:
    """The entries of a JSON file that matter to the computation."""
    values = read_json_object(file, ModelError)
    return {name: value for name, value in values.items() if name not in _NO_MATTER.get(file.name, ())}
