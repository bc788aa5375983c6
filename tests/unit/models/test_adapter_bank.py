"""Several adapters on one base: each is what it is alone, whatever was asked before, and the base is there once."""

import shutil
import threading

import numpy as np
import pytest
import torch

from searchtune.errors import ArtifactError, ConfigError
from searchtune.models.adapter_bank import open_bank
from searchtune.models.adapters import add_lora
from searchtune.models.backends import LocalBackend
from searchtune.models.cards import read_llm_card
from searchtune.models.generation import Sampling
from searchtune.models.generator import load_causal_lm
from searchtune.models.llm_artifact import llm_probe_scores, load_llm_adapter, save_llm_adapter
from searchtune.prompts.chat import Message, Passage
from searchtune.specs.recipe import LoraMethod
from unit.models.causal import write_causal
from unit.models.test_llm_artifact import CPU, DOCUMENTS, EXAMPLES, TEMPLATE, card_of, chat_probe
from unit.training.tiny import shake

KINDS = {"rewrite": (4, 1), "answer": (2, 2), "judge": (3, 3)}
ASKED = [(Message("user", ("rain ", Passage(document))),) for document in DOCUMENTS]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = write_causal(tmp_path_factory.mktemp("bank-base"), tie_word_embeddings=True)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return folder


def adapter(folder, root, kind, rank, seed, quantise="none"):
    model = load_causal_lm(root, dtype=torch.float32, device=CPU, quantise=quantise)
    lora = add_lora(model, LoraMethod(rank=rank, alpha=8), seed=seed, task_type="CAUSAL_LM")
    shake(lora, scale=0.3, seed=seed)
    labels = ["rain", "tide"] if kind == "judge" else []
    card = card_of(root, kind=kind, name=kind, quantise=quantise, labels=labels, probe=chat_probe(EXAMPLES))
    save_llm_adapter(folder, model, lora, card, train_positives=[])
    return folder


@pytest.fixture(scope="module")
def folders(base, tmp_path_factory):
    home = tmp_path_factory.mktemp("bank")
    return {kind: adapter(home / kind, base, kind, *how) for kind, how in KINDS.items()}


def opened(folders, **options):
    return open_bank(folders, **{"dtype": torch.float32, "device": CPU, **options})


def test_every_adapter_is_what_it_is_alone(folders):
    bank = opened(folders)
    for name, difference in bank.verify().items():
        assert difference <= bank.cards[name].probe.tolerance
    plain = load_causal_lm(bank.root, dtype=torch.float32, device=CPU)
    for name, folder in folders.items():
        card = read_llm_card(folder)
        alone, _ = load_llm_adapter(folder, dtype=torch.float32, device=CPU)
        with bank.using(name) as model:
            own = llm_probe_scores(model, card)
        assert np.abs(own - llm_probe_scores(alone, card)).max() <= card.probe.tolerance
        assert np.abs(own - llm_probe_scores(plain, card)).max() > 100 * card.probe.tolerance
        with bank.using(None) as model:
            assert np.array_equal(llm_probe_scores(model, card), llm_probe_scores(plain, card))


def test_switching_back_and_forth_changes_no_bit(folders):
    bank = opened(folders)
    card = bank.cards["judge"]

    def scores(name):
        with bank.using(name) as model:
            return llm_probe_scores(model, card)

    first = {name: scores(name) for name in (*folders, None)}
    for name in ("answer", None, "judge", "rewrite", "rewrite", None, "answer", "judge"):
        assert np.array_equal(scores(name), first[name])
    assert not np.array_equal(first["answer"], first["rewrite"])


def test_the_base_is_there_once(folders):
    bank = opened(folders)
    plain = load_causal_lm(bank.root, dtype=torch.float32, device=CPU)
    names = [name for name, _ in bank.model.backbone.named_parameters()]
    own = sum(p.numel() for name, p in bank.model.backbone.named_parameters() if "lora_" not in name)
    assert own == sum(p.numel() for p in plain.backbone.parameters())
    assert sum("lora_" in name for name in names) == 3 * 2 * 7 * 3
    assert not any(p.requires_grad for p in bank.model.backbone.parameters())


def test_adapters_are_held_in_the_type_of_the_base(folders):
    bank = opened(folders, dtype=torch.bfloat16)
    assert {p.dtype for p in bank.model.backbone.parameters()} == {torch.bfloat16}
    differences = bank.verify()
    assert 0 < max(differences.values()) < 1.0


def test_in_4_bits(base, tmp_path):
    pytest.importorskip("bitsandbytes")
    folders = {kind: adapter(tmp_path / kind, base, kind, 4, seed, "nf4") for seed, kind in enumerate(KINDS)}
    bank = opened(folders)
    assert bank.quantise == "nf4"
    for name, difference in bank.verify().items():
        assert difference <= bank.cards[name].probe.tolerance
    with bank.using("answer") as model:
        before = llm_probe_scores(model, bank.cards["answer"])
    with bank.using(None) as model:
        assert not np.array_equal(llm_probe_scores(model, bank.cards["answer"]), before)
    with bank.using("answer") as model:
        assert np.array_equal(llm_probe_scores(model, bank.cards["answer"]), before)


def test_backends_see_their_own_model_and_count(folders):
    bank = opened(folders)
    sampling = Sampling(max_new_tokens=5)
    for name in (*folders, None):
        backend = bank.backend(name)
        if name is None:
            alone = load_causal_lm(bank.root, dtype=torch.float32, device=CPU)
        else:
            alone, _ = load_llm_adapter(folders[name], dtype=torch.float32, device=CPU)
        expected = list(LocalBackend(alone, {}).complete(ASKED, sampling))
        found = list(backend.complete(ASKED, sampling))
        assert [one.text for one in found] == [one.text for one in expected]
        assert [one.conversation for one in found] == [0, 1, 2, 3]
        assert backend.spent.completion_tokens == sum(one.completion_tokens for one in expected)
        assert backend.spent.prompt_tokens == sum(one.prompt_tokens for one in expected)
        assert backend.max_tokens == (4096 if name is None else 60)
    identities = [bank.backend(name).identity for name in (*folders, None)]
    assert len({identity["adapter_sha256"] for identity in identities}) == 4


def test_threads_wait_for_each_other(folders):
    bank = opened(folders)
    backends = {name: bank.backend(name) for name in folders}
    alone = {name: backend.read_labels(ASKED, ["rain", "tide"]).probabilities for name, backend in backends.items()}
    wrong = []

    def ask(name):
        for _ in range(8):
            if not np.array_equal(backends[name].read_labels(ASKED, ["rain", "tide"]).probabilities, alone[name]):
                wrong.append(name)

    threads = [threading.Thread(target=ask, args=(name,)) for name in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_request_within_another_ones_block_hands_the_model_back(folders):
    bank = opened(folders)
    card = bank.cards["judge"]
    with bank.using("judge") as model:
        before = llm_probe_scores(model, card)
        with bank.using("answer"):
            pass
        assert np.array_equal(llm_probe_scores(model, card), before)
    with pytest.raises(RuntimeError), bank.using("answer"):
        raise RuntimeError
    with bank.using("judge") as model:
        assert np.array_equal(llm_probe_scores(model, card), before)


def test_a_bank_without_adapters_is_the_base(base):
    bank = open_bank({}, base=str(base), dtype=torch.float32, device=CPU)
    assert len(list(bank.backend(None).complete(ASKED, Sampling(max_new_tokens=2)))) == 4
    assert bank.verify() == {}


def test_what_does_not_belong_together_is_refused(folders, base, tmp_path):
    with pytest.raises(ConfigError, match="needs a base"):
        opened({})
    other = tmp_path / "other"
    shutil.copytree(base, other)
    write_causal(other, tie_word_embeddings=False)
    with pytest.raises(ArtifactError, match="the sha256 of its weights is"):
        opened(folders, base=str(other))
    bank = opened(folders)
    with pytest.raises(ConfigError, match="did you mean 'answer'"), bank.using("anser"):
        pass
    with pytest.raises(ConfigError, match="no adapter 'x'"):
        bank.backend("x")
    with pytest.raises(ConfigError, match="each one once"):
        bank.add("judge", folders["judge"])


def test_adapters_of_different_bits_need_a_word(base, folders, tmp_path):
    pytest.importorskip("bitsandbytes")
    packed = adapter(tmp_path / "packed", base, "answer", 2, 5, "nf4")
    with pytest.raises(ConfigError, match="different bits"):
        opened({"rewrite": folders["rewrite"], "answer": packed})
    assert opened({"rewrite": folders["rewrite"], "answer": packed}, quantise="none").quantise == "none"
