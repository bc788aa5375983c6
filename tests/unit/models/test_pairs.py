"""Pairs put together from bare texts are the tokenizer's own pairs, cut where it cuts them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from searchtune.errors import ConfigError
from searchtune.models.cut_count import LEAST_DOCUMENT, CutCount
from searchtune.models.pairs import pair_store, template_format, tokenizer_format

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(
        tiny_model, model_input_names=["input_ids", "token_type_ids", "attention_mask"]
    )


TEXTS = ["a", "", "b c d e f", "x " * 40, "q w e r t y u i o p " * 3, "0 1 2 3 4 5 6 7 8 9"]


@pytest.mark.parametrize("limit", [5, 8, 9, 20, 31, 64, 128])
def test_every_pair_is_the_tokenizers(tokenizer, limit):
    store = pair_store(tokenizer, TEXTS, TEXTS, tokenizer_format(tokenizer, limit))
    for query, left in enumerate(TEXTS):
        for doc, right in enumerate(TEXTS):
            batch = tokenizer([(left, right)], truncation=True, max_length=limit)  # alone, an empty text counts as none
            theirs = {key: values[0] for key, values in batch.items()}
            chunk = store.chunk(np.array([query]), np.array([doc]), CPU)
            tokens = int(chunk.mask.sum())
            assert chunk.ids[0, :tokens].tolist() == theirs["input_ids"], (left, right)
            assert chunk.segments[0, :tokens].tolist() == theirs["token_type_ids"]
            assert store.lengths(np.array([query]), np.array([doc]))[0] == tokens


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(5, 128))
def test_cut_lengths_fill_the_room_and_no_more(tokenizer, query, document, limit):
    form = tokenizer_format(tokenizer, limit)
    left, right = (int(each[0]) for each in form.cut(np.array([query]), np.array([document])))
    assert left <= query and right <= document
    assert left + right == min(query + document, form.room)


def test_a_chunk_pads_and_counts_what_it_cuts(tokenizer):
    store = pair_store(tokenizer, ["a b", "c"], ["d", "e " * 50], tokenizer_format(tokenizer, 16))
    queries, docs = np.array([0, 1]), np.array([0, 1])
    chunk = store.chunk(queries, docs, CPU)
    assert chunk.mask.sum(1).tolist() == [6, 16]
    assert (chunk.ids[0, 6:] == 0).all()
    assert store.truncated(queries, docs) == 1


def test_a_template_keeps_query_and_instruction_whole(tokenizer):
    form = template_format(tokenizer, "q {query} d {document} r", 12)
    store = pair_store(tokenizer, ["a b c"], ["e " * 50], form)
    chunk = store.chunk(np.array([0]), np.array([0]), CPU)
    words = tokenizer.convert_ids_to_tokens(chunk.ids[0, :12].tolist())
    assert words == ["q", "a", "b", "c", "d", *["e"] * 6, "r"]
    assert chunk.segments is None


def test_a_long_query_leaves_the_document_a_quarter_of_the_room(tokenizer):
    form = template_format(tokenizer, "q {query} d {document} r", 19)  # 16 tokens for the texts
    store = pair_store(tokenizer, ["a " * 50, "b"], ["e " * 50, "f " * 2], form)
    queries, docs = np.array([0, 0, 1]), np.array([0, 1, 0])
    left, right = form.cut(store.queries.lengths[queries], store.documents.lengths[docs])
    assert (left.tolist(), right.tolist()) == ([12, 14, 1], [4, 2, 15]), "never less than a short document needs"
    counted = CutCount()
    store.count(queries, docs, counted)
    assert (counted.texts, counted.cut, counted.queries) == (3, 3, 2)
    said = counted.words("pairs", 19, "shorten them")
    assert said == "3 of 3 pairs (100 %) are cut at 19 tokens, 2 of them in the query too: shorten them"


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 300), st.integers(0, 300), st.integers(8, 128))
def test_a_document_has_its_least_share_whatever_the_query(tokenizer, query, document, limit):
    for form in (tokenizer_format(tokenizer, limit), template_format(tokenizer, "q {query} d {document} r", limit)):
        left, right = (int(each[0]) for each in form.cut(np.array([query]), np.array([document])))
        assert left + right == min(query + document, form.room)
        assert right >= min(document, LEAST_DOCUMENT * form.room)


@pytest.mark.parametrize("template", ["{query}", "{document} {query}", "{query} {query} {document}", "nothing"])
def test_a_template_without_its_places_is_refused(tokenizer, template):
    with pytest.raises(ConfigError, match="must hold"):
        template_format(tokenizer, template, 64)


def test_a_length_without_room_for_text_is_refused(tokenizer):
    with pytest.raises(ConfigError, match="max_tokens is 4, but 3 tokens stand around"):
        tokenizer_format(tokenizer, 4)
