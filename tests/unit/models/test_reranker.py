"""Rerankers on tiny models: scores as the library gives them, new heads that are trained and kept."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

import support
from searchtune.errors import ConfigError, ModelError
from searchtune.models.adapters import add_lora
from searchtune.models.pairs import pair_store
from searchtune.models.reranker import YES_NO_TEMPLATE, Reading, head_modules, load_reranker
from searchtune.specs.recipe import LoraMethod
from unit.models.causal import write_byte_causal

pytestmark = pytest.mark.processor

CPU = torch.device("cpu")
QUERIES = ["a b c", "d"]
DOCUMENTS = ["a b", "c d e f g", "h " * 90]


def loaded(folder, dtype=torch.float32, attention="sdpa", seed=13, **reading):
    return load_reranker(folder, Reading(**reading), dtype=dtype, device=CPU, attention=attention, seed=seed)


def all_scores(reranker):
    store = pair_store(reranker.tokenizer, QUERIES, DOCUMENTS, reranker.form)
    queries, docs = np.repeat(np.arange(2), 3), np.tile(np.arange(3), 2)
    return reranker.score_store(store, queries, docs, tokens_per_chunk=150)


@pytest.fixture(scope="session")
def tiny_causal(tmp_path_factory):
    """A random causal Llama with the small world's tokenizer, and yes and no among its words."""
    return support.write_causal(tmp_path_factory.mktemp("causal"))


@pytest.mark.parametrize("model", ["tiny_model", "tiny_llama_model"])
def test_scores_are_the_librarys(request, model):
    folder = request.getfixturevalue(model)
    reranker = loaded(folder, max_tokens=64)
    assert reranker.fresh_head
    tokenizer = reranker.tokenizer
    pairs = [(query, doc) for query in QUERIES for doc in DOCUMENTS]
    for (query, doc), ours in zip(pairs, all_scores(reranker), strict=True):
        inputs = tokenizer(query, doc, truncation=True, max_length=64, return_tensors="pt")
        with torch.no_grad():
            assert float(reranker.backbone(**inputs).logits) == pytest.approx(ours, abs=1e-5)


def test_a_decoder_whose_padding_is_not_entry_0_reads_the_last_token(tmp_path):
    """It finds the last token by the padding's id: padded with another, a pair's score would depend on its batch."""
    reranker = loaded(write_byte_causal(tmp_path), max_tokens=64, head="classifier")
    assert reranker.backbone.config.pad_token_id == reranker.tokenizer.pad_token_id == 2
    store = pair_store(reranker.tokenizer, QUERIES, DOCUMENTS, reranker.form)
    pairs = [(query, doc) for query in range(2) for doc in range(3)]
    alone = [reranker.score_chunk(store.chunk(np.array([q]), np.array([d]), CPU)).item() for q, d in pairs]
    padded = reranker.score_chunk(store.chunk(*np.array(pairs).T, CPU))
    assert np.abs(np.array(alone) - padded.detach().numpy()).max() < 1e-5


def test_a_new_head_is_drawn_from_the_seed(tiny_model):
    first, again, other = (all_scores(loaded(tiny_model, seed=seed)) for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.allclose(first, other)


def test_a_saved_head_is_not_new(tiny_model, tmp_path):
    reranker = loaded(tiny_model)
    reranker.backbone.save_pretrained(tmp_path)
    reranker.tokenizer.save_pretrained(tmp_path)
    reopened = loaded(tmp_path)
    assert not reopened.fresh_head
    assert np.allclose(all_scores(reranker), all_scores(reopened), atol=1e-6)


@pytest.mark.parametrize(
    ("model", "head"), [("tiny_model", ["bert.pooler", "classifier"]), ("tiny_llama_model", ["score"])]
)
def test_the_head_is_trained_whole_and_in_float32(request, model, head):
    reranker = loaded(request.getfixturevalue(model), dtype=torch.bfloat16, attention="eager")
    assert head_modules(reranker.backbone) == head
    before = all_scores(reranker)
    adapter = add_lora(reranker, LoraMethod(rank=2, alpha=4), seed=1, task_type="SEQ_CLS", head=reranker.head_modules)
    assert np.allclose(before, all_scores(reranker), atol=0.02), "an untrained adapter changes nothing"
    trained = {name: p for name, p in adapter.parameters.items() if "modules_to_save" in name}
    assert trained and all(p.dtype == torch.float32 for p in trained.values())
    store = pair_store(reranker.tokenizer, QUERIES, DOCUMENTS, reranker.form)
    chunk = store.chunk(np.array([0, 1]), np.array([1, 2]), CPU)
    reranker([chunk]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in trained.values())
    assert all(p.grad is not None for p in adapter.parameters.values())


def test_recomputed_gradients_are_the_same(tiny_model):
    grads = []
    for recompute in (False, True):
        reranker = loaded(tiny_model, attention="eager")
        adapter = add_lora(
            reranker, LoraMethod(rank=2, alpha=4), seed=1, task_type="SEQ_CLS", head=reranker.head_modules
        )
        store = pair_store(reranker.tokenizer, QUERIES, DOCUMENTS, reranker.form)
        chunks = [store.chunk(np.array([i]), np.array([i]), CPU) for i in (0, 1)]
        reranker(chunks, recompute=recompute).square().sum().backward()
        grads.append([p.grad.clone() for p in adapter.parameters.values()])
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(*grads, strict=True))


def test_yes_no_scores_are_differences_of_logits(tiny_causal):
    reranker = loaded(tiny_causal, max_tokens=96)
    assert reranker.layout.head == "yes-no" and not reranker.fresh_head and reranker.head_modules == []
    scores = all_scores(reranker)
    model = AutoModelForCausalLM.from_pretrained(tiny_causal).eval()
    yes, no = reranker.layout.answers
    for row, query in enumerate(QUERIES):
        for place, doc in enumerate(DOCUMENTS[:2]):
            prompt = YES_NO_TEMPLATE.replace("{query}", query).replace("{document}", doc)
            ids = reranker.tokenizer(prompt, add_special_tokens=False, return_tensors="pt")["input_ids"]
            with torch.no_grad():
                logits = model(ids).logits[0, -1]
            assert scores[3 * row + place] == pytest.approx(float(logits[yes] - logits[no]), abs=1e-5)


def test_what_cannot_rerank_is_refused(tiny_model, tmp_path):
    two = AutoModelForSequenceClassification.from_pretrained(tiny_model, num_labels=2)
    two.save_pretrained(tmp_path / "two")
    with pytest.raises(ModelError, match="2 outputs"):
        loaded(tmp_path / "two")
    with pytest.raises(ConfigError, match="max_tokens is 500, but .* has 128 positions"):
        loaded(tiny_model, max_tokens=500)
    (tmp_path / "config.json").write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match="cannot be read"):
        loaded(tmp_path)
