"""Recipes, tasks and cards: the rules between their keys, and JSON there and back."""

import pytest

from searchtune.errors import ConfigError
from searchtune.specs.base import apply_overrides, parse_spec
from searchtune.specs.card import AdapterCard, Probe
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.task import TaskSpec

RECIPE = {"task": "t", "base": "b"}


def test_a_recipe_needs_a_task_and_a_base_only():
    recipe = parse_spec(EmbedRecipe, RECIPE, "r.yaml")
    assert recipe.method.rank == 16
    assert EmbedRecipe.model_validate_json(recipe.model_dump_json()) == recipe


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["frozen_prefix=true"], "frozen_prefix needs method.top_layers"),
        (["objective.candidates=corpus"], "objective.candidates 'corpus' needs side: query"),
        (["objective.matryoshka=[64, 128]"], "must fall, without repeats"),
        (["objective.matryoshka=[64, 64]"], "must fall, without repeats"),
        (["objective.hard_negatives.first_rank=9", "objective.hard_negatives.last_rank=3"], "last_rank 3 comes before"),
        (["optim.batch_size=1"], "optim.batch_size: input should be greater than or equal to 2 (found 1)"),
        (["optim.lr=0"], "optim.lr: input should be greater than 0"),
        (["method.rank=0"], "method.rank: input should be greater than 0"),
        (["method.name=dora"], "method.name: input should be 'lora'"),
        (["kind=rerank"], "kind: input should be 'embed'"),
        (["optim.learning_rate=1"], "unknown key 'optim.learning_rate'"),
        (["method.target_modules=query"], "method.target_modules"),
    ],
)
def test_rules_of_a_recipe(overrides, message):
    with pytest.raises(ConfigError) as caught:
        parse_spec(EmbedRecipe, apply_overrides(RECIPE, overrides), "r.yaml")
    assert message in str(caught.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["side=query", "objective.candidates=corpus"],
        ["frozen_prefix=true", "method.top_layers=2"],
        ["objective.matryoshka=[256, 64]"],
        ["method.target_modules=[query, value]"],
        ["optim.lr=1e-4", "gradient_caching=auto", "precision=bf16"],
    ],
)
def test_recipes_that_fit(overrides):
    parse_spec(EmbedRecipe, apply_overrides(RECIPE, overrides), "r.yaml")


@pytest.mark.parametrize("share", [0, 1, -0.1, 2])
def test_the_dev_share_of_a_task(share):
    with pytest.raises(ConfigError, match="dev_from_train"):
        parse_spec(TaskSpec, {"name": "t", "source": "s", "dev_from_train": share}, "t.yaml")


def test_a_card_survives_json():
    card = AdapterCard(
        name="a",
        base="b",
        revision=None,
        base_weights_sha256="0",
        tokenizer_sha256="1",
        side="both",
        pooling="mean",
        normalise=True,
        query_prompt="",
        document_prompt="",
        max_tokens=256,
        query_max_tokens=64,
        dim=32,
        matryoshka=[],
        trainable_parameters=1,
        recipe_sha256="2",
        data_fingerprint="3",
        train_positives_sha256="4",
        probe=Probe(queries=["q"], documents=["d"]),
        metrics={"ndcg@10": 0.5},
        versions={"torch": "2"},
        created="2025-01-01T00:00:00+00:00",
    )
    assert AdapterCard.model_validate_json(card.model_dump_json()) == card
    with pytest.raises(ConfigError, match="format"):
        parse_spec(AdapterCard, {**card.model_dump(), "format": 2}, "adapter_card.json")
