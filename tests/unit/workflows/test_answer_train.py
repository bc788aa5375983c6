"""Training an answerer, tiny: what it writes, how it resumes, what it refuses; and opening it."""

import json

import numpy as np
import pytest

from searchtune.errors import ArtifactError, ConfigError, DataError, LeakError
from searchtune.models.cards import read_any_card
from searchtune.prompts.answer import LABELS, AnswerPrompt
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.base import parse_spec
from searchtune.training.fit import TrainingInterrupted
from searchtune.workflows import answer_finish, fitting
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.answer import train_answerer
from searchtune.workflows.answer_run import run_answers
from searchtune.workflows.answer_sets import mixed_part, open_answer_data, open_answers
from searchtune.workflows.open_answerer import open_answerer
from searchtune.workflows.progress import SILENT, Progress
from unit.models.causal import write_byte_causal
from unit.workflows.answering import write_asked

SMALL = {
    "max_tokens": 500,
    "precision": "fp32",
    "max_new_tokens": 70,
    "distractors": 1,
    "method": {"rank": 4, "alpha": 8},
    "optim": {"lr": 3e-3, "epochs": 1, "min_steps": 0, "batch_size": 8, "checkpoint_every": 2},
    "dev": {"times": 1, "share": 0.4},
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(answer_finish, "verify_in_fresh_process", verify_adapter)
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bytes") / "model"
    return write_byte_causal(folder, words=LABELS, max_position_embeddings=1024)


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    return write_asked(tmp_path_factory.mktemp("asked") / "asked.jsonl", 24)


def recipe(base, asked, **changes):
    sources = {"train": {"file": str(asked), "stop": 0.5}, "test": {"file": str(asked), "start": 0.5}}
    return parse_spec(AnswerRecipe, {"base": str(base), **sources, **SMALL, **changes}, "test")


@pytest.fixture(scope="module")
def trained(base, asked, tmp_path_factory):
    """A finished run. Read only."""
    return train_answerer(recipe(base, asked), tmp_path_factory.mktemp("answer") / "run")


def test_a_run_leaves_an_adapter(trained):
    assert {path.name for path in trained.folder.iterdir()} >= {"adapter", "recipe.json", "train_log.json"}
    card = read_any_card(trained.adapter)
    assert (card.kind, card.labels, card.prompt) == ("answer", list(LABELS), "answer/brief")
    assert len(trained.rule.others) == 3 and card.calibration == trained.rule.to_json()
    assert {name: card.extra[name] for name in ("format", "abstain", "max_new_tokens", "probe")} == {
        "format": "plain", "abstain": "read", "max_new_tokens": 70, "probe": "synthetic",
    }  # fmt: skip
    assert any("dev has 5 questions, fewer than 10" in warning for warning in card.extra["warnings"])
    figures = {"dev log_likelihood", "dev auc", "dev abstention_f1"}
    assert set(card.metrics) == {*figures, *(f"base {name}" for name in figures)}
    assert trained.log.best_step == trained.log.steps[-1].step
    assert verify_adapter(trained.folder).peft <= 1e-4
    positives = json.loads((trained.adapter / "train_positives.json").read_text())
    assert positives and all(int(name[1:]) % 2 for name in positives), "gold passages alone"
    assert len(trained.test) == 12 and json.loads(json.dumps(trained.summary()))["test_questions"] == 12


def test_the_adapter_answers_as_its_card_says(trained, tmp_path):
    opened = open_answerer(str(trained.folder), precision="fp32")
    assert (opened.prompt.abstain, opened.max_new_tokens, opened.rule) == ("read", 70, trained.rule)
    job = run_answers(opened, trained.test, tmp_path / "job")
    assert job.missing == 0 and np.isfinite(job.likelihood).all()
    abstained = [answer.abstained for answer in job.answers]
    for likely, gone in zip(job.likelihood, abstained, strict=True):
        assert gone or likely >= trained.rule.threshold - 1e-6, "what is too unlikely is never answered"
    examples = trained.test.examples[:3]
    marked = opened.under(opened.prompt.under(job.facts["prompt"]["nonce"]), opened.rule)
    found = marked.answer([one.question for one in examples], [one.passages for one in examples])
    assert [one.abstained for one in found] == abstained[:3], "alone as among others"


def test_what_the_card_settles_cannot_be_given(trained, base):
    with pytest.raises(ConfigError, match="its card settles quantise"):
        open_answerer(str(trained.adapter), quantise="nf4")
    with pytest.raises(ConfigError, match="its card settles the prompt"):
        open_answerer(str(trained.adapter), prompt=AnswerPrompt())


def test_a_prompt_of_another_version_is_refused(trained, monkeypatch):
    from searchtune.workflows import open_answerer as module

    monkeypatch.setitem(module.VERSIONS, "brief", 99)
    with pytest.raises(ArtifactError, match="trained under version 1 of the prompt 'answer/brief'"):
        open_answerer(str(trained.adapter))


def test_the_adapter_is_refused_on_another_base(trained, tmp_path):
    other = write_byte_causal(tmp_path / "other", words=LABELS, num_hidden_layers=2)
    with pytest.raises(ArtifactError, match="base"):
        open_answerer(str(trained.adapter), base=str(other))


def test_a_plain_model_answers_in_json(base):
    opened = open_answerer(str(base), precision="fp32", prompt=AnswerPrompt(format="json"), max_new_tokens=60)
    (row,) = opened.stream(["what is it"], [["it is so"]])
    assert row.answer is not None and not row.cut
    assert opened.card is None and opened.backend is opened.backend


def test_written_abstention_and_json(base, asked, tmp_path):
    changes = {
        "abstain": "written",
        "format": "json",
        "dev": {**SMALL["dev"], "metric": "log_likelihood"},
        "test": None,
    }
    result = train_answerer(recipe(base, asked, max_tokens=700, **changes), tmp_path / "run")
    card = read_any_card(result.adapter)
    assert (card.labels, card.calibration, result.test) == ([], None, None)
    assert verify_adapter(result.folder).peft <= 1e-2
    assert open_answerer(str(result.folder)).prompt.format == "json"


def test_a_killed_run_goes_on_to_the_same_weights(base, asked, tmp_path, monkeypatch):
    settled = recipe(base, asked)
    whole = train_answerer(settled, tmp_path / "whole")

    def stop(step, total):
        if step.step == 2:
            raise TrainingInterrupted("stopped")

    real = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *args, on_step, **rest: real(*args, on_step=stop, **rest))
    with pytest.raises(TrainingInterrupted):
        train_answerer(settled, tmp_path / "stopped")
    monkeypatch.undo()
    resumed = train_answerer(settled, tmp_path / "stopped", policy="resume")
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


def test_examples_are_what_the_recipe_says(base, asked):
    settled = recipe(base, asked, no_gold_share=0.5, repeats=2)
    data = open_answer_data(settled, "fail", SILENT)
    part = mixed_part(settled, data.train, data.train.examples, repeats=2, seed=1)
    answerable = sum(one.answerable for one in data.train.examples)
    gold, all_of_it = 2 * (answerable - round(answerable / 2)), 2 * len(data.train)
    labelled, written = part.labelled(), part.written()
    assert (len(labelled), len(written)) == (all_of_it, gold)
    assert sum(one.completion == "yes" for one in labelled) == gold
    for one in written:
        assert one.completion.count("[") == 2 and one.messages[-1].role == "user"
    known = {text for one in data.train.examples for text in one.passages}
    assert all(text in known for one in part.examples for text in one.passages), "no passage of another part"
    assert len({prompt.nonce for prompt in part.prompts}) == all_of_it
    plain = mixed_part(settled.model_copy(update={"abstain": "written"}), data.train, data.train.examples,
                       repeats=1, seed=1)  # fmt: skip
    assert not plain.labelled() and len(plain.written()) == len(data.train)
    again = mixed_part(settled, data.train, data.train.examples, repeats=2, seed=1)
    assert again.examples == part.examples and again.prompts == part.prompts


def test_leaks_between_train_and_test(base, asked, tmp_path):
    notes = []

    class Told(Progress):
        def note(self, message):
            notes.append(message)

    whole = {"file": str(asked)}
    settled = recipe(base, asked, test=whole)
    with pytest.raises(LeakError, match="12 training questions are also, or nearly, test questions"):
        train_answerer(settled, tmp_path / "a")
    assert not (tmp_path / "a").exists()
    allowed = open_answer_data(settled, "allow", Told())
    assert len(allowed.train) + len(allowed.dev) == 12 and any("(allow)" in note for note in notes)
    with pytest.raises(LeakError, match="nothing is left"):
        open_answer_data(settled, "drop", Told())
    part = open_answer_data(recipe(base, asked, train=whole), "drop", Told())
    kept = {one.id for one in (*part.train.examples, *part.dev.examples)}
    assert len(kept) == 12 and kept.isdisjoint({one.id for one in part.test.examples})


def test_what_cannot_be_learned_is_told_before_training(base, asked, tmp_path):
    with pytest.raises(ConfigError, match="no file of answers"):
        open_answers(recipe(base, tmp_path / "none.jsonl").train)
    with pytest.raises(ConfigError, match=r"no question has split 'train'"):
        open_answers(recipe(base, asked, train={"file": str(asked), "split": "train"}).train)
    with pytest.raises(ConfigError, match="no split"):
        open_answers(recipe(base, asked, train={"task": "pystdlib", "split": "nothing"}).train)
    rows = [json.loads(line) for line in asked.read_text().splitlines()]
    sure = tmp_path / "sure.jsonl"
    sure.write_text("".join(json.dumps(row) + "\n" for row in rows if row["gold"]))
    with pytest.raises(DataError, match="all 6 training questions are answerable: .*no_gold_share"):
        settled = recipe(base, sure, train={"file": str(sure)}, test=None, no_gold_share=0.0,
                         dev={"share": 0.5})  # fmt: skip
        train_answerer(settled, tmp_path / "run")
    assert not (tmp_path / "run").exists()
