"""Training a judge, tiny: what it writes, how it resumes, what it refuses; and opening every kind of judge."""

import json
from dataclasses import replace
from functools import partial
from typing import get_args

import numpy as np
import pytest

import support
from searchtune.cli.judge_run import PromptStyle
from searchtune.data.judging import read_pairs
from searchtune.errors import ArtifactError, ConfigError, DataError, LeakError, ModelError
from searchtune.evaluation.judging import build_judge_report
from searchtune.models.cards import read_any_card
from searchtune.models.endpoint import Endpoint
from searchtune.models.remote import Budget
from searchtune.prompts.judge import Style
from searchtune.prompts.rubrics import BINARY, UMBRELA
from searchtune.specs.base import parse_spec
from searchtune.specs.judge import JudgeRecipe
from searchtune.training.fit import TrainingInterrupted
from searchtune.workflows import fitting, judge_agree, judge_finish
from searchtune.workflows import judge as judge_module
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.judge import train_judge
from searchtune.workflows.judge_job import JobPlan, open_job, run_job
from searchtune.workflows.open_judge import open_judge, open_remote_judge
from unit.models.causal import write_byte_causal

WORDS = ("tide", "soil", "oven", "choir", "judge", "comet", "loan", "fever", "reef", "moss", "salt", "drum")
SMALL = {
    "max_tokens": 200,
    "style": "brief",
    "precision": "fp32",
    "method": {"rank": 4, "alpha": 8},
    "optim": {"lr": 3e-3, "epochs": 1, "min_steps": 0, "batch_size": 16, "checkpoint_every": 2},
    "dev": {"times": 1},
    "canaries": 3,
}


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(judge_finish, "verify_in_fresh_process", verify_adapter)
        patch.setattr(judge_agree, "build_judge_report", partial(build_judge_report, rounds=200))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=512)


def write_graded(path, words, *, queries=10, per_query=4, **changes):
    """Pairs whose passage holds the query's word as often as its grade says; queries are unlike each other."""
    rows = []
    for number in range(queries):
        query = f"{words[number % len(words)]} {number}"
        for grade in range(per_query):
            passage = " ".join(["filler", *[words[number % len(words)]] * grade])
            row = {"query_id": f"{path.stem}{number}", "query": query, "doc_id": f"{path.stem}{number}-{grade}"}
            rows.append({**row, "passage": passage, "human": grade, **changes})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("graded")
    train, test = (
        write_graded(folder / "train.jsonl", WORDS[:8]),
        write_graded(folder / "test.jsonl", WORDS[8:], queries=4),
    )
    return train, test


def recipe(base, files, **changes):
    train, test = files
    keys = {"base": str(base), "train": {"file": str(train)}, "test": test and {"file": str(test)}, **SMALL, **changes}
    return parse_spec(JudgeRecipe, keys, "test")


@pytest.fixture(scope="module")
def trained(base, files, tmp_path_factory):
    """A finished run. Read only."""
    return train_judge(recipe(base, files, canary_share=0.2), tmp_path_factory.mktemp("judge") / "run")


def test_a_run_leaves_an_adapter_jobs_and_a_report(trained, files):
    assert {path.name for path in trained.folder.iterdir()} >= {
        "adapter", "recipe.json", "train_log.json", "base", "tuned", "base-dev", "judge.json", "judge.html", "review.html",
    }  # fmt: skip
    card = read_any_card(trained.adapter)
    assert (card.kind, card.labels, card.prompt, card.quantise) == (
        "judge",
        ["0", "1", "2", "3"],
        "judge/brief",
        "none",
    )
    assert card.calibration == trained.calibration.to_json()
    assert card.doc_template is None, "a file's passages come as they are"
    assert "filler" not in (trained.adapter / "adapter_card.json").read_text(), "no passage of its training"
    assert card.extra["probe"] == "synthetic" and "base dev kappa" in card.metrics
    assert any("dev has 2 queries, fewer than 10" in warning for warning in card.extra["warnings"])
    assert set(card.extra["warnings"]) <= set(trained.report.notes)
    assert verify_adapter(trained.folder).peft <= 1e-5
    report = trained.report
    assert (report.headline, report.reference, list(report.judges)) == ("tuned", "base", ["base", "tuned"])
    assert report.pairs == 16 and report.queries == 4
    assert all(judge.canaries for judge in report.judges.values())
    jobs = {name: open_job(trained.folder / name) for name in ("base", "tuned")}
    assert jobs["tuned"].calibration == trained.calibration
    assert not np.allclose(jobs["base"].probabilities, jobs["tuned"].probabilities)
    summary = json.loads(json.dumps(trained.summary()))
    assert set(summary["test"]) == {"base", "tuned"} and summary["dev"]["kappa"] <= 1


def test_the_adapter_judges_as_it_did_when_it_was_trained(trained, files, tmp_path):
    opened = open_judge(str(trained.folder), precision="fp32")
    assert (opened.rubric, opened.style, opened.calibration) == (UMBRELA, "brief", trained.calibration)
    job = run_job(opened, read_pairs(files[1]), tmp_path / "again", JobPlan(canaries=3))
    assert np.allclose(job.probabilities, open_job(trained.folder / "tuned").probabilities, atol=1e-5)
    assert (tmp_path / "again" / "judgments.jsonl").read_bytes() == (
        trained.folder / "tuned" / "judgments.jsonl"
    ).read_bytes()


def test_a_judge_by_likelihood_is_trained_saved_and_opened_again(base, files, tmp_path):
    result = train_judge(recipe(base, files, style="likelihood", canary_share=0.2, centre=True), tmp_path / "run")
    card = read_any_card(result.adapter)
    assert (card.prompt, card.labels, card.rubric["name"]) == ("judge/likelihood", [], "umbrela")
    assert all(example.completion for example in card.probe.examples), "the probe reads how likely queries are"
    assert verify_adapter(result.folder).peft <= 1e-4
    jobs = {name: open_job(result.folder / name) for name in ("base", "tuned")}
    assert not np.allclose(jobs["base"].probabilities, jobs["tuned"].probabilities)
    assert np.allclose(jobs["tuned"].probabilities.sum(axis=1), 1)
    opened = open_judge(str(result.folder), precision="fp32")
    assert (opened.style, opened.calibration) == ("likelihood", result.calibration)
    assert opened.calibration.centring is not None
    plain = replace(jobs["tuned"], calibration=replace(result.calibration, centring=None))
    assert not np.allclose(plain.calibrated, jobs["tuned"].calibrated)
    again = run_job(opened, read_pairs(files[1]), tmp_path / "again", JobPlan(canaries=3))
    assert np.allclose(again.probabilities, jobs["tuned"].probabilities, atol=1e-5)


def test_an_address_cannot_be_asked_for_likelihoods_and_every_other_style_has_its_option():
    with pytest.raises(ConfigError, match="does not say how likely a query is"):
        open_remote_judge(Endpoint("http://localhost:1/v1", "far"), Budget(), UMBRELA, "likelihood")
    assert {style.value for style in PromptStyle} == set(get_args(Style))


def test_the_adapter_is_refused_on_another_base(trained, tmp_path):
    other = write_byte_causal(tmp_path / "other", max_position_embeddings=512, num_hidden_layers=2)
    with pytest.raises(ArtifactError, match=r"base"):
        open_judge(str(trained.adapter), base=str(other))


@pytest.mark.parametrize(("options", "words"), [({"max_tokens": 9}, "max_tokens"), ({"quantise": "nf4"}, "quantise")])
def test_what_the_card_settles_cannot_be_given(trained, options, words):
    with pytest.raises(ConfigError, match=f"its card settles {words}"):
        open_judge(str(trained.adapter), **options)


def test_a_prompt_of_another_version_is_refused(trained, monkeypatch):
    from searchtune.workflows import open_judge as module

    monkeypatch.setitem(module.VERSIONS, "brief", 99)
    with pytest.raises(ArtifactError, match="trained under version 1 of the prompt 'judge/brief', which is not here"):
        open_judge(str(trained.adapter))


def test_a_plain_model_judges_under_any_rubric(base, files, tmp_path):
    opened = open_judge(str(base), precision="fp32").under(UMBRELA, "brief")
    pairs = read_pairs(files[1])
    job = run_job(opened, pairs, tmp_path / "plain")
    assert np.allclose(job.probabilities.sum(axis=1), 1) and not job.unreadable
    assert job.facts["tokens"] > 1000
    with pytest.raises(ConfigError, match="written by another job"):
        run_job(opened.under(None, "short"), pairs, tmp_path / "plain")
    with pytest.raises(ModelError, match="no such folder"):
        open_judge("/no/such/model")


def test_a_word_that_is_no_single_token_is_named(base, files, tmp_path):
    with pytest.raises(ModelError, match="choose labels that are one token each"):
        run_job(open_judge(str(base)).under(BINARY, "brief"), read_pairs(files[1]), tmp_path / "words")
    assert not (tmp_path / "words" / "job.json").exists()


def test_a_passage_of_5000_words_is_cut_and_judged(base, tmp_path):
    row = {"query_id": "q", "query": "tide", "doc_id": "d", "passage": "harbour " * 5000, "human": 0}
    (tmp_path / "long.jsonl").write_text(json.dumps(row) + "\n")
    opened = open_judge(str(base), precision="fp32", max_tokens=400)
    job = run_job(
        opened.under(None, "brief"), read_pairs(tmp_path / "long.jsonl"), tmp_path / "long", JobPlan(canaries=1)
    )
    assert not job.unreadable and job.facts["tokens"] <= 800
    assert (opened.cuts.texts, opened.cuts.cut) == (2, 2), "the pair, and the same with a canary"


def test_a_killed_run_goes_on_to_the_same_weights(base, files, tmp_path, monkeypatch):
    settled = recipe(base, (files[0], None))
    whole = train_judge(settled, tmp_path / "whole")
    assert whole.report is None

    def stop(step, total):
        if step.step == 2:
            raise TrainingInterrupted("stopped")

    real = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *args, on_step, **rest: real(*args, on_step=stop, **rest))
    with pytest.raises(TrainingInterrupted):
        train_judge(settled, tmp_path / "stopped")
    monkeypatch.undo()
    with pytest.raises(Exception, match="--resume"):
        train_judge(settled, tmp_path / "stopped")
    resumed = train_judge(settled, tmp_path / "stopped", policy="resume")
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (whole, resumed)]
    assert weights[0] == weights[1]


def test_leaks_between_train_and_test(base, files, tmp_path):
    train = files[0]
    notes = []
    test = write_graded(tmp_path / "test.jsonl", WORDS[:2], queries=2)

    class Told(judge_module.Progress):
        def note(self, message):
            notes.append(message)

    with pytest.raises(LeakError, match=r"2 training queries are also, or nearly, test queries: 'tide 0', 'soil 1'"):
        train_judge(recipe(base, (train, test)), tmp_path / "a")
    assert not (tmp_path / "a").exists()
    rubric = UMBRELA
    dropped = judge_module._open_data(recipe(base, (train, test)), rubric, "drop", Told())
    allowed = judge_module._open_data(recipe(base, (train, test)), rubric, "allow", Told())
    kept = {query for split in dropped[:2] for query in split.pairs.query_texts}
    assert kept.isdisjoint({"tide 0", "soil 1"}) and len(kept) == 8
    assert len(allowed.train.pairs) + len(allowed.dev.pairs) == 40
    assert any("2 training queries are also test queries (drop)" in note for note in notes)
    with pytest.raises(LeakError, match="nothing is left"):
        judge_module._open_data(recipe(base, (test, test)), rubric, "drop", Told())


def test_canaries_are_planted_into_a_share_of_what_is_not_relevant(base, files):
    plain = judge_module._open_data(recipe(base, files), UMBRELA, "fail", judge_module.SILENT).train
    half = judge_module._open_data(recipe(base, files, canary_share=0.5), UMBRELA, "fail", judge_module.SILENT).train
    changed = [i for i, (a, b) in enumerate(zip(plain.examples, half.examples, strict=True)) if a != b]
    low = np.flatnonzero(plain.pairs.grades < 2)
    assert len(changed) == len(low) // 2 and set(changed) <= set(low.tolist())
    assert plain.pairs.grades.tolist() == half.pairs.grades.tolist(), "the grade stays"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"human": None}, "none of the training pairs has a human grade"),
        ({"human": 0}, r"all \d+ training pairs are not relevant \(grade 2 or more is\)"),
        ({"human": 3}, r"all \d+ training pairs are relevant"),
        ({"human": 7}, "grade"),
    ],
)
def test_what_cannot_be_learned_is_told_before_training(base, tmp_path, changes, words):
    train = write_graded(tmp_path / "train.jsonl", WORDS, **changes)
    with pytest.raises(DataError, match=words):
        train_judge(recipe(base, (train, None)), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_test_pairs_without_grades_are_told_before_training(base, files, tmp_path):
    test = write_graded(tmp_path / "test.jsonl", WORDS[8:], human=None)
    with pytest.raises(DataError, match="none of the test pairs has a human grade"):
        train_judge(recipe(base, (files[0], test)), tmp_path / "run")


def test_four_bits(base, files, tmp_path):
    pytest.importorskip("bitsandbytes", reason="bitsandbytes is not installed: pip install 'searchtune[llm]'")
    result = train_judge(recipe(base, files, quantise="nf4", canaries=0), tmp_path / "run")
    assert read_any_card(result.adapter).quantise == "nf4"
    assert open_job(tmp_path / "run" / "tuned").facts["identity"]["quantise"] == "nf4"


def test_a_task_is_trained_on_with_negatives(base, tmp_path):
    task = support.write_collection(tmp_path / "tiny")
    source = {"task": str(task), "split": "train", "negatives": 2, "max_queries": 20}
    settled = recipe(base, (None, None), train=source, rubric="umbrela")
    train, dev, test = judge_module._open_data(settled, UMBRELA, "fail", judge_module.SILENT)
    assert test is None and len(train.pairs.query_ids) + len(dev.pairs.query_ids) == 20
    assert len(train.pairs) + len(dev.pairs) == 20 * 4
    assert judge_finish.template_of(settled.train.task) == "{title} {text}", "what the card will say"
