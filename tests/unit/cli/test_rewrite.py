"""`searchtune rewrite`: what it prints where, what it refuses with which words and exit code."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.workflows import open_rewriter
from unit.models.test_remote import Server, reply
from unit.workflows.rewriting import Parrot, write_conversations

ROWS = (
    '{"query_id": "q1", "utterance": "tide"}\n'
    '{"query_id": "q2", "utterance": "its height", "history": [{"role": "user", "text": "the tide"}]}\n'
)


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return lambda *args, **rest: CliRunner().invoke(app, ["rewrite", *map(str, args)], prog_name="searchtune", **rest)


@pytest.fixture
def parrot(monkeypatch):
    found = Parrot()
    monkeypatch.setattr(open_rewriter, "open_rewriter", lambda *_, **__: found)
    return found


def test_turns_come_from_a_pipe_and_go_to_stdout(run, parrot):
    done = run("run", "some-model", input=ROWS)
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert rows[1] == {"query_id": "q2", "utterance": "its height", "rewrite": "its height tide"}
    assert "2 turns (2 rewritten now), 12 tokens and 250 ms each" in done.stderr
    assert not list(Path().iterdir()), "nothing is written without --out"


def test_a_job_with_a_file_goes_on_where_it_was(run, parrot):
    Path("turns.jsonl").write_text(ROWS)
    done = run("run", "some-model", "--turns", "turns.jsonl", "--out", "out.jsonl")
    assert done.exit_code == 0 and done.stdout == "2 queries -> out.jsonl\n"
    assert len(Path("out.jsonl").read_text().splitlines()) == 2
    again = run("run", "some-model", "--turns", "turns.jsonl", "--out", "out.jsonl")
    assert "(0 rewritten now)" in again.stderr and len(parrot.asked) == 2


def test_a_tasks_queries_become_a_queries_file(run, parrot):
    raw, _ = write_conversations(Path().resolve())
    done = run("run", "some-model", "--task", raw, "--split", "test", "--out", raw / "queries_parrot.jsonl")
    assert done.exit_code == 0, done.output
    rows = [json.loads(line) for line in (raw / "queries_parrot.jsonl").read_text().splitlines()]
    assert "because of ids such as 'ledger_2'; --no-history reads each by itself" in " ".join(done.stderr.split())
    assert "training" not in done.stderr and "- rewriting" in done.stderr
    assert len(rows) == 9 and rows[1] == {"_id": "ledger_2", "text": "and its price ledger"}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["--task", "pystdlib", "--turns", "x"], "give a task or a file of turns"),
        (["--split", "test"], "belongs to --task"),
        (["--key-variable", "KEY"], "belongs to --endpoint"),
        (["--endpoint", "http://x/v1", "--base", "b"], "belongs to a model on this machine"),
        (["--turns", "no-such.jsonl"], "no-such.jsonl: cannot be read"),
    ],
)
def test_what_does_not_go_together_exits_2(run, parrot, args, words):
    done = run("run", "some-model", *args)
    assert done.exit_code == 2 and words in " ".join(done.stderr.replace("\u2502", " ").split())


def test_a_broken_turn_is_told_with_its_line(run, parrot):
    done = run("run", "some-model", input=ROWS + '{"utterance": ""}\n')
    assert done.exit_code == 2 and "<stdin>:3: 'utterance' is empty" in done.stderr and done.stdout == ""


def test_a_remote_model_rewrites(run):
    server = Server()
    server.script = lambda request, number: reply('Rewritten question: "the height of the tide"')
    try:
        done = run("run", "far", "--endpoint", server.url, input=ROWS)
    finally:
        server.close()
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout.splitlines()[1])["rewrite"] == "the height of the tide"


def test_a_recipe_of_another_kind_is_refused(run):
    done = run("train", "judge/smollm2-pystdlib-smoke")
    assert done.exit_code == 2 and "searchtune judge train" in done.stderr
    done = run("train", "smollm2-conv-smoke", "--set", "histroy_turns=3")
    assert done.exit_code == 2 and "unknown key 'histroy_turns'" in done.stderr
    done = run("train", "smollm2-conv-smoke", "--set", "max_new_tokens=160")
    assert done.exit_code == 2 and "leaves no room for a prompt" in done.stderr
