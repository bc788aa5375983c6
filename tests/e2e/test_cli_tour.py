"""The command line from a recipe to a merged model, on the tiny collection and model."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

import support
from searchtune.cli.main import app
from searchtune.workflows import finish
from searchtune.workflows.adapter import verify_adapter


def run(*args, **options):
    done = CliRunner().invoke(app, list(map(str, args)), prog_name="searchtune", **options)
    assert done.exit_code == 0, done.output
    return done


@pytest.fixture(scope="module")
def world(tmp_path_factory, tiny_model):
    """A folder with a collection, a recipe and a run; the run's output."""
    folder = tmp_path_factory.mktemp("tour")
    support.write_collection(folder / "small")
    (folder / "small.yaml").write_text(
        f"# a recipe\nkind: embed\ntask: {folder / 'small'}\nbase: {tiny_model}\nmax_tokens: 64\nprecision: fp32\n"
        "method: {rank: 4, alpha: 8, top_layers: 1}\noptim: {epochs: 1, batch_size: 16}\ndev: {times: 1}\n",
        encoding="utf-8",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(finish, "verify_in_fresh_process", verify_adapter)
        patch.chdir(folder)
        done = run("embed", "train", "small.yaml", "--json")
    return folder, done


@pytest.fixture
def folder(world, monkeypatch):
    monkeypatch.chdir(world[0])
    return world[0]


def test_train(world):
    folder, done = world
    summary = json.loads(done.stdout)
    assert Path(summary["adapter"]) == folder / "runs" / "small" / "adapter"
    assert set(summary["test"]) == {"bm25", "base", "hybrid", "tuned", "hybrid-tuned"}
    assert 0 <= summary["test"]["tuned"]["ndcg@10"] <= 1
    assert {"report.html", "report.json", "recipe.json"} <= {path.name for path in (folder / "runs/small").iterdir()}


def test_progress_is_on_stderr_without_the_libraries_talk(world):
    err = world[1].stderr
    assert "trainable params: " in err
    assert "reloaded = trained" in err
    assert "Loading weights" not in err
    assert "FutureWarning" not in err


def test_a_run_is_not_overwritten_unasked(folder):
    done = CliRunner().invoke(app, ["embed", "train", "small.yaml"])
    assert done.exit_code == 2
    assert "--overwrite" in done.stderr


def test_dry_run(folder):
    before = sorted(path.name for path in folder.iterdir())
    done = run("embed", "train", "small.yaml", "--dry-run", "--out", "other")
    assert "40 documents; judged queries: dev 12, test 12, train 36" in done.stdout
    assert sorted(path.name for path in folder.iterdir()) == before


def test_encode_reads_jsonl_text_and_stdin(folder):
    rows = [{"title": "tide harbour", "text": "sail"}, {"text": "court\u2028judge"}]
    lines = "\n\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (folder / "texts.jsonl").write_text(lines, encoding="utf-8")
    (folder / "texts.txt").write_text("tide harbour sail\r\n\r\ncourt judge\r\n", encoding="utf-8")
    assert run("embed", "encode", "runs/small", "texts.jsonl", "--out", "a.npy").stdout == "2 x 32 -> a.npy\n"
    run("embed", "encode", "runs/small/adapter", "texts.txt", "--out", "b.npy")
    run("embed", "encode", "runs/small", "-", "--out", "c.npy", "--queries", input="tide harbour sail\ncourt judge\n")
    a, b, c = (np.load(folder / f"{name}.npy") for name in "abc")
    assert a.dtype == np.float32
    np.testing.assert_allclose(a, b, atol=1e-2)
    np.testing.assert_allclose(b, c, atol=1e-2)
    np.testing.assert_allclose(np.linalg.norm(a, axis=1), 1, atol=1e-2)


def test_a_bad_line_is_named(folder):
    (folder / "bad.jsonl").write_text('{"text": "fine"}\n\n{"words": "no text"}\n', encoding="utf-8")
    done = CliRunner().invoke(app, ["embed", "encode", "runs/small", "bad.jsonl", "--out", "bad.npy"])
    assert done.exit_code == 2
    assert "bad.jsonl:3: key 'text' is missing; known: words" in done.stderr


def test_search(folder):
    done = run("embed", "search", "runs/small", "tide harbour", "--task", "small", "-k", 3, "--json")
    hits = json.loads(done.stdout)
    assert len(hits) == 3
    assert hits[0]["score"] >= hits[1]["score"] >= hits[2]["score"]
    assert {hit["id"] for hit in hits} <= set(support.documents())


def test_show_verify_and_merge(folder):
    card = json.loads(run("adapter", "show", "runs/small").stdout)
    assert card["dim"] == 32
    assert "probe" not in card
    assert "verified (tolerance" in run("adapter", "verify", "runs/small").stdout
    done = run("adapter", "merge", "runs/small", "--out", "merged")
    assert "the probe differs from the adapter's by" in done.stdout
    assert "shards" not in done.stderr
    assert (folder / "merged" / "modules.json").is_file()
    assert not (folder / "merged" / "adapter_config.json").exists()
