"""Writing a language model as a GGUF file, which llama.cpp and what is built on it run; the reverse of `gguf`.

Names of tensors and the tokenizer's special tokens come from the package `gguf` itself. Matrices are stored as float16,
or as Q8_0: whole numbers of 8 bits with a float16 scale for every 32. Vectors stay float32. What this module does not
know how to say in the format is refused: a file that loads and answers wrongly is worse than none.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.base_facts import BaseFacts, base_facts
from searchtune.models.quiet import quiet

GgufKind = Literal["f16", "q8_0"]
GGUF_TOLERANCE = {"f16": 1e-2, "q8_0": 1e-1}
"""By how much of the largest score (or of 1) storing matrices so may move a score."""
_SUPPORTED = ("llama",)
_LLAMA_3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}"
"""How the pattern begins by which Llama 3 cuts text."""
_LARGEST = float(np.finfo(np.float16).max)


@quiet()
def write_gguf(
    folder: Path, file: Path, kind: GgufKind = "f16", *, base: BaseFacts | None = None, tuned: str = ""
) -> None:
    """Write the causal language model in the plain Hugging Face `folder` as the GGUF `file`.

    `base` is what the base says of itself, by default what the folder does: licence, languages and authors are handed
    on. With `tuned`, the name of an adapter that is folded in, the base is named as such and the file after both.

    Raises:
        ModelError: an architecture, a position encoding or a tokenizer that cannot be written so.
        MissingExtraError: the package `gguf` is not installed.
    """
    if importlib.util.find_spec("gguf") is None:
        raise MissingExtraError("writing GGUF files takes the package gguf: pip install 'searchtune[llm]'")
    import gguf
    import torch

    config: Any = AutoConfig.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    _check_config(folder, config)
    tokens = _read_tokenizer(folder, int(config.vocab_size))
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True)
    writer = gguf.GGUFWriter(file, "llama")
    _add_facts(writer, base or base_facts(folder, folder.name), tuned)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16 if kind == "f16" else gguf.LlamaFileType.MOSTLY_Q8_0)
    _add_shapes(writer, config)
    _add_tokenizer(writer, folder, tokens)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, values in _tensors(model, config):
        stored = _storage(values, kind)
        if stored == gguf.GGMLQuantizationType.F16 and float(np.abs(values).max(initial=0)) > _LARGEST:
            raise ModelError(f"{folder}: {name} holds numbers beyond float16; GGUF export stores float16")
        there = names.get_name(name, try_suffixes=(".weight", ".bias"))
        if there is None:
            raise ModelError(f"{folder}: GGUF has no place for the tensor {name!r} of a Llama")
        writer.add_tensor(there, gguf.quantize(values, stored), raw_dtype=stored)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()


def _check_config(folder: Path, config: Any) -> None:
    if config.model_type not in _SUPPORTED:
        raise ModelError(
            f"{folder}: GGUF export knows {', '.join(_SUPPORTED)}, and this is {config.model_type!r}; export --format "
            "hf and use llama.cpp's convert_hf_to_gguf.py on that folder"
        )
    rope = getattr(config, "rope_parameters", None) or {}
    if rope.get("rope_type", "default") != "default":
        raise ModelError(
            f"{folder}: its positions are scaled by {rope['rope_type']!r}, which GGUF export does not write; export "
            "--format hf and use llama.cpp's convert_hf_to_gguf.py on that folder"
        )


def _add_facts(writer: Any, base: BaseFacts, tuned: str) -> None:
    """The keys `general.*` that say what the file is, whose work it is made of, and under which licence it stands."""
    writer.add_type("model")
    writer.add_name(f"{base.name} {tuned}".strip())
    texts = {
        writer.add_license: base.licence,
        writer.add_license_name: base.licence_name,
        writer.add_license_link: base.licence_link,
        writer.add_author: base.author,
        writer.add_finetune: tuned,
    }
    lists = {writer.add_languages: base.languages, writer.add_tags: base.tags}
    for add, value in (*texts.items(), *lists.items()):
        if value:
            add(list(value) if isinstance(value, tuple) else value)
    if not tuned:
        return
    writer.add_base_model_count(1)
    writer.add_base_model_name(0, base.name)
    parts = {
        writer.add_base_model_author: base.author,
        writer.add_base_model_organization: base.organisation,
        writer.add_base_model_repo_url: base.url,
    }
    for add, value in parts.items():
        if value:
            add(0, value)


def _add_shapes(writer: Any, config: Any) -> None:
    head_dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(float((getattr(config, "rope_parameters", None) or {}).get("rope_theta", 10000.0)))
    writer.add_rope_dimension_count(head_dim)
    writer.add_vocab_size(config.vocab_size)


def _read_tokenizer(folder: Path, size: int) -> dict[str, Any]:
    """How the tokenizer cuts text (`pre`), and its words with their kinds, `size` of them."""
    tokenizer: Any = AutoTokenizer.from_pretrained(folder, trust_remote_code=False, local_files_only=True)
    backend = json.loads(tokenizer.backend_tokenizer.to_str())
    if backend["model"]["type"] != "BPE" or backend["model"].get("byte_fallback"):
        raise ModelError(
            f"{folder}: GGUF export writes byte-level BPE tokenizers, and this is {backend['model']['type']}"
        )
    words = {number: word for word, number in tokenizer.get_vocab().items()}
    special = {entry["id"]: bool(entry["special"]) for entry in backend["added_tokens"]}
    return {"pre": _pre(folder, backend), "words": words, "special": special, "size": size}


def _pre(folder: Path, backend: dict[str, Any]) -> str:
    """llama.cpp's name for the way text is cut before byte-pair merging."""
    cut = backend.get("pre_tokenizer") or {}
    parts = cut.get("pretokenizers", [cut])
    kinds = [part.get("type") for part in parts]
    if backend.get("normalizer") is None and not any(part.get("add_prefix_space") for part in parts):
        if kinds == ["ByteLevel"] and parts[0]["use_regex"]:
            return "gpt-2"
        if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
            return "smollm"
        if kinds == ["Split", "ByteLevel"] and parts[0]["pattern"].get("Regex", "").startswith(_LLAMA_3):
            return "llama-bpe"
    raise ModelError(f"{folder}: GGUF has no known name for how its tokenizer cuts text ({kinds}); export --format hf")


def _add_tokenizer(writer: Any, folder: Path, tokens: dict[str, Any]) -> None:
    from gguf import SpecialVocab, TokenType

    size, words, special = tokens["size"], tokens["words"], tokens["special"]
    kinds = [
        TokenType.UNUSED
        if number not in words
        else TokenType.NORMAL
        if number not in special
        else TokenType.CONTROL
        if special[number]
        else TokenType.USER_DEFINED
        for number in range(size)
    ]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(tokens["pre"])
    writer.add_token_list([words.get(number, f"[PAD{number}]") for number in range(size)])
    writer.add_token_types(kinds)
    SpecialVocab(folder, load_merges=True, n_vocab=size).add_to_gguf(writer, quiet=True)


def _tensors(model: Any, config: Any) -> Iterator[tuple[str, npt.NDArray[np.float32]]]:
    """The weights by transformers' names, queries and keys in the order in which llama.cpp turns their dimensions."""
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        values = tensor.float().numpy()
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if f".{part}." in name:
                values = interleaved(values, heads)
        yield name, values


def interleaved(values: npt.NDArray[np.float32], heads: int) -> npt.NDArray[np.float32]:
    """Rows of a head as pairs (i, i + half) beside each other: transformers turns halves, llama.cpp neighbours.

    Shape: (heads x size, ...) all.
    """
    half = values.shape[0] // heads // 2
    return np.ascontiguousarray(
        values.reshape(heads, 2, half, *values.shape[1:]).swapaxes(1, 2).reshape(values.shape), dtype=np.float32
    )


def _storage(values: npt.NDArray[np.float32], kind: GgufKind) -> Any:
    from gguf import GGMLQuantizationType

    if values.ndim < 2:
        return GGMLQuantizationType.F32
    whole_blocks = values.shape[-1] % 32 == 0
    return GGMLQuantizationType.Q8_0 if kind == "q8_0" and whole_blocks else GGMLQuantizationType.F16
