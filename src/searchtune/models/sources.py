"""Where a base model comes from: a folder, a hub id, or a folder inside an installed package; and its fingerprint."""

from __future__ import annotations

import importlib.util
import json
from functools import lru_cache
from pathlib import Path

import torch
from safetensors import safe_open

from searchtune.errors import ModelError
from searchtune.storage.fingerprint import Fingerprint

_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]


def resolve_model(base: str, revision: str | None = None) -> Path:
    """The local folder of a model.

    `base` is `package:NAME/path` (a folder inside an installed Python package), a folder, or a hub id such as
    `sentence-transformers/all-MiniLM-L6-v2`, which is downloaded once, safetensors and JSON only.

    Raises:
        ModelError: the package is not installed, the folder holds no model, or the hub cannot be reached.
    """
    if base.startswith("package:"):
        folder = _inside_package(base.removeprefix("package:"))
    elif Path(base).expanduser().is_dir():
        folder = Path(base).expanduser().resolve()
    else:
        folder = _from_hub(base, revision)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{base}: {folder} has no config.json, so it is no transformers model folder")
    return folder


def _inside_package(reference: str) -> Path:
    package, _, inner = reference.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(
            f"package:{reference}: the package {package!r} is not installed; pip install {package.replace('_', '-')}"
        )
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inner).resolve()
    if not folder.is_relative_to(root) or not folder.is_dir():
        have = ", ".join(sorted(p.name for p in root.iterdir() if p.is_dir() and not p.name.startswith("_")))
        raise ModelError(f"package:{reference}: {package} has no folder {inner!r} (it has: {have or 'none'})")
    return folder


def _from_hub(base: str, revision: str | None) -> Path:
    if base.startswith(("/", "./", "../", "~")):
        raise ModelError(f"{base}: no such folder")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=_NEEDED))
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ModelError(
            f"{base}: not a folder here, and the model hub did not give it ({reason}); "
            "name a local folder or package:NAME/path, or check the spelling and the network"
        ) from error


def weights_sha256(folder: Path) -> str:
    """sha256 over the base's tensors: name, dtype, shape and bytes, file by file and in order of name.

    Raises:
        ModelError: the folder has no safetensors weights.
    """
    files = sorted(file for file in folder.glob("*.safetensors") if file.name != "adapter_model.safetensors")
    if not files:
        raise ModelError(f"{folder}: no *.safetensors weights; convert the model first (pickle files are not opened)")
    return _hash_tensors(tuple((file, file.stat().st_size, file.stat().st_mtime_ns) for file in files))


@lru_cache(maxsize=16)
def _hash_tensors(files: tuple[tuple[Path, int, int], ...]) -> str:
    digest = Fingerprint()
    for file, _, _ in files:
        with safe_open(file, framework="pt") as tensors:
            for name in sorted(tensors.keys()):
                tensor = tensors.get_tensor(name).contiguous()
                digest.add(name, str(tensor.dtype), str(tuple(tensor.shape)))
                digest.add_array(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def tokenizer_sha256(folder: Path) -> str:
    """sha256 over the tokenizer's vocabulary files and its casing options."""
    digest = Fingerprint()
    for name in _TOKENIZER_FILES:
        file = folder / name
        if file.is_file():
            digest.add(name, file.read_bytes())
    config = folder / "tokenizer_config.json"
    if config.is_file():
        options = json.loads(config.read_text(encoding="utf-8"))
        digest.add(json.dumps({key: options.get(key) for key in ("do_lower_case", "strip_accents")}))
    return digest.hexdigest()
