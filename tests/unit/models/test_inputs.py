"""Token stores against the tokenizer's own lists."""

import numpy as np
import pytest
from transformers import AutoTokenizer

from searchtune.models.inputs import tokenise


@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama_model"])
@pytest.mark.parametrize("limit", [3, 9, 64])
def test_ids_are_the_tokenizer_s(request, model, limit, texts):
    tokenizer = AutoTokenizer.from_pretrained(request.getfixturevalue(model), local_files_only=True)
    some = ["", *texts]
    store = tokenise(tokenizer, some, limit, "old ")
    expected = [tokenizer(f"old {text}", truncation=True, max_length=limit)["input_ids"] for text in some]
    assert store.lengths.tolist() == [len(ids) for ids in expected]
    assert store.ids.tolist() == [token for ids in expected for token in ids]
    assert store.ids.dtype == np.int64
    assert store.truncated == sum(len(tokenizer(f"old {text}")["input_ids"]) > limit for text in some)
