"""Replies held to JSON: whatever a random model wants to say, and against a reader that knows no automaton."""

import json

import pytest
import torch

from searchtune.errors import ConfigError
from searchtune.models.chat import chat_store
from searchtune.models.generation import Sampling, generate
from searchtune.models.generator import load_causal_lm
from searchtune.models.held_json import HeldJson
from searchtune.prompts.chat import Message
from unit.models.causal import write_byte_causal

FIELDS = {"answer": "text", "citations": "numbers", "abstained": "flag"}
GOOD = [
    '{"answer": "", "citations": [], "abstained": true}',
    '{"answer": "a \\"b\\" \\u00e9 \\n", "citations": [1, 23], "abstained": false}',
    '{"answer": "{}[],: \u00e9\u4e2d", "citations": [999], "abstained": true}',
]
BAD = [
    '{"answer": "a\n", ', '{"answer": "\\x', '{"answer": "\\u12g', '{"answer": 1', ' {', '{"citations"',
    '{"answer": "", "citations": [0', '{"answer": "", "citations": [1,2', '{"answer": "", "citations": [,',
    '{"answer": "", "citations": [1, ]', '{"answer": "", "citations": [1234', '{"answer": "", "citations": [], "abstained": n',
    GOOD[0] + " ", GOOD[0] + "}",
]  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_byte_causal(tmp_path_factory.mktemp("held") / "model", max_position_embeddings=512)
    return load_causal_lm(folder, dtype=torch.float32, device=torch.device("cpu"))


@pytest.fixture(scope="module")
def held(model):
    return HeldJson(model.tokenizer, FIELDS, max_new_tokens=200)


def tokens_of(model, text):
    return model.tokenizer(text, add_special_tokens=False)["input_ids"]


def taken(held, tokens):
    """How many tokens the constraint lets through, one by one."""
    for place, token in enumerate(tokens):
        if token not in held(tokens[:place]):
            return place
    return len(tokens)


@pytest.mark.parametrize("text", GOOD)
def test_what_fits_passes_token_by_token(model, held, text):
    tokens = tokens_of(model, text)
    assert taken(held, tokens) == len(tokens)
    assert held(tokens) == [], "and then the reply ends"
    assert held(tokens[:-1]), "not before"


@pytest.mark.parametrize("text", BAD)
def test_what_does_not_fit_is_stopped(model, held, text):
    tokens = tokens_of(model, text)
    assert taken(held, tokens) < len(tokens)


@pytest.mark.parametrize("temperature", [0.0, 3.0])
def test_a_random_model_writes_whole_objects(model, temperature):
    asked = [(Message("user", (f"question {i}",)),) for i in range(3)]
    limit = 96
    held = HeldJson(model.tokenizer, FIELDS, max_new_tokens=limit)
    sampling = Sampling(max_new_tokens=limit, temperature=temperature, seed=3)
    for _, (reply,) in generate(model, chat_store(model.tokenizer, asked, 300), sampling, allowed=held):
        value = json.loads(reply.text)
        assert list(value) == list(FIELDS) and reply.finish == "stop"
        assert isinstance(value["answer"], str) and isinstance(value["abstained"], bool)
        assert all(isinstance(n, int) and 1 <= n <= 999 for n in value["citations"])


def test_special_tokens_never_come(model, held):
    inside = tokens_of(model, '{"answer": "a')
    assert set(held(inside)).isdisjoint(model.tokenizer.all_special_ids)
    assert len(held(inside)) > 200, "in a text nearly any byte may come"


def test_other_fields_and_limits(model):
    held = HeldJson(model.tokenizer, {"ok": "flag"}, max_new_tokens=100)
    tokens = tokens_of(model, '{"ok": false}')
    assert taken(held, tokens) == len(tokens) and held(tokens) == []
    with pytest.raises(ConfigError, match="without fields"):
        HeldJson(model.tokenizer, {}, max_new_tokens=100)
    with pytest.raises(ConfigError, match="JSON takes more"):
        HeldJson(model.tokenizer, FIELDS, max_new_tokens=20)


def test_what_follows_a_state_is_found_once(model, held, monkeypatch):
    tokens = tokens_of(model, GOOD[1])
    taken(held, tokens)
    monkeypatch.setattr(HeldJson, "_walk", None)
    assert taken(held, tokens) == len(tokens), "no token is followed again"
