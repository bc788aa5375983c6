"""GGUF bases: one file of llama.cpp's format, converted once into a plain Hugging Face folder.

    CACHE/models/SHA256-vN/        SHA256 of the file's bytes, N the version of this conversion
        config.json model*.safetensors tokenizer.json chat_template.jinja ...
        gguf.json                  what the file says of itself: name, licence, kinds of quantisation

From then on every library opens the folder as any other base. The weights are dequantised in float32 and kept in the
smallest type that loses nothing the file has: float16 for quantised files (their scales are float16, so rounding to
its 11 bits is no coarser than what the file itself was rounded to; bfloat16 would drop three of these bits), bfloat16
and float32 for files that hold these. Vectors that 16 bits do not hold stay float32. Where float16 is stored,
`config.json` names bfloat16 as the type to compute in: models of this kind are trained in it and may overflow in
float16.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.quiet import quiet
from searchtune.reading import opened, read_json_object
from searchtune.storage.atomic import new_folder, write_json
from searchtune.storage.fingerprint import sha256_file
from searchtune.storage.marker import is_complete
from searchtune.storage.places import cache_root, one_at_a_time

ORIGIN_FILE = "gguf.json"
_FORMAT = 1
_MAGIC = b"GGUF"

_DIGIT_BY_DIGIT = ("smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b")
_AS_GPT2 = ("gpt-2", "mpt", "olmo", "jais", "trillion")
"""Values of `tokenizer.ggml.pre` for which llama.cpp cuts every digit off, and for which it cuts as GPT-2 does."""


@quiet()
def converted(file: Path) -> Path:
    """The folder that `file` was converted into; it is converted now if this is the first time.

    Conversion takes 4 bytes of memory for each of the model's numbers. Several processes may ask at once: one converts,
    the others wait for it.

    Raises:
        ModelError: no GGUF file, a damaged one, one part of several, or a model or tokenizer that cannot be converted.
        MissingExtraError: the package `gguf` is not installed.
        StorageError: the cache folder cannot be written.
    """
    _check_magic(file)
    stat = file.stat()
    folder = cache_root() / "models" / f"{_sha256(file, stat.st_size, stat.st_mtime_ns)}-v{_FORMAT}"
    if is_complete(folder):
        return folder
    with one_at_a_time(folder):
        if not is_complete(folder):
            origin = _read_origin(file)
            with new_folder(folder) as temporary:
                _convert(file, temporary, origin)
    return folder


@lru_cache(maxsize=16)
def _sha256(file: Path, size: int, changed_ns: int) -> str:
    """Hash of the file's bytes, read once a process as long as size and time of change stay."""
    return sha256_file(file)


def _check_magic(file: Path) -> None:
    if not file.is_file():
        raise ModelError(f"{file}: no such file")
    with opened(file, ModelError) as handle:
        head = handle.read(len(_MAGIC))
    if head != _MAGIC:
        raise ModelError(f"{file}: is no GGUF file (it begins with {head!r}, not {_MAGIC!r}); download it again")


def _read_origin(file: Path) -> dict[str, Any]:
    """What the file says of itself, and the kinds of its tensors: the number of each, matrices told from vectors."""
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError(f"{file}: reading GGUF files takes the package gguf: pip install 'searchtune[llm]'")
    from gguf import GGUFReader

    try:
        reader = GGUFReader(file)
        said = {name: reader.fields[name].contents() for name in reader.fields if _of_interest(name)}
        tensors = [(tensor.tensor_type.name, len(tensor.shape) > 1) for tensor in reader.tensors]
    except (ValueError, IndexError, KeyError, OSError, UnicodeDecodeError) as error:
        raise ModelError(
            f"{file}: cannot be read as GGUF ({error}): damaged or cut short; download it again"
        ) from error
    if said.get("split.count", 1) > 1:
        raise ModelError(
            f"{file}: is one part of {said['split.count']}; join the parts with `llama-gguf-split --merge` first"
        )
    matrices = [kind for kind, matrix in tensors if matrix]
    return {
        "file": file.name,
        **said,
        "matrices": {kind: matrices.count(kind) for kind in sorted(set(matrices))},
    }


def _of_interest(name: str) -> bool:
    return name.startswith(("general.", "split.")) or name in ("tokenizer.ggml.model", "tokenizer.ggml.pre")


def _convert(file: Path, folder: Path, origin: dict[str, Any]) -> None:
    """Write config, weights, tokenizer and origin of `file` into the empty `folder`."""
    from transformers import GgufConfig

    where: dict[str, Any] = {"gguf_file": file.name, "trust_remote_code": False, "local_files_only": True}
    unpacked = GgufConfig(dequantize=True)  # left in blocks, the weights would need code from the hub to run
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **where)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, quantization_config=unpacked, **where
        )
    except (OSError, ValueError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise ModelError(
            f"{file}: transformers cannot open this model of architecture {origin.get('general.architecture')!r} "
            f"({error}); name the model's Hugging Face folder instead"
        ) from error
    dtype = _storage_dtype(file, model, origin["matrices"])
    _round(model, dtype)
    model.save_pretrained(folder)
    _edit_json(
        folder / "config.json",
        drop=("quantization_config", "_name_or_path", "_model_name_or_path"),
        dtype="float32" if dtype == torch.float32 else "bfloat16",
    )
    _cut_as_llama_cpp(file, tokenizer, origin)
    tokenizer.model_max_length = int(model.config.max_position_embeddings)
    tokenizer.save_pretrained(folder)
    _edit_json(
        folder / "tokenizer_config.json",
        drop=("is_local", "local_files_only", "backend"),
        tokenizer_class="PreTrainedTokenizerFast",
    )
    write_json(folder / ORIGIN_FILE, {**origin, "stored_as": str(dtype).removeprefix("torch.")})


def _storage_dtype(file: Path, model: Any, matrices: Mapping[str, int]) -> torch.dtype:
    """The smallest type that holds what the file holds; see the head of this module.

    A number beyond float16's range, which float16 scales allow, makes it float32.
    """
    if "F32" in matrices or not matrices:
        return torch.float32
    if set(matrices) == {"BF16"}:
        return torch.bfloat16
    largest = max(float(tensor.abs().max()) for tensor in model.state_dict().values() if tensor.is_floating_point())
    if not math.isfinite(largest):
        raise ModelError(f"{file}: its weights hold NaN or infinity: damaged; download it again")
    return torch.float16 if largest <= torch.finfo(torch.float16).max else torch.float32


def _round(model: Any, dtype: torch.dtype) -> None:
    """Give `dtype` to the matrices and to vectors that it holds exactly; other vectors stay float32, as in the file."""
    for parameter in model.parameters():
        rounded = parameter.data.to(dtype)
        if parameter.ndim > 1 or torch.equal(rounded.float(), parameter.data):
            parameter.data = rounded


def _cut_as_llama_cpp(file: Path, tokenizer: Any, origin: Mapping[str, Any]) -> None:
    """Cut text before byte-pair merging as `tokenizer.ggml.pre` says; transformers cuts as GPT-2 what it does not know.

    The vocabulary alone does not tell: cut wrongly, most text gives the same tokens, and three spaces before a digit
    give others than the model was trained on.
    """
    if origin.get("tokenizer.ggml.model") != "gpt2":
        return
    backend, pre = tokenizer.backend_tokenizer, origin.get("tokenizer.ggml.pre")
    if pre in _DIGIT_BY_DIGIT:
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    elif pre not in _AS_GPT2 and isinstance(backend.pre_tokenizer, pre_tokenizers.ByteLevel):
        raise ModelError(
            f"{file}: tokenizer.ggml.pre is {pre!r}, and how that cuts text is not known here; name the model's "
            "Hugging Face folder instead"
        )


def _edit_json(file: Path, *, drop: tuple[str, ...], **values: str) -> None:
    """Leave out some keys of a JSON file and set others."""
    settings = read_json_object(file, ModelError)
    write_json(file, {key: value for key, value in settings.items() if key not in drop} | values)
