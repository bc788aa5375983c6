"""`searchtune embed`, `adapter` and `demo`: what they refuse, with which words, and what they hand to the workflows."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.workflows import adapter, embed, plan, search

RECIPE = """# a recipe
kind: embed
task: small
base: some/model
"""
PLAN = {
    "recipe": {"task": "small", "base": "some/model", "prefix_cache": "memory"},
    "precision": "float32",
    "trainable_parameters": 1_000,
    "all_parameters": 50_000,
    "documents": 4_000,
    "judged_queries": {"test": 12, "train": 36},
    "pairs_per_epoch": 72,
    "steps": 18,
    "document_tokens": {"p50": 18, "p90": 19, "p99": 20, "max": 300, "limit": 256, "share_cut": 0.015},
    "query_tokens": {"p50": 7, "p90": 8, "p99": 9, "max": 10, "limit": 256, "share_cut": 0.0},
    "prefix_cache_mb": 12,
}


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(RECIPE, encoding="utf-8")
    return lambda *args: CliRunner().invoke(app, list(map(str, args)), prog_name="searchtune")


@pytest.fixture
def trained(monkeypatch):
    """Stands in for training and returns what it was asked for."""
    asked = {}

    def train(recipe, out, **options):
        asked.update(recipe=recipe, out=out, **options)
        summary = {"folder": str(out)}
        return SimpleNamespace(folder=out, adapter=out / "adapter", report=None, summary=lambda: summary)

    monkeypatch.setattr(embed, "train_embedding", train)
    return asked


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("mine",), "'mine' is neither a file nor a name under configs/"),
        (("minilm-pystdlb",), "did you mean 'minilm-pystdlib'?"),
        (("mine.yaml", "--set", "optim.lrr=1"), "unknown key 'optim.lrr'; did you mean 'lr'?"),
        (("mine.yaml", "--set", "optim.lr=fast"), "optim.lr: input should be a valid number"),
        (("mine.yaml", "--set", "optim.lr"), "expected KEY=VALUE"),
        (("mine.yaml", "--set", "seed=2", "--set", "seed.x=1"), "'seed' holds 2, not further keys"),
        (("mine.yaml", "--task", "nowhere"), "'nowhere' is neither a file nor a name under tasks/"),
    ],
)
def test_a_mistake_in_a_recipe_exits_2_with_the_way_out(run, args, words):
    done = run("embed", "train", *args)
    assert done.exit_code == 2
    assert done.stdout == ""
    assert words in done.stderr


@pytest.mark.parametrize("flags", [("--resume", "--overwrite"), ("--overwrite", "--fail-if-exists")])
def test_only_one_output_policy(run, flags):
    done = run("embed", "train", "mine.yaml", *flags)
    assert done.exit_code == 2
    assert "give one of --resume, --overwrite and" in done.stderr


def test_leaks_takes_three_words(run):
    done = run("embed", "train", "mine.yaml", "--leaks", "ignore")
    assert done.exit_code == 2
    assert "'ignore' is not one of" in done.stderr


def test_a_missing_base_exits_2(run, tiny_collection):
    for base, words in (("/no/such/base", "no such folder"), ("package:nope/model", "pip install nope")):
        done = run("embed", "train", "mine.yaml", "--task", tiny_collection, "--set", f"base={base}")
        assert done.exit_code == 2
        assert words in done.stderr
        assert not Path("runs").exists()


def test_flags_reach_the_workflow(run, trained):
    done = run("embed", "train", "mine.yaml", "--set", "optim.lr=1e-4", "--resume", "--leaks", "drop", "--out", "x")
    assert done.exit_code == 0, done.output
    assert (trained["recipe"].optim.lr, trained["policy"], trained["leaks"]) == (1e-4, "resume", "drop")
    assert trained["out"] == Path("x")
    assert done.stdout == "adapter  x/adapter\n"


@pytest.mark.parametrize(("args", "folder"), [((), "runs/mine"), (("--task", "folder/other.yaml"), "runs/mine-other")])
def test_the_default_folder_tells_recipe_and_task(run, trained, args, folder):
    done = run("embed", "train", "mine.yaml", *args, "--json")
    assert json.loads(done.stdout) == {"folder": folder}
    assert (trained["policy"], trained["leaks"]) == ("fail", "fail")


def test_other_processes_of_a_run_print_nothing(run, monkeypatch):
    monkeypatch.setattr(embed, "train_embedding", lambda *_, **__: None)
    done = run("embed", "train", "mine.yaml", "--json")
    assert (done.exit_code, done.stdout) == (0, "")


def test_a_dry_run_tells_the_plan_and_trains_nothing(run, trained, monkeypatch):
    monkeypatch.setattr(plan, "plan_embedding", lambda *_: PLAN)
    done = run("embed", "train", "mine.yaml", "--dry-run")
    assert "1,000 of 50,000 parameters (2.0%)" in done.stdout
    assert "longest 300; 1.5% cut at 256" in done.stdout
    assert "12 MiB of hidden states (memory)" in done.stdout
    assert json.loads(run("embed", "train", "mine.yaml", "--dry-run", "--json").stdout) == PLAN
    assert not trained


def test_encode_and_search_refuse_what_is_not_there(run):
    Path("texts.txt").write_text("one\n", encoding="utf-8")
    for args, words in (
        (("encode", "nowhere", "texts.txt", "--out", "x.npy"), "nowhere: no such folder"),
        (("encode", "nowhere", "none.txt", "--out", "x.npy"), "none.txt: cannot be read"),
        (("encode", "nowhere", "texts.txt"), "--out"),
        (("search", "nowhere", " ", "--task", "pystdlib"), "the query is empty"),
        (("search", "nowhere", "x", "--task", "nothing-like-it"), "under tasks/"),
        (("search", "nowhere", "x", "--task", "x", "-k", "0"), "-k"),
    ):
        done = run("embed", *args)
        assert done.exit_code == 2, args
        assert words in done.stderr
    assert not Path("x.npy").exists()


def test_search_prints_hits(run, monkeypatch):
    hits = [search.Hit("d1", 0.5, "A title", "text"), search.Hit("d2", 0.25, "", "only text")]
    monkeypatch.setattr(search, "search_collection", lambda *_, **__: hits)
    done = run("embed", "search", "a", "words", "--task", "small")
    assert done.stdout == "  1  0.5000  d1  A title\n  2  0.2500  d2  only text\n"
    done = run("embed", "search", "a", "words", "--task", "small", "--json")
    assert json.loads(done.stdout)[1] == {"id": "d2", "score": 0.25, "title": "", "snippet": "only text"}


@pytest.mark.parametrize("command", [("show",), ("verify",), ("merge", "--out", "merged")])
def test_adapter_commands_name_a_missing_folder(run, command):
    verb, *options = command
    done = run("adapter", verb, "nowhere", *options)
    assert done.exit_code == 2
    assert done.stderr.startswith("error: nowhere: no such folder")


def test_verify_prints_json(run, monkeypatch):
    monkeypatch.setattr(adapter, "verify_adapter", lambda *_: adapter.Verification(1e-7, 0.0, 1e-5))
    done = run("adapter", "verify", "x", "--json")
    assert json.loads(done.stdout) == {"sentence_transformers": 1e-7, "peft": 0.0, "tolerance": 1e-5}


def test_demo_goes_where_it_is_told(run, monkeypatch):
    from searchtune.workflows import demo

    asked = []
    monkeypatch.setattr(demo, "run_demo", lambda out, *, policy, progress: asked.append((out, policy)))
    assert run("demo").exit_code == 0
    assert run("demo", "--out", "there", "--overwrite").exit_code == 0
    assert asked == [(Path("runs/demo"), "fail"), (Path("there"), "overwrite")]


def test_a_mistake_is_told_before_torch_is_loaded(tmp_path):
    code = "import sys\nfrom searchtune.cli.main import app\n"
    code += "try: app(['embed', 'train', 'no-such-recipe'])\nexcept SystemExit: print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert done.stdout == "False\n"
