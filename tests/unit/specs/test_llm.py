"""What recipes of language models share, and the options of training that came with them."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.base import apply_overrides, parse_spec
from searchtune.specs.llm import LlmRecipe
from searchtune.specs.recipe import EmbedRecipe

RECIPE = {"base": "b"}


def test_a_recipe_needs_a_base_only():
    recipe = parse_spec(LlmRecipe, RECIPE, "r.yaml")
    assert recipe.recompute is None
    assert recipe.model_copy(update={"gradient_caching": True}).recompute is True
    assert LlmRecipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize("overrides, message", [
    (["tokens_per_chunk=100"], "tokens_per_chunk 100 is less than one text of max_tokens 512"),
    (["optim.lora_fa=true", "optim.lora_plus_ratio=4"], "lora_fa trains b alone"),
    (["optim.name=adam"], "optim.name: input should be 'adamw', 'adamw-8bit' or 'paged-adamw-8bit'"),
    (["quantise=int8"], "quantise: input should be 'none' or 'nf4'"),
    (["dev.max_queries=3"], "unknown key 'dev.max_queries'"),
])  # fmt: skip
def test_rules_of_a_recipe(overrides, message):
    with pytest.raises(ConfigError) as caught:
        parse_spec(LlmRecipe, apply_overrides(RECIPE, overrides), "r.yaml")
    assert message in str(caught.value)


def test_dora_has_no_half_way():
    data = {"task": "t", "base": "b", "method": {"dora": True}, "dev": {"strengths": [1.0, 0.5]}}
    with pytest.raises(ConfigError, match=r"method\.dora has no half-way"):
        parse_spec(EmbedRecipe, data, "r.yaml")
