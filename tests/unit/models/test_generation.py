"""Replies of many prompts at once against each prompt alone, step by step; what ends them; how they are drawn."""

import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model

from searchtune.errors import ConfigError, ModelError
from searchtune.models.generation import Sampling, draw, end_tokens, generate
from searchtune.models.generator import CausalLM, load_causal_lm
from searchtune.models.inputs import TokenStore
from unit.models.causal import write_causal

CPU = torch.device("cpu")
END = 3


def load(folder, **options) -> CausalLM:
    return load_causal_lm(folder, dtype=torch.float32, device=CPU, **options)


def store_of(*rows) -> TokenStore:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows])))
    return TokenStore(np.concatenate([np.asarray(row, dtype=np.int64) for row in rows]), offsets, 0)


def prompts(count, prefix=0, seed=0) -> TokenStore:
    rng = np.random.default_rng(seed)
    head = rng.integers(5, 100, size=prefix)
    return store_of(*(np.concatenate([head, rng.integers(5, 100, size=rng.integers(1, 40))]) for _ in range(count)))


@torch.no_grad()
def alone(model, ids, steps, ends=(END,)):
    """The likeliest tokens one by one, each from the whole text anew, with the sum of their log-probabilities."""
    ids, found, score = list(ids), [], 0.0
    for _ in range(steps):
        logits = model.backbone(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        token = int(logits.argmax())
        score += float(logits[token])
        ids.append(token)
        found.append(token)
        if token in ends:
            break
    return found, score


def row(store, text):
    return store.ids[store.offsets[text] : store.offsets[text + 1]]


def replies(model, store, sampling, **options):
    return dict(generate(model, store, sampling, **options))


def check_same(found, expected):
    """Equal but for rounding, which follows the company that a prompt has."""
    assert found.keys() == expected.keys()
    for text, own in found.items():
        for left, right in zip(own, expected[text], strict=True):
            assert (left.text, left.tokens, left.finish) == (right.text, right.tokens, right.finish)
            assert left.log_probability == pytest.approx(right.log_probability, abs=1e-3)


def check_alone(model, store, found, steps, texts, ends=(END,)):
    for text in texts:
        tokens, score = alone(model, row(store, text), steps, ends)
        (reply,) = found[text]
        said = tokens[:-1] if tokens[-1] in ends else tokens
        assert reply.text == model.tokenizer.decode(said, skip_special_tokens=True)
        assert reply.tokens == len(tokens)
        assert reply.finish == ("stop" if tokens[-1] in ends else "length")
        assert reply.log_probability == pytest.approx(score, abs=1e-3)


@pytest.mark.parametrize("attention", ["eager", "sdpa"])
@pytest.mark.parametrize("prefix", [0, 30])
@pytest.mark.parametrize("tokens_per_batch", [1, 16384])
def test_each_reply_is_that_of_its_prompt_alone(tiny_causal, attention, prefix, tokens_per_batch):
    model = load(tiny_causal, attention=attention)
    store = prompts(6, prefix)
    found = replies(model, store, Sampling(max_new_tokens=8), tokens_per_batch=tokens_per_batch)
    assert sorted(found) == list(range(6))
    check_alone(model, store, found, 8, range(6))
    assert len({reply.text for (reply,) in found.values()}) > 2  # prompts are told apart


def ending(model, store, steps):
    """Tokens that end some of the replies early, at different steps."""
    return tuple({alone(model, row(store, text), steps)[0][text % steps] for text in range(len(store.lengths))})


@pytest.mark.parametrize("kind, settings", [
    ("llama", {}),
    ("mistral", {"sliding_window": 8}),
    ("gemma2", {"final_logit_softcapping": 3.0, "head_dim": 16, "sliding_window": 8}),
    ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 256}),
    ("bloom", {"n_layer": 2, "n_head": 4}),
])  # fmt: skip
def test_replies_that_end_early_change_no_other(tmp_path, kind, settings):
    model = load(write_causal(tmp_path, kind, **settings), attention="eager")
    store = prompts(7, 20, seed=3)
    ends = ending(model, store, 6)[:3]
    model.backbone.generation_config.eos_token_id = list(ends)
    ends = (*ends, END)
    found = replies(model, store, Sampling(max_new_tokens=9))
    check_alone(model, store, found, 9, range(7), ends)
    assert len({reply.tokens for (reply,) in found.values()}) > 1


def test_ended_replies_leave_the_batch(tiny_causal):
    model = load(tiny_causal)
    store = prompts(12, seed=5)
    model.backbone.generation_config.eos_token_id = list(ending(model, store, 6)[:4])
    rows = []
    model.backbone.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: rows.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    found = replies(model, store, Sampling(max_new_tokens=20))
    lengths = sorted(reply.tokens for (reply,) in found.values())
    assert lengths[0] < lengths[-1] == len(rows)
    for step in range(1, len(rows)):
        running = sum(length > step for length in lengths)
        assert running <= rows[step][0] < max(running * 8 / 7 + 1, 2)
        assert rows[step][1] == 1


def test_the_prefix_of_all_is_read_once_and_samples_share_their_prompt(tiny_causal):
    model = load(tiny_causal)
    store = prompts(5, prefix=40)
    seen = []
    model.backbone.get_decoder().register_forward_pre_hook(
        lambda _, __, kwargs: seen.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    replies(model, store, Sampling(max_new_tokens=2, temperature=1.0, samples=3))
    longest = int(store.lengths.max()) - seen[0][1]
    assert seen[0][0] == 1 and seen[0][1] >= 40
    assert seen[1] == (5, longest)
    assert seen[2] == (15, 1)


def test_samples_depend_on_their_prompt_and_the_seed_alone(tiny_causal):
    model = load(tiny_causal)
    store = prompts(8, seed=1)
    sampling = Sampling(max_new_tokens=6, temperature=1.5, samples=3, seed=4)
    together = replies(model, store, sampling)
    few = replies(model, store, sampling, texts=np.array([6, 2]), tokens_per_batch=1)
    assert few.keys() == {2, 6}
    check_same(few, {text: together[text] for text in (2, 6)})
    assert len({reply.text for own in together.values() for reply in own}) == 24
    other = replies(model, store, Sampling(max_new_tokens=6, temperature=1.5, samples=3, seed=5))
    assert other[0] != together[0]
    more = replies(model, store, Sampling(max_new_tokens=6, temperature=1.5, samples=4, seed=4))
    assert [reply.text for reply in more[0][:3]] == [reply.text for reply in together[0]]


def test_low_temperature_and_small_nucleus_are_greedy(tiny_causal):
    model = load(tiny_causal)
    store = prompts(4)
    greedy = replies(model, store, Sampling(max_new_tokens=5))
    for options in ({"temperature": 1e-4}, {"temperature": 1.0, "top_p": 1e-6}):
        assert replies(model, store, Sampling(max_new_tokens=5, **options)) == greedy


@pytest.mark.parametrize("top_p", [0.3, 0.9, 1.0])
@pytest.mark.parametrize("entries", [5, 600])
def test_draws_follow_the_nucleus(top_p, entries):
    logits = torch.randn(1, entries, generator=torch.Generator().manual_seed(0)).mul(0.5)
    shares = (logits / 0.7).softmax(1)[0].double()
    order = shares.argsort(descending=True)
    before = shares[order].cumsum(0) - shares[order]
    expected = torch.zeros(entries, dtype=torch.float64)
    kept = order[before < top_p]
    expected[kept] = shares[kept] / shares[kept].sum()
    uniforms = (torch.arange(4000, dtype=torch.float64) + 0.5) / 4000
    counts = torch.bincount(draw(logits.expand(4000, -1), 0.7, top_p, uniforms), minlength=entries)
    assert (counts / 4000 - expected).abs().max() < 5e-4


def test_draws_at_the_borders_take_nothing_impossible():
    logits = torch.tensor([[-torch.inf, 0.0, -torch.inf, 1.0, -torch.inf]]).expand(2, -1)
    borders = torch.tensor([0.0, np.nextafter(1.0, 0.0)], dtype=torch.float64)
    for top_p in (0.999, 1.0):
        assert set(draw(logits, 1.0, top_p, borders).tolist()) == {1, 3}
        assert draw(logits, 1e-3, top_p, borders).tolist() == [3, 3]


def test_stop_texts_end_a_reply_and_are_left_out(tiny_causal):
    model = load(tiny_causal)
    store = prompts(6, seed=2)
    whole = {text: own[0] for text, own in generate(model, store, Sampling(max_new_tokens=10))}
    word = whole[0].text.split()[3]
    found = replies(model, store, Sampling(max_new_tokens=10, stop=("never there", word)))
    stopped = 0
    for text, (reply,) in found.items():
        if word not in whole[text].text:
            check_same({text: (reply,)}, {text: (whole[text],)})
            continue
        stopped += 1
        assert reply.text == whole[text].text[: whole[text].text.index(word)]
        assert reply.finish == "stop" and reply.tokens <= whole[text].tokens
    assert stopped and len(found[0][0].text.split()) <= 3


def trie(*labels):
    """What may come next so that one of the labels is spelled out."""

    def allowed(tokens):
        return sorted(
            {label[len(tokens)] for label in labels if label[: len(tokens)] == tokens and label[len(tokens) :]}
        )

    return allowed


@pytest.mark.parametrize("temperature", [0.0, 2.0])
def test_a_constraint_spells_labels_and_ends_them(tiny_causal, temperature):
    model = load(tiny_causal)
    store = prompts(10)
    labels = [[20, 21, 22], [20, 40], [50]]
    found = replies(model, store, Sampling(max_new_tokens=8, temperature=temperature), allowed=trie(*labels))
    spelled = {model.tokenizer.decode(label): label for label in labels}
    assert len({reply.text for (reply,) in found.values()}) > 1
    for text, (reply,) in found.items():
        label = spelled[reply.text]
        assert (reply.tokens, reply.finish) == (len(label), "stop")
        score = 0.0
        for place, token in enumerate(label):
            ids = torch.tensor([[*row(store, text), *label[:place]]])
            score += float(model.backbone(ids).logits[0, -1].log_softmax(-1)[token])
        assert reply.log_probability == pytest.approx(score, abs=1e-3)  # under the model's own distribution


def test_a_constraint_may_allow_all_or_nothing(tiny_causal):
    model = load(tiny_causal)
    store = prompts(3)
    sampling = Sampling(max_new_tokens=4)
    assert replies(model, store, sampling, allowed=lambda tokens: None) == replies(model, store, sampling)
    for (reply,) in replies(model, store, sampling, allowed=lambda tokens: []).values():
        assert (reply.text, reply.tokens, reply.finish, reply.log_probability) == ("", 0, "stop", 0.0)


def test_an_adapted_model_in_training_is_left_as_it_was(tiny_causal):
    model = load(tiny_causal)
    get_peft_model(
        model.backbone, LoraConfig(r=4, lora_dropout=0.5, target_modules="all-linear", init_lora_weights=False)
    )
    store = prompts(3)
    model.eval()
    expected = replies(model, store, Sampling(max_new_tokens=5))
    model.train()
    running = generate(model, store, Sampling(max_new_tokens=5), tokens_per_batch=1)
    first = next(running)
    assert model.training  # between two batches, too
    check_same(dict([first, *running]), expected)


def test_nothing_one_and_equal_prompts(tiny_causal):
    model = load(tiny_causal)
    store = store_of([5, 6, 7], [5, 6, 7], [9])
    sampling = Sampling(max_new_tokens=3)
    assert replies(model, store, sampling, texts=np.zeros(0, dtype=np.int64)) == {}
    found = replies(model, store, sampling)
    assert found[0] == found[1]
    check_alone(model, store, found, 3, range(3))
    long = list(range(10, 40))
    store = store_of(long, long, [*long, 7])
    check_alone(model, store, replies(model, store, sampling), 3, range(3))


def test_prompts_that_cannot_be_answered(tiny_causal):
    model = load(tiny_causal)
    with pytest.raises(ModelError, match="text 1 has no tokens"):
        replies(model, store_of([5], []), Sampling(max_new_tokens=3))
    with pytest.raises(ModelError, match=r"text 0 has 250 tokens, .* no room for 7 more: the model reads 256; shorten"):
        replies(model, store_of([5] * 250), Sampling(max_new_tokens=7))
    assert len(replies(model, store_of([5] * 250), Sampling(max_new_tokens=6))) == 1


@pytest.mark.parametrize("options, message", [
    ({"max_new_tokens": 0}, "max_new_tokens is 0; it must be at least 1"),
    ({"temperature": -0.1}, "temperature is -0.1"),
    ({"temperature": float("nan")}, "temperature is nan"),
    ({"top_p": 0.0}, "top_p is 0.0; it must be above 0"),
    ({"top_p": 1.1}, "top_p is 1.1"),
    ({"samples": 0}, "samples is 0"),
    ({"samples": 2}, "set a temperature"),
    ({"seed": -1}, "seed is -1"),
    ({"stop": ("a", "")}, "not empty"),
])  # fmt: skip
def test_sampling_out_of_range(options, message):
    with pytest.raises(ConfigError, match=message):
        Sampling(**options)


def test_every_end_of_the_generation_config_counts(tiny_causal):
    model = load(tiny_causal)
    assert end_tokens(model) == {END}
    model.backbone.generation_config.eos_token_id = [8, 9]
    assert end_tokens(model) == {8, 9}
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(END)
    assert end_tokens(model) == {8, 9, END}
    model.backbone.generation_config.eos_token_id = None
    assert end_tokens(model) == {END}
