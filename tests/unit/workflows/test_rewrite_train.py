"""Training a rewriter, tiny: what it writes, how it resumes, what it refuses."""

import json

import pytest

from searchtune.errors import ConfigError, DataError, LeakError
from searchtune.models.cards import read_any_card
from searchtune.training.fit import TrainingInterrupted
from searchtune.workflows import rewrite as rewrite_module
from searchtune.workflows import rewrite_finish
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite import train_rewriter
from searchtune.workflows.rewrite_data import open_rewrite_data
from unit.models.causal import write_byte_causal
from unit.workflows.rewriting import recipe, rows, write_conversations, write_rows


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite_finish, "verify_in_fresh_process", verify_adapter)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=512)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", rows())


@pytest.fixture(scope="module")
def trained(base, file, tmp_path_factory):
    """A finished run. Read only."""
    return train_rewriter(recipe(base, file), tmp_path_factory.mktemp("rewrite") / "run")


def test_a_run_leaves_an_adapter_whose_card_says_how_to_ask(trained):
    card = read_any_card(trained.adapter)
    assert (card.kind, card.prompt, card.prompt_version, card.labels) == ("rewrite", "rewrite/short", "1", [])
    assert card.rewriting.model_dump() == {
        "history_turns": 12, "history_words": 160, "reply_words": 32, "max_new_tokens": 12, "modes": {},
    }  # fmt: skip
    assert verify_adapter(trained.folder).peft <= 1e-3
    assert set(trained.dev) == {"log_likelihood", "exact_match", "token_f1"}
    assert trained.dev["log_likelihood"] < 0 <= trained.dev["token_f1"] <= 1
    assert json.loads(json.dumps(trained.summary()))["dev"] == trained.dev


def test_training_makes_rewrites_likelier(base, file, tmp_path):
    settled = recipe(base, file, optim={"lr": 1e-2, "epochs": 3, "batch_size": 8})
    log = train_rewriter(settled, tmp_path / "run").log
    assert log.steps[-1].loss < 0.8 * log.steps[0].loss


def test_a_killed_run_goes_on_to_the_same_weights(base, file, tmp_path, monkeypatch, trained):
    def stop(step, total):
        if step.step == 2:
            raise TrainingInterrupted("stopped")

    real = rewrite_module.fit
    monkeypatch.setattr(rewrite_module, "fit", lambda *args, on_step, **rest: real(*args, on_step=stop, **rest))
    with pytest.raises(TrainingInterrupted):
        train_rewriter(recipe(base, file), tmp_path / "stopped")
    monkeypatch.setattr(rewrite_module, "fit", real)
    with pytest.raises(Exception, match="--resume"):
        train_rewriter(recipe(base, file), tmp_path / "stopped")
    resumed = train_rewriter(recipe(base, file), tmp_path / "stopped", policy="resume")
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (trained, resumed)]
    assert weights[0] == weights[1]


def test_dev_conversations_are_not_trained_on(base, file):
    data = open_rewrite_data(recipe(base, file), "fail", SILENT)
    train, dev = ({one.conversation for one in part} for part in (data.train, data.dev))
    assert train and dev and train.isdisjoint(dev)
    assert len(data.train) + len(data.dev) == 36


def test_a_source_may_be_repeated_cut_and_reduced_to_what_was_changed(base, file):
    keys = {"file": str(file), "changed_only": True, "repeat": 3}
    data = open_rewrite_data(recipe(base, train=[keys]), "fail", SILENT)
    assert all(one.changed for one in data.train)
    assert len(data.train) == 3 * len({one.id for one in data.train})
    fewer = open_rewrite_data(recipe(base, train=[{"file": str(file), "max_examples": 10}]), "fail", SILENT)
    assert len(fewer.train) + len(fewer.dev) == 10


def test_leaks_between_train_and_test(base, tmp_path):
    raw, human = write_conversations(tmp_path)
    whole = {"utterance": "and the price?", "rewrite": "What is the price of the orbit?", "conversation": "new"}
    said = [{"role": "user", "text": "what is the history of the violin"}]
    turn = {"history": said, "utterance": "and its price", "rewrite": "violin price", "conversation": "other"}
    file = write_rows(tmp_path / "leaky.jsonl", [*rows(), whole, turn])
    test = {"task": str(raw), "human": str(human)}
    notes = []

    class Told(Progress):
        def note(self, message):
            notes.append(message)

    with pytest.raises(LeakError, match="2 training turns are also, or nearly, test turns: 'What is the price of"):
        train_rewriter(recipe(base, file, test=test), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    dropped = open_rewrite_data(recipe(base, file, test=test), "drop", Told())
    assert any("2 training turns are also test turns (drop)" in note for note in notes)
    allowed = open_rewrite_data(recipe(base, file, test=test), "allow", SILENT)
    assert len(allowed.train) + len(allowed.dev) == 2 + len(dropped.train) + len(dropped.dev) == 38
    alone = write_rows(tmp_path / "alone.jsonl", [whole])
    with pytest.raises(LeakError, match="nothing is left"):
        open_rewrite_data(recipe(base, alone, test=test), "drop", SILENT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": [{"file": "no-such.jsonl"}]}, "no file of rewrites 'no-such.jsonl'"),
        ({"train": [{"file": "builtin:conversation"}]}, "conversation"),
        ({"test": {"task": "pystdlib", "split": "tset"}}, "no split 'tset'"),
    ],
)
def test_what_is_not_there_is_told_before_training(base, file, tmp_path, changes, words):
    settled = recipe(base, file, **changes)
    with pytest.raises(ConfigError, match=words):
        train_rewriter(settled, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_conversation_is_too_few(base, tmp_path):
    file = write_rows(tmp_path / "one.jsonl", rows(("tide",)))
    with pytest.raises(DataError, match="3 turns of 1 conversation"):
        train_rewriter(recipe(base, file), tmp_path / "run")


def test_the_built_in_conversations_are_read(base):
    data = open_rewrite_data(recipe(base, train=[{"file": "builtin:conversations"}]), "fail", SILENT)
    assert len(data.train) + len(data.dev) == 33
