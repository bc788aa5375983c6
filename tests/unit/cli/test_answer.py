"""`searchtune answer`: what it refuses, and a job by its command."""

import json

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.prompts.answer import LABELS
from unit.models.causal import write_byte_causal
from unit.workflows.answering import write_asked


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", words=LABELS, max_position_embeddings=1024)


def run(*args):
    return CliRunner().invoke(app, ["answer", "run", *map(str, args)])


def test_a_job(base, tmp_path):
    asked = write_asked(tmp_path / "asked.jsonl", 3)
    options = ("--questions", asked, "--out", tmp_path / "job", "--abstain", "read", "--max-new-tokens", 5)
    done = run(base, *options, "--style", "brief")
    assert done.exit_code == 0, done.output
    assert "3 questions put to" in done.output and "answers.jsonl" in done.output
    again = run(base, *options, "--style", "brief", "--json")
    facts = json.loads(again.stdout)
    assert (facts["questions"], facts["missing"], facts["asked_now"]) == (3, 0, 0)
    assert facts["prompt"]["abstain"] == "read" and facts["max_new_tokens"] == 5
    other = run(base, *options, "--style", "full")
    assert other.exit_code == 2 and "another job" in other.output


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ([], "either --questions or --task"),
        (["--questions", "a", "--task", "b"], "either --questions or --task"),
        (["--questions", "a", "--run", "r"], "--run gives the passages"),
        (["--questions", "a", "--max-cost", "1"], "give --endpoint too"),
        (["--questions", "a", "--endpoint", "http://x/v1", "--base", "b"], "leave it out"),
        (["--questions", "a", "--endpoint", "http://x/v1", "--max-cost", "1"], "takes --prices"),
    ],
)
def test_options_that_do_not_go_together(tmp_path, options, words):
    done = run("model", "--out", tmp_path / "job", *options)
    assert done.exit_code == 2 and words in " ".join(done.output.split())


def test_training_names_what_is_wrong(tmp_path):
    done = CliRunner().invoke(app, ["answer", "train", "smollm2-clapnk", "--out", str(tmp_path / "run")])
    assert done.exit_code == 2 and "smollm2-clapnq" in done.output
    done = CliRunner().invoke(app, ["answer", "train", "smollm2-clapnq", "--set", "distractor=1"])
    assert done.exit_code == 2 and "distractors" in done.output
