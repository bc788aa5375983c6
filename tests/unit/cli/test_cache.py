"""`searchtune cache`: what it says, what it asks, what it removes."""

import json
import os
import time
from pathlib import Path

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from searchtune.cli.cache import app, parse_size
from searchtune.retrieval.cache import KEY_FILE, EmbeddingCache, EncoderKey
from searchtune.storage import derived


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """Two encoders: `old`, unused for nine days, and `new`."""
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path))
    cache = EmbeddingCache()
    for label, days in (("old", 9), ("new", 0)):
        key = EncoderKey({"base_sha256": label, "prompt": "query: ", "max_tokens": 64, "dtype": "bfloat16"}, label)
        cache.put(key, ["a", "b"], np.ones((2, 4), dtype=np.float32))
        moment = time.time() - days * 86400
        os.utime(cache.folder / key.name / KEY_FILE, (moment, moment))
    return cache


def call(*args, answer=None):
    return CliRunner().invoke(app, args, input=answer)


def labels(cache):
    return [one.label for one in cache.info()]


def test_info(cache):
    done = call("info")
    assert done.exit_code == 0
    first, second, last = done.stdout.splitlines()
    assert "2 texts" in first
    assert first.endswith("new, prompt 'query: ', 64 tokens, bfloat16")
    assert "old" in second
    assert last.startswith("2 encoders, ")
    assert last.endswith(str(cache.folder))


def test_info_for_machines(cache):
    found = json.loads(call("info", "--json").stdout)
    assert found["bytes"] == sum(one["bytes"] for one in found["keys"])
    assert [(one["label"], one["texts"], one["fields"]["dtype"]) for one in found["keys"]] == [
        ("new", 2, "bfloat16"),
        ("old", 2, "bfloat16"),
    ]


def test_what_else_is_kept(cache):
    derived.remember("scores", {"of": "this"}, b"123")
    *_, line = call("info").stdout.splitlines()
    assert line.startswith("1 files, 0.1 kB in ")
    assert line.endswith("derived")
    (other,) = json.loads(call("info", "--json").stdout)["others"]
    assert (other["files"], Path(other["folder"]).name) == (1, "derived")


def test_some_of_it_can_go_but_not_the_rest(cache):
    derived.remember("scores", {"of": "this"}, b"123")
    assert call("prune", "--older-than", "5", "--yes").exit_code == 0
    assert derived.recall("scores", {"of": "this"}) == b"123"
    assert call("prune", "--all", "--yes").exit_code == 0
    assert derived.recall("scores", {"of": "this"}) is None
    assert labels(cache) == []


def test_info_on_nothing(tmp_path, monkeypatch):
    monkeypatch.setenv("SEARCHTUNE_CACHE", str(tmp_path / "none"))
    assert call("info").stdout == f"0 encoders, 0.0 kB in {tmp_path / 'none' / 'embeddings'}\n"
    assert call("prune", "--all", "--yes").stdout == "nothing to remove\n"
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("args", "left"),
    [
        (["--older-than", "5"], ["new"]),
        (["--older-than", "30"], ["new", "old"]),
        (["--max-size", "0.5kB"], ["new"]),
        (["--max-size", "5GB"], ["new", "old"]),
        (["--all"], []),
    ],
)
def test_pruning(cache, args, left):
    done = call("prune", *args, "--yes")
    assert done.exit_code == 0, done.output
    assert labels(cache) == left
    assert ("removed" in done.stdout) == (len(left) < 2)


def test_it_asks_first(cache):
    refused = call("prune", "--all", answer="n\n")
    assert refused.exit_code == 1
    assert labels(cache) == ["new", "old"]
    assert "old" in refused.stderr
    assert call("prune", "--all", answer="y\n").exit_code == 0
    assert labels(cache) == []


def test_without_an_answer_nothing_goes(cache):
    assert call("prune", "--all").exit_code == 1
    assert labels(cache) == ["new", "old"]


@pytest.mark.parametrize(
    ("args", "words"),
    [
        ([], "say what to remove"),
        (["--all", "--max-size", "1GB"], "say what to remove"),
        (["--max-size", "much"], "'much' is no size"),
        (["--older-than", "-1"], "Invalid value"),
    ],
)
def test_what_makes_no_sense(cache, args, words):
    done = call("prune", *args, "--yes")
    assert done.exit_code == 2
    assert words in done.stderr
    assert labels(cache) == ["new", "old"]


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("5GB", 5 * 10**9),
        ("1.5 GiB", 3 * 2**29),
        ("500m", 5 * 10**8),
        ("7", 7),
        ("0", 0),
        ("2kb", 2000),
        ("1TiB", 2**40),
    ],
)
def test_sizes(text, size):
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "GB", "-1GB", "1PB", "1e3", "1,5GB", "5 G B"])
def test_what_is_no_size(text):
    with pytest.raises(typer.BadParameter, match="is no size"):
        parse_size(text)
