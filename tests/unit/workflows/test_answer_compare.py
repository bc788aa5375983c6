"""Which questions an answerer is measured on, and beside which base."""

import json

import pytest

from searchtune.errors import ConfigError
from searchtune.workflows.answer_compare import kept_questions, open_with_base
from unit.models.causal import write_byte_causal


def write_recipe(folder, **changes):
    folder.mkdir(parents=True, exist_ok=True)
    recipe = {"base": "b", "train": {"file": "q.jsonl", "stop": 0.5}, "test": {"file": "q.jsonl", "start": 0.5}}
    record = {"recipe": {**recipe, **changes}, "data": "d" * 64, "precision": "fp32"}
    (folder / "recipe.json").write_text(json.dumps(record))
    return folder


def test_the_recipe_says_which_questions_are_kept_for_testing(tmp_path):
    run = write_recipe(tmp_path / "run")
    assert (kept_questions(run).start, kept_questions(run / "adapter").file) == (0.5, "q.jsonl")


def test_without_such_a_recipe_the_message_says_what_to_give(tmp_path):
    for folder in (tmp_path, write_recipe(tmp_path / "run", test=None)):
        with pytest.raises(ConfigError, match="name some with --questions or --task"):
            kept_questions(folder)


def test_a_plain_model_has_nothing_to_be_compared_with(tmp_path):
    base = write_byte_causal(tmp_path / "model")
    with pytest.raises(ConfigError, match="a plain model; name the adapter"):
        open_with_base(str(base))


@pytest.mark.parametrize("record", [{}, {"recipe": {}}, {"recipe": [], "data": "d", "precision": "fp32"}, [], "x"])
def test_a_record_of_something_else_is_named(tmp_path, record):
    (tmp_path / "recipe.json").write_text(json.dumps(record))
    with pytest.raises(ConfigError, match=r"recipe\.json: not "):
        kept_questions(tmp_path)
