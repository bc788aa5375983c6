"""`searchtune plan` on recipes of several kinds, with bases that are a config.json and nothing else."""

import json
from types import SimpleNamespace

import pytest
from typer.testing import CliRunner

from searchtune.cli.main import app
from searchtune.errors import ConfigError, ModelError
from searchtune.specs.recipe import EmbedRecipe, LoraMethod, Optimiser
from searchtune.specs.rerank import RerankRecipe
from searchtune.workflows.plan import plan_memory
from searchtune.workflows.recipes import load_any_recipe

TINY = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 128,
    "vocab_size": 1000,
}


@pytest.fixture
def base(tmp_path):
    """A folder with a config.json alone."""
    folder = tmp_path / "base"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(TINY), encoding="utf-8")
    return folder


def rerank(base, **changes):
    settled = {"task": "t", "base": str(base), "precision": "bf16", "first_stage": {"bm25": {"kind": "bm25"}}}
    return RerankRecipe.model_validate({**settled, "tokens_per_chunk": 512, "max_tokens": 64, **changes})


def test_the_parts_add_up(base):
    plan = plan_memory(rerank(base, gradient_caching=True))
    parts = plan.base_weights + plan.merged_copies + plan.adapter + plan.gradients + plan.optimiser + plan.logits
    assert plan.total == parts + plan.activations_recomputed
    assert plan.gradients == plan.adapter == 4 * plan.trainable_parameters and plan.optimiser == 2 * plan.adapter
    kept = plan_memory(rerank(base, gradient_caching=False))
    assert kept.total == parts + kept.activations_kept > plan.total
    assert any("gradient_caching" in line for line in kept.advice())
    assert plan.to_json()["total"] == plan.total


@pytest.mark.parametrize(("batch", "again"), [(2, False), (64, True)])
def test_auto_recomputes_when_a_batch_is_longer_than_a_chunk(base, batch, again):
    plan = plan_memory(rerank(base, optim={"batch_size": batch}, objective={"negatives": {"per_query": 3}}))
    assert plan.recompute is again


def test_4_bits_take_less_and_keep_no_copies(base):
    plain, packed = plan_memory(rerank(base)), plan_memory(rerank(base, quantise="nf4"))
    assert packed.base_weights < plain.base_weights
    assert plain.merged_copies > 0 == packed.merged_copies
    assert packed.trainable_parameters == plain.trainable_parameters


def test_what_optimisers_take(base):
    plain, packed, frozen = (
        plan_memory(rerank(base, optim={"batch_size": 8, **options}))
        for options in ({}, {"name": "adamw-8bit"}, {"lora_fa": True})
    )
    assert packed.optimiser < 0.26 * plain.optimiser
    assert frozen.trainable_parameters < plain.trainable_parameters and frozen.adapter == plain.adapter
    assert frozen.activations_kept < plain.activations_kept


def test_heads(base):
    yes_no, classifier = plan_memory(rerank(base)), plan_memory(rerank(base, head="classifier"))
    assert classifier.trainable_parameters == yes_no.trainable_parameters + 64
    assert yes_no.kv_cache == 2 * 4 * 2 * 16 * 512 * 2 and classifier.kv_cache == 0


def test_an_embedding_recipe(base):
    plan = plan_memory(EmbedRecipe.model_validate({"task": "t", "base": str(base), "precision": "fp32"}))
    assert plan.precision == "float32" and plan.logits == plan.kv_cache == 0


@pytest.mark.parametrize(("kind", "rows"), [("judge", None), ("rewrite", 1), ("answer", 1)])
def test_a_recipe_of_a_stage_to_come(base, kind, rows):
    """Whatever has these keys can be planned; a completion is read through the whole vocabulary, a label is not."""
    recipe = SimpleNamespace(
        kind=kind, base=str(base), revision=None, method=LoraMethod(), quantise="nf4", precision="bf16",
        tokens_per_chunk=128, max_tokens=64, optim=Optimiser(batch_size=8),
    )  # fmt: skip
    plan = plan_memory(recipe)
    assert plan.recompute
    assert plan.logits == (2 * 64 * 1000 * 10 if rows else 2 * 2 * 10)


def test_bases_that_are_none(tmp_path, base):
    with pytest.raises(ModelError, match=r"has no config\.json"):
        plan_memory(rerank(tmp_path))
    with pytest.raises(ConfigError, match="no layer has 'q_prj'.*q_proj"):
        plan_memory(rerank(base, method={"target_modules": ["q_prj"]}))


def test_recipes_by_name_and_path(tmp_path):
    assert load_any_recipe("smollm2-pystdlib").kind == "rerank"
    with pytest.raises(ConfigError, match=r"one under each of \['embed', 'rerank'\]"):
        load_any_recipe("minilm-pystdlib")
    assert load_any_recipe("configs/embed/minilm-pystdlib.yaml").kind == "embed"
    (tmp_path / "odd.yaml").write_text("kind: rernk\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="no recipe is of kind 'rernk'.*rerank"):
        load_any_recipe(str(tmp_path / "odd.yaml"))
    with pytest.raises(ConfigError, match="neither a file nor a name"):
        load_any_recipe("no-such-recipe")


def test_the_command(base, tmp_path):
    file = tmp_path / "recipe.yaml"
    file.write_text(f"kind: rerank\ntask: t\nbase: {base}\nfirst_stage: {{bm25: {{kind: bm25}}}}\n", encoding="utf-8")
    done = CliRunner().invoke(app, ["plan", str(file), "--set", "quantise=nf4", "--set", "precision=bf16"])
    assert done.exit_code == 0, done.output
    assert "layers in 4 bits" in done.stdout and "total" in done.stdout and "fit on a GPU of 8 GB" in done.stdout
    done = CliRunner().invoke(app, ["plan", str(file), "--set", "precision=fp32", "--json"])
    assert json.loads(done.stdout)["trainable_parameters"] > 0
    assert CliRunner().invoke(app, ["plan", str(file), "--set", "quantize=nf4"]).exit_code == 2
