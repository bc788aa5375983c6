"""Real conversations and people's rewrites, where they are: the project itself holds none of them."""

import os
from pathlib import Path

import pytest

from searchtune.specs.rewrite import RetrievalTest
from searchtune.types import Turn
from searchtune.workflows.progress import SILENT
from searchtune.workflows.recipes import load_rewrite_recipe
from searchtune.workflows.rewrite_data import open_rewrite_data, open_test

HOME = Path(os.environ.get("SEARCHTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")


@pytest.fixture(autouse=True)
def there(monkeypatch):
    if not (HOME / "jsonl" / "rewrites").is_dir() or not (HOME / "beir" / "conv-known-passages").is_dir():
        pytest.skip(f"no real conversations under {HOME}: set SEARCHTUNE_DATA to the folder that holds them")
    monkeypatch.setenv("SEARCHTUNE_DATA", str(HOME))


def test_what_was_said_before_comes_from_the_same_conversation():
    test = open_test(RetrievalTest(task="conv-known-passages-raw", human="conv-known-passages"))
    place = test.collection.query_index["cast21_106_3"]
    assert test.turns[place] == Turn(
        "How deadly is it?",
        (
            ("user", "I just had a breast biopsy for cancer. What are the most common types?"),
            ("user", "Once it breaks out, how likely is it to spread?"),
        ),
    )
    assert test.human[place] == "How deadly is lobular carcinoma in situ?"
    assert all(test.human)
    tenth = test.turns[test.collection.query_index["cast21_110_10"]]
    assert len(tenth.history) == 9, "turns go in the order of their numbers, not of their ids"
    assert (len(test.test), len(test.dev)) == (180, 67)


def test_the_recipe_for_conversations_leaks_nothing():
    data = open_rewrite_data(load_rewrite_recipe("smollm2-conv"), "fail", SILENT)
    assert len(data.train) > 2000 and len(data.dev) == 150
    assert {one.conversation for one in data.train}.isdisjoint(one.conversation for one in data.dev)
