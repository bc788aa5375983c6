"""Texts for probes: of the vocabulary alone, the same every time, of all lengths."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer

from searchtune.models.probes import PROBES, spread, synthetic_texts
from unit.models.causal import write_byte_causal


@pytest.fixture(scope="module", params=["words", "bytes"])
def tokenizer(request, tmp_path_factory, tiny_model):
    folder: Path = tiny_model
    if request.param == "bytes":
        folder = write_byte_causal(tmp_path_factory.mktemp("bytes") / "model")
    return AutoTokenizer.from_pretrained(folder)


def test_they_are_made_of_the_vocabulary(tokenizer):
    texts = synthetic_texts(tokenizer, 60)
    assert texts == synthetic_texts(tokenizer, 60) != synthetic_texts(tokenizer, 60, seed=1)
    lengths = [len(text.split()) for text in texts]
    assert len(texts) == PROBES and lengths == sorted(lengths) and (lengths[0], lengths[-1]) == (2, 60)
    words = {word for text in texts for word in text.split()}
    assert len(words) > 5 and all(word.isalpha() for word in words)
    unknown = tokenizer.unk_token_id
    assert unknown is None or unknown not in tokenizer(texts[-1])["input_ids"]
    assert not set(tokenizer.all_special_tokens) & words


def test_short_ones_and_a_single_one(tokenizer):
    assert [len(text.split()) for text in synthetic_texts(tokenizer, 1)] == [1] * PROBES


def test_items_spread_over_their_order():
    assert spread(list(range(100)), 3) == [0, 49, 99]
    assert spread(["a"]) == ["a"]
