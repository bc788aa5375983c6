"""Labels and replies of a local model against the model itself; labels that are no single token after the prompt."""

import json
import shutil

import numpy as np
import pytest
import torch

from searchtune.errors import ConfigError, ModelError
from searchtune.models.backends import LocalBackend, Reply, label_tokens, restricted
from searchtune.models.chat import chat_store
from searchtune.models.generation import Sampling, generate
from searchtune.models.generator import load_causal_lm
from searchtune.models.identity import identify_generator
from searchtune.prompts.chat import ChatExample, Message, Passage

CPU = torch.device("cpu")
LABELS = ["rain", "loan", "moss"]
WHO = {"what": "generator", "base_sha256": "0"}


@pytest.fixture(scope="module")
def model(tiny_causal):
    return load_causal_lm(tiny_causal, dtype=torch.float32, device=CPU)


@pytest.fixture
def backend(model):
    return LocalBackend(model, WHO, max_tokens=100)


def conversations(queries=3, documents=4):
    instruction = "old new long small first early open quiet north local daily simple great late common winter"
    texts = ["sea harbour", "tide sail anchor", "wave pilot reef cargo storm deck", "gull"]
    return [
        (
            Message("system", (instruction,)),
            Message(
                "user", (f"query {LABELS[query]} bloom fever vaccine pulse nurse ", Passage(texts[document]), " grade")
            ),
        )
        for query in range(queries)
        for document in range(documents)
    ]


def test_labels_are_the_models_own_distribution(backend, model):
    asked = conversations()
    readings = backend.read_labels(asked, LABELS)
    store = chat_store(model.tokenizer, asked, 100)
    ids = model.tokenizer.convert_tokens_to_ids(LABELS)
    for place in range(len(asked)):
        text = torch.from_numpy(store.ids[store.offsets[place] : store.offsets[place + 1]])[None]
        shares = model.backbone(text).logits[0, -1].softmax(-1)
        expected = shares[ids].detach().numpy()
        assert readings.probabilities[place] == pytest.approx(expected / expected.sum(), abs=1e-5)
        assert readings.outside[place] == pytest.approx(1 - expected.sum(), abs=1e-5)
    assert readings.reasons == (None,) * 12
    assert (readings.prompt_tokens, readings.completion_tokens) == (int(store.lengths.sum()), 0)
    assert np.ptp(readings.probabilities, axis=0).min() > 1e-3


def test_what_queries_share_is_run_once(backend, model):
    seen = []
    handle = model.backbone.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    backend.read_labels(conversations(3, 4) * 2, LABELS)
    handle.remove()
    assert seen[0][0] == 1 and seen[0][1] > 16  # the instruction
    assert seen[1][0] == 3  # the queries
    assert len(seen) == 3 and seen[2][0] == 24 and seen[2][1] <= 24


def test_long_passages_lose_their_ends(model):
    asked = [(Message("user", ("rain ", Passage("sea " * 500))),)]
    backend = LocalBackend(model, WHO, max_tokens=40)
    assert backend.read_labels(asked, LABELS).prompt_tokens == 40


def test_a_conversation_that_is_too_long_is_refused_and_the_others_are_read(model):
    long = (Message("user", ("rain " * 300,)),)
    asked = [conversations(1, 1)[0], long, conversations(1, 2)[1]]
    backend = LocalBackend(model, WHO, max_tokens=200)
    found = backend.read_labels(asked, LABELS)
    alone = backend.read_labels([asked[0], asked[2]], LABELS)
    assert np.array_equal(found.probabilities[[0, 2]], alone.probabilities) and np.isnan(found.probabilities[1]).all()
    assert found.refused == {1} and found.reasons[0] is None and "too long:" in found.reasons[1]
    replies = list(backend.complete(asked, Sampling(max_new_tokens=2, temperature=1.0, samples=2)))
    assert [(one.conversation, one.sample) for one in replies] == [(i, j) for i in range(3) for j in range(2)]
    assert [one.refused for one in replies] == [False, False, True, True, False, False]
    none = backend.read_labels([long], LABELS)
    assert none.refused == {0} and none.probabilities.shape == (1, len(LABELS))
    examples = [ChatExample(one, "tide") for one in asked]
    values = backend.log_likelihoods(examples)
    assert values.long == {1} and np.isnan(values.values).tolist() == [False, True, False]


@pytest.mark.parametrize("label, message", [
    ("rainloan", r"label 'rainloan' is not one token after the prompt's end .*Assistant:\\n': the tokenizer makes it"),
    ("rain loan", "choose labels that are one token each"),
    ("RAIN", r"tokens \[(\d+), \1\], not all different"),
])  # fmt: skip
def test_labels_that_are_no_token_of_their_own(backend, label, message):
    with pytest.raises(ModelError, match=message):
        backend.read_labels(conversations(1, 1), ["rain", label])


def test_a_label_that_grows_together_with_the_prompt(model):
    tokenizer = model.tokenizer
    asked = conversations(1, 1)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m['content'] }}{% endfor %} so{% if add_generation_prompt %} rain{% endif %}"
    )
    try:
        with pytest.raises(ModelError, match="label 'loan' is not one token after the prompt's end"):
            label_tokens(tokenizer, asked, ["loan"])
    finally:
        tokenizer.chat_template = None
    assert label_tokens(tokenizer, asked, LABELS) == tokenizer.convert_tokens_to_ids(LABELS)


@pytest.mark.parametrize("labels", [[], ["rain", "rain"], ["rain", ""]])
def test_labels_that_cannot_be(backend, labels):
    with pytest.raises(ConfigError, match="labels are"):
        backend.read_labels(conversations(1, 1), labels)


def test_numbers_that_are_not_finite_are_no_reading(backend, model, monkeypatch):
    real = model.score_store

    def broken(*args, **options):
        scores = real(*args, **options)
        scores[1, 0] = np.nan
        scores[2] = -np.inf
        return scores

    monkeypatch.setattr(type(model), "score_store", lambda self, *args, **options: broken(*args, **options))
    readings = backend.read_labels(conversations(1, 4), LABELS)
    assert [reason is None for reason in readings.reasons] == [True, False, False, True]
    assert np.isnan(readings.probabilities[1:3]).all() and np.isnan(readings.outside[1:3]).all()


def test_distributions_over_labels_alone():
    shares, outside = restricted(np.log(np.array([[0.2, 0.6], [1e-30, 3e-30]])))
    assert shares == pytest.approx(np.array([[0.25, 0.75]] * 2))
    assert outside == pytest.approx([0.2, 1.0])
    shares, outside = restricted(np.zeros((0, 2)))
    assert shares.shape == (0, 2) and outside.shape == (0,)


def test_replies_are_those_of_generation_in_order(backend, model, monkeypatch):
    monkeypatch.setattr("searchtune.models.backends._WINDOW", 5)
    asked = conversations()
    sampling = Sampling(max_new_tokens=4, temperature=1.0, samples=2, seed=3)
    store = chat_store(model.tokenizer, asked, 100)
    expected = dict(generate(model, store, sampling))
    found = list(backend.complete(asked, sampling))
    assert [(one.conversation, one.sample) for one in found] == [(i, j) for i in range(12) for j in range(2)]
    for one in found:
        reply = expected[one.conversation][one.sample]
        assert (one.text, one.completion_tokens, one.finish) == (reply.text, reply.tokens, reply.finish)
        assert one.reason is None and one.seconds > 0
    assert sum(one.prompt_tokens for one in found) == store.lengths.sum()


def test_replies_come_window_by_window(backend, monkeypatch):
    monkeypatch.setattr("searchtune.models.backends._WINDOW", 2)
    running = backend.complete([*conversations(1, 2), ()], Sampling(max_new_tokens=1))
    assert isinstance(next(running), Reply) and isinstance(next(running), Reply)
    with pytest.raises(Exception, match="conversation without messages"):
        next(running)


def test_a_likelihood_is_that_of_the_replys_words(backend, model):
    asked = conversations(1, 3)
    replies = ["sea harbour", "tide", "gull gull gull"]
    found = backend.log_likelihoods([ChatExample(*pair) for pair in zip(asked, replies, strict=True)])
    store = chat_store(model.tokenizer, asked, 100)
    words = [model.tokenizer(text, add_special_tokens=False)["input_ids"] for text in replies]
    for place, ids in enumerate(words):
        prompt = store.ids[store.offsets[place] : store.offsets[place + 1]]
        whole = torch.from_numpy(np.concatenate([prompt, ids]))[None]
        with torch.no_grad():
            shares = model.backbone(whole).logits[0].log_softmax(-1)
        expected = sum(float(shares[len(prompt) - 1 + i, token]) for i, token in enumerate(ids))
        assert found.values[place] == pytest.approx(expected, abs=1e-4)
    assert (found.prompt_tokens, found.completion_tokens) == (int(store.lengths.sum()), sum(map(len, words)))


def test_nothing_to_ask(backend):
    assert backend.log_likelihoods([]).values.shape == (0,)
    readings = backend.read_labels([], LABELS)
    assert readings.probabilities.shape == (0, 3) and readings.reasons == () and readings.prompt_tokens == 0
    assert list(backend.complete([], Sampling())) == []


def test_identity_tells_all_that_answers_depend_on(model, tiny_causal, tmp_path):
    options = {"adapter": None, "quantise": "none", "dtype": "float32"}
    who = identify_generator(tiny_causal, **options)
    assert LocalBackend(model, who, max_tokens=77).identity == {**who, "max_tokens": "77"}
    assert all(isinstance(value, str) for value in who.values())
    folder = shutil.copytree(tiny_causal, tmp_path / "other")
    assert identify_generator(folder, **options) == who
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    assert identify_generator(folder, **options) != who
    (folder / "chat_template.jinja").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": "{{ messages }}"}))
    assert identify_generator(folder, **options) != who
    for change in ({"quantise": "nf4"}, {"dtype": "bfloat16"}):
        assert identify_generator(tiny_causal, **{**options, **change}) != who
