"""GGUF files that are written: read back they are the same model, and what cannot be written is refused."""

import importlib.util
import json
import re

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from searchtune.errors import MissingExtraError, ModelError
from searchtune.models.base_facts import BaseFacts, base_facts
from searchtune.models.gguf import converted
from searchtune.models.gguf_export import interleaved, write_gguf
from unit.models.causal import write_byte_causal, write_causal

gguf = pytest.importorskip("gguf", reason="gguf is not installed: pip install 'searchtune[llm]'")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "tiny", tie_word_embeddings=False)


@torch.no_grad()
def logits(folder, **options):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True, **options)
    return model.eval()(torch.arange(3, 60)[None]).logits


@pytest.mark.parametrize("tied", [True, False])
def test_f16_read_back_is_the_same_model(tmp_path, tied):
    folder = write_byte_causal(tmp_path / "tiny", tie_word_embeddings=tied)
    write_gguf(folder, tmp_path / "model.gguf")
    assert torch.equal(logits(tmp_path, gguf_file="model.gguf"), logits(folder))
    names = {tensor.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert ("output.weight" in names) is not tied


def test_q8_0_is_close(folder, tmp_path):
    write_gguf(folder, tmp_path / "model.gguf", "q8_0")
    found, exact = logits(tmp_path, gguf_file="model.gguf"), logits(folder)
    assert 0 < (found - exact).abs().max() < 0.05 * exact.abs().max()
    kinds = {tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / "model.gguf").tensors}
    assert kinds == {"Q8_0", "F32"}


def test_the_tokenizer_comes_back(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "cache"))
    write_gguf(folder, tmp_path / "model.gguf")
    before, after = (
        AutoTokenizer.from_pretrained(one, local_files_only=True)
        for one in (folder, converted(tmp_path / "model.gguf"))
    )
    text = "is it yes or no,  the 1995   \u00e9t\u00e9 <|im_end|>?"
    assert after(text)["input_ids"] == before(text)["input_ids"]
    assert (after.eos_token, after.bos_token, after.pad_token) == (before.eos_token, before.bos_token, before.pad_token)
    assert after.chat_template == before.chat_template


CARD = """---
license: Apache-2.0
language:
- en
- "no"
tags: [search, "ranking"]
model_creator: People of the Sea
---

# A model
"""


def general(file):
    fields = gguf.GGUFReader(file).fields
    return {name: field.contents() for name, field in fields.items() if name.startswith("general.")}


def test_name_licence_languages_and_base_are_handed_on(folder, tmp_path):
    (folder / "README.md").write_text(CARD, encoding="utf-8")
    write_gguf(folder, tmp_path / "plain.gguf")
    plain = general(tmp_path / "plain.gguf")
    assert plain["general.name"] == "tiny" and "general.base_model.count" not in plain
    base = base_facts(folder, "harbour/Tide-7M_chat")
    write_gguf(folder, tmp_path / "tuned.gguf", base=base, tuned="umbrela-judge")
    found = general(tmp_path / "tuned.gguf")
    assert found["general.name"] == "Tide 7M chat umbrela-judge"
    assert (found["general.license"], found["general.languages"]) == ("apache-2.0", ["en", "no"])
    assert (found["general.author"], found["general.tags"]) == ("People of the Sea", ["search", "ranking"])
    assert (found["general.finetune"], found["general.base_model.count"]) == ("umbrela-judge", 1)
    assert found["general.base_model.0.name"] == "Tide 7M chat"
    assert found["general.base_model.0.organization"] == "harbour"
    assert found["general.base_model.0.repo_url"] == "https://huggingface.co/harbour/Tide-7M_chat"


def test_a_base_that_came_as_gguf_is_quoted(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "cache"))
    write_gguf(folder, tmp_path / "first.gguf", base=BaseFacts("Tide", "apache-2.0", languages=("en",), author="We"))
    base = base_facts(converted(tmp_path / "first.gguf"), "package:tide/first.gguf")
    assert base == BaseFacts("Tide", "apache-2.0", languages=("en",), author="We")


@pytest.mark.parametrize(
    "head", ["", "# no head", "---\n[unclosed\n---\n", "---\n- a list\n---\n", "---\nlicense: [a, b]\n---\n"]
)
def test_a_base_that_says_nothing_is_named_after_its_folder(tmp_path, head):
    (tmp_path / "README.md").write_text(head, encoding="utf-8")
    assert base_facts(tmp_path, str(tmp_path)) == BaseFacts(re.sub("[-_]+", " ", tmp_path.name))
    assert base_facts(tmp_path, "package:some_model/SmolLM2-135M.Q4_1.gguf").name == "SmolLM2 135M.Q4 1"


def test_rows_are_interleaved_within_heads():
    rows = np.arange(8, dtype=np.float32)[:, None]  # two heads of four
    assert interleaved(rows, 2).ravel().tolist() == [0, 2, 1, 3, 4, 6, 5, 7]


def edit(folder, name, **changes):
    file = folder / name
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def test_what_cannot_be_written_is_refused(tmp_path):
    with pytest.raises(ModelError, match="byte-level BPE tokenizers, and this is WordPiece"):
        write_gguf(write_causal(tmp_path / "words"), tmp_path / "model.gguf")
    with pytest.raises(ModelError, match="knows llama, and this is 'qwen2'.*convert_hf_to_gguf"):
        write_gguf(write_byte_causal(tmp_path / "qwen", kind="qwen2"), tmp_path / "model.gguf")
    folder = write_byte_causal(tmp_path / "scaled")
    edit(folder, "config.json", rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 1e4})
    with pytest.raises(ModelError, match="positions are scaled by 'linear'"):
        write_gguf(folder, tmp_path / "model.gguf")
    folder = write_byte_causal(tmp_path / "cut")
    backend = json.loads((folder / "tokenizer.json").read_text())
    backend["pre_tokenizer"]["pretokenizers"][0] = {"type": "Whitespace"}
    (folder / "tokenizer.json").write_text(json.dumps(backend))
    with pytest.raises(ModelError, match="no known name for how its tokenizer cuts text"):
        write_gguf(folder, tmp_path / "model.gguf")
    assert not (tmp_path / "model.gguf").exists()


def test_numbers_beyond_float16_are_refused(tmp_path):
    folder = write_byte_causal(tmp_path / "large")
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.model.layers[1].mlp.up_proj.weight.data[0, 0] = 7e4
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="holds numbers beyond float16"):
        write_gguf(folder, tmp_path / "model.gguf")


def test_without_the_gguf_package(folder, tmp_path, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "gguf" else find(name))
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[llm\]'"):
        write_gguf(folder, tmp_path / "model.gguf")
