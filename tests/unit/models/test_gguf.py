"""GGUF files, tiny ones written here: what the converted folder holds, and files that cannot be converted."""

import importlib.util
import json
import multiprocessing
import shutil
import sys

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models import gguf as module
from searchtune.models.gguf import ORIGIN_FILE, converted
from searchtune.models.sources import resolve_model, tokenizer_sha256, weights_sha256
from searchtune.storage.marker import check_complete

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'searchtune[llm]'")

DIM, HIDDEN, LAYERS, CONTEXT = 64, 96, 2, 128
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m.role }} {{ m.content }}<|im_end|>{% endfor %}"


def vocabulary() -> list[str]:
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    return ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *bytes_to_unicode().values(), "ĠĠ", "ĠĠĠ", "he"]


def write_gguf(file, *, kind="Q8_0", pre="smollm", seed=0, tensors=None, **keys):
    """A random Llama as llama.cpp writes it: matrices of `kind`, vectors in float32, no output layer of its own."""
    rng, words = np.random.default_rng(seed), vocabulary()
    writer = gguf.GGUFWriter(file, keys.pop("architecture", "llama"))
    writer.add_name("Tiny")
    writer.add_license("apache-2.0")
    writer.add_context_length(CONTEXT)
    writer.add_embedding_length(DIM)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(10000.0)
    writer.add_rope_dimension_count(DIM // 4)
    writer.add_vocab_size(len(words))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(pre)
    writer.add_token_list(words)
    writer.add_token_types([3] * 3 + [1] * (len(words) - 3))
    writer.add_token_merges(["Ġ Ġ", "ĠĠ Ġ", "h e"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    writer.add_chat_template(TEMPLATE)
    for name, value in keys.items():
        writer.add_uint16(name.replace("__", "."), value)
    shapes = {"token_embd.weight": (len(words), DIM), "output_norm.weight": (DIM,)}
    for layer in range(LAYERS):
        half = DIM // 2
        shapes |= {
            f"blk.{layer}.{name}.weight": shape
            for name, shape in {
                "attn_norm": (DIM,), "attn_q": (DIM, DIM), "attn_k": (half, DIM), "attn_v": (half, DIM),
                "attn_output": (DIM, DIM), "ffn_norm": (DIM,), "ffn_gate": (HIDDEN, DIM), "ffn_up": (HIDDEN, DIM),
                "ffn_down": (DIM, HIDDEN),
            }.items()
        }  # fmt: skip
    for name, shape in shapes.items():
        values = rng.normal(scale=0.2, size=shape).astype(np.float32) + (len(shape) == 1)
        values = (tensors or {}).get(name, values)
        stored = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    for step in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file, writer.close):
        step()
    return file


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "models"


def weights(folder, **options):
    return AutoModelForCausalLM.from_pretrained(folder, local_files_only=True, **options).eval()


@torch.no_grad()
def logits(model):
    return model(torch.arange(3, 40)[None]).logits


@pytest.mark.parametrize("kind, stored", [
    ("Q4_1", torch.float16), ("Q8_0", torch.float16), ("F16", torch.float16), ("BF16", torch.bfloat16),
    ("F32", torch.float32),
])  # fmt: skip
def test_the_folder_gives_the_files_logits(tmp_path, kind, stored):
    file = write_gguf(tmp_path / "tiny.gguf", kind=kind)
    folder = resolve_model(str(file))
    check_complete(folder)
    direct = weights(tmp_path, gguf_file=file.name, dtype=stored)
    assert torch.equal(logits(direct), logits(weights(folder, dtype=stored)))
    exact = logits(weights(tmp_path, gguf_file=file.name, dtype=torch.float32))
    ours = logits(weights(folder, dtype=torch.float32))
    assert (ours - exact).abs().max() <= (5e-2 if kind.startswith("Q") else 0)
    config = json.loads((folder / "config.json").read_text())
    assert "quantization_config" not in config
    assert config["dtype"] == ("float32" if kind == "F32" else "bfloat16")
    origin = json.loads((folder / ORIGIN_FILE).read_text())
    assert origin["general.license"] == "apache-2.0" and list(origin["matrices"]) == [kind]
    assert origin["stored_as"] == str(stored).removeprefix("torch.")
    assert len(weights_sha256(folder)) == len(tokenizer_sha256(folder)) == 64
    weights(folder, dtype=torch.bfloat16).save_pretrained(tmp_path / "again")


def test_matrices_are_those_of_the_gguf_package(tmp_path):
    file = write_gguf(tmp_path / "tiny.gguf", kind="Q4_1")
    up = next(one for one in gguf.GGUFReader(file).tensors if one.name == "blk.1.ffn_up.weight")
    expected = torch.from_numpy(gguf.dequantize(up.data, up.tensor_type)).half()
    found = weights(converted(file), dtype=torch.float16).model.layers[1].mlp.up_proj.weight
    assert torch.equal(found, expected)


def test_a_number_beyond_float16_is_kept(tmp_path):
    values = np.ones((HIDDEN, DIM), dtype=np.float32)
    values[0] = 7e4
    file = write_gguf(tmp_path / "tiny.gguf", kind="Q8_0", tensors={"blk.0.ffn_up.weight": values})
    folder = converted(file)
    assert json.loads((folder / ORIGIN_FILE).read_text())["stored_as"] == "float32"
    assert weights(folder, dtype=torch.float32).model.layers[0].mlp.up_proj.weight.max() > 6.9e4


def test_the_tokenizer(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(converted(write_gguf(tmp_path / "tiny.gguf")), local_files_only=True)
    assert tokenizer.tokenize("he   42") == ["he", "ĠĠĠ", "4", "2"]  # GPT-2's way gives ĠĠ Ġ 4 2
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == (
        "<|im_start|>",
        "<|im_end|>",
        "<|im_end|>",
    )
    chat = tokenizer.apply_chat_template([{"role": "user", "content": "he"}], tokenize=False)
    assert chat == "<|im_start|>user he<|im_end|>"
    assert tokenizer(chat).input_ids[0] == 1 and tokenizer(chat).input_ids[-1] == 2
    assert tokenizer.model_max_length == CONTEXT


@pytest.mark.parametrize("pre, cut", [("gpt-2", ["Ġ1234"]), ("llama-bpe", ["Ġ", "123", "4"])])
def test_other_ways_to_cut(tmp_path, pre, cut):
    folder = converted(write_gguf(tmp_path / "tiny.gguf", pre=pre))
    backend = AutoTokenizer.from_pretrained(folder, local_files_only=True).backend_tokenizer
    assert [piece for piece, _ in backend.pre_tokenizer.pre_tokenize_str("he 1234")] == ["he", *cut]


def test_a_way_to_cut_that_nobody_knows(tmp_path, cache):
    with pytest.raises(ModelError, match=r"tokenizer\.ggml\.pre is 'my-own'.*Hugging Face folder"):
        converted(write_gguf(tmp_path / "tiny.gguf", pre="my-own"))
    assert [path.suffix for path in cache.iterdir()] == [".lock"]  # nothing half-made


def test_conversion_runs_once_and_again_for_another_file(tmp_path, cache, monkeypatch):
    file = write_gguf(tmp_path / "tiny.gguf")
    first = converted(file)
    whole, runs = module._convert, []
    monkeypatch.setattr(module, "_convert", lambda *args: (runs.append(args), whole(*args)))
    assert converted(file) == converted(shutil.copy(file, tmp_path / "copy.gguf")) == first
    assert not runs
    other = converted(write_gguf(tmp_path / "tiny.gguf", seed=1))
    assert other != first and len(runs) == 1
    (first / "model.safetensors").unlink()  # damaged: made anew
    assert converted(tmp_path / "copy.gguf") == first and len(runs) == 2
    check_complete(first)
    assert first.parent == cache and first.name.endswith("-v1") and len(first.name) == 64 + 3


def _convert_and_note(file, log):
    whole = module._convert

    def noted(*args):
        with log.open("a") as out:
            out.write("converted\n")
        whole(*args)

    module._convert = noted
    converted(file)


def test_two_processes_convert_once(tmp_path):
    file, log = write_gguf(tmp_path / "tiny.gguf"), tmp_path / "log"
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_convert_and_note, args=(file, log)) for _ in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0, 0]
    assert log.read_text() == "converted\n"
    check_complete(converted(file))


def test_files_that_are_no_models(tmp_path):
    with pytest.raises(ModelError, match=r"absent\.gguf: no such file"):
        resolve_model(str(tmp_path / "absent.gguf"))
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(ModelError, match="is no GGUF file.*download it again"):
        resolve_model(str(tmp_path / "page.gguf"))
    data = write_gguf(tmp_path / "tiny.gguf").read_bytes()
    for length in (4, 30, 2000, len(data) - 5000):
        (tmp_path / "cut.gguf").write_bytes(data[:length])
        with pytest.raises(ModelError, match="cannot be read as GGUF"):
            resolve_model(str(tmp_path / "cut.gguf"))
    with pytest.raises(ModelError, match="is one part of 3; join the parts"):
        converted(write_gguf(tmp_path / "part.gguf", split__count=3))
    with pytest.raises(ModelError, match="architecture 'no-such-model'"):
        converted(write_gguf(tmp_path / "other.gguf", architecture="no-such-model"))


def test_a_file_inside_a_package(tmp_path, monkeypatch):
    package = tmp_path / "some_weights"
    package.mkdir()
    (package / "__init__.py").write_text("raise ImportError('the package itself is never run')")
    file = write_gguf(package / "tiny.gguf")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    assert resolve_model("package:some_weights/tiny.gguf") == converted(file)
    with pytest.raises(ModelError, match=r"has no file 'small\.gguf' \(it has: tiny\.gguf\)"):
        resolve_model("package:some_weights/small.gguf")
    with pytest.raises(ModelError, match="has no file"):
        resolve_model("package:some_weights/../outside.gguf")


def test_without_the_gguf_package(tmp_path, monkeypatch):
    file, find = write_gguf(tmp_path / "tiny.gguf"), importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[llm\]'"):
        converted(file)
