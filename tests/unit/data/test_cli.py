"""`searchtune data`: results on stdout, progress on stderr, and the three exit codes."""

import json

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.data.beir import read_beir


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, ["data", *map(str, args)])


def test_sound_collection_passes(run, make):
    done = run("check", make())
    assert done.exit_code == 0
    assert "documents 2, queries 2" in done.stdout


def test_errors_fail_and_rejected_rows_are_written(run, make, tmp_path):
    folder = make({"qrels/test.tsv": b"q2\tnowhere\t1\nq2\td2\t1\n"})
    done = run("check", folder, "--rejected", tmp_path / "out.jsonl")
    assert done.exit_code == 1
    assert "error: qrels/test.tsv:1: document 'nowhere' is not in corpus.jsonl" in done.stdout
    assert json.loads((tmp_path / "out.jsonl").read_text())["row"] == "q2\tnowhere\t1"
    assert "1 rejected rows written" in done.stderr


def test_warnings_fail_only_when_strict(run, make):
    folder = make({"corpus.jsonl": b"\xef\xbb\xbf" + (make() / "corpus.jsonl").read_bytes()})
    assert run("check", folder).exit_code == 0
    assert run("check", folder, "--strict").exit_code == 1


def test_json_has_every_finding(run, make):
    done = run("check", make({"queries.jsonl": b"broken\n" * 30}), "--json")
    found = json.loads(done.stdout)
    assert (found["ok"], done.exit_code) == (False, 1)
    assert sum(p["kind"] == "bad-json" for p in found["problems"]) == 30


def test_missing_folder_is_wrong_input(run, tmp_path):
    done = run("check", tmp_path / "nothing")
    assert done.exit_code == 2
    assert "no such folder" in done.stderr
    assert done.stdout == ""


def test_show_counts_and_names_what_is_shared(run, make):
    folder = make({"qrels/test.tsv": b"q1\td1\t1\nq2\td1\t1\n", "qrels/dev.tsv": b"q2\td2\t1\n"})
    done = run("show", folder)
    assert done.exit_code == 0
    assert "2 documents, 2 queries" in done.stdout
    assert (
        "train and test: 1 leaking query pairs, 0 copied answers; 2 of 2 test queries share a relevant document"
        in done.stdout
    )
    facts = json.loads(run("show", folder, "--json").stdout)
    assert facts["splits"]["test"] == {"judged": 2, "labels": 2, "relevant_per_query": 1.0}
    assert [row["leaks"][0]["kind"] for row in facts["shared"] if row["split"] == "test"] == ["same id"]


def test_export_writes_what_was_read(run, make, tmp_path):
    assert run("export", make(), tmp_path / "copy").exit_code == 0
    assert read_beir(tmp_path / "copy").fingerprint == read_beir(make()).fingerprint


def test_list_names_the_tasks(run):
    assert "pystdlib" in run("list").stdout
    assert {"pystdlib", "scifact"} <= {task["name"] for task in json.loads(run("list", "--json").stdout)}


def test_fetch_refuses_unknown_names(run):
    done = run("fetch", "beir/scifcat")
    assert done.exit_code == 2
    assert "did you mean 'beir/scifact'" in done.stderr
