"""The rules of an answerer's recipe."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.answer import AnswerRecipe
from searchtune.specs.base import apply_overrides, parse_spec

RECIPE = {"base": "b", "train": {"file": "a.jsonl"}}


def test_defaults():
    recipe = parse_spec(AnswerRecipe, RECIPE, "r.yaml")
    assert (recipe.kind, recipe.abstain, recipe.dev.metric, recipe.test) == ("answer", "read", "auc", None)
    assert AnswerRecipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("overrides, message", [
    (["train.task=t"], "name either a `file` of questions or a `task`"),
    (["train.start=0.5", "train.stop=0.5"], "start 0.5 is not below stop 0.5"),
    (["train.stop=1.5"], "train.stop"),
    (["abstain=written"], "dev.metric auc is of what is read"),
    (["max_new_tokens=512"], "max_new_tokens 512 leaves no room"),
    (["no_gold_share=1.0"], "no_gold_share"),
    (["format=xml"], "format: input should be 'plain', 'markdown' or 'json'"),
    (["train.form=clap"], "train.form"),
])  # fmt: skip
def test_rules(overrides, message):
    with pytest.raises(ConfigError) as caught:
        parse_spec(AnswerRecipe, apply_overrides(RECIPE, overrides), "r.yaml")
    assert message in str(caught.value)


def test_written_abstention_without_dev_needs_no_metric():
    overrides = ["abstain=written", "dev.times=0"]
    assert parse_spec(AnswerRecipe, apply_overrides(RECIPE, overrides), "r.yaml").abstain == "written"
