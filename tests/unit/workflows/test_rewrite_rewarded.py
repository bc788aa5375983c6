"""A rewriter by reward, from its recipe to figures on test, with a tiny model."""

import json

import numpy as np
import pytest

from searchtune.errors import ConfigError
from searchtune.models.cards import read_llm_card
from searchtune.specs.base import parse_spec
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.workflows.rewrite_rewarded import train_rewarded, unseen
from unit.models.causal import write_byte_causal
from unit.workflows.rewriting import SMALL


def recipe(base, task, **changes):
    reward = {
        "task": str(task), "samples": 1, "mode": "replace", "from_documents": True, "max_queries": 12,
        "min_margin": 0.01,
    }  # fmt: skip
    small = {**SMALL, "dev": {"times": 1, "max_examples": 3}}
    return parse_spec(RewriteRecipe, {"base": str(base), "reward": reward, "style": "search", **small, **changes}, "x")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=512)


@pytest.mark.slow
def test_from_recipe_to_figures(base, tmp_path, tiny_collection):
    result = train_rewarded(recipe(base, tiny_collection), tmp_path / "run")
    card = read_llm_card(result.adapter)
    assert (card.kind, card.rewriting.modes) == ("rewrite", {"bm25": "replace"})
    assert card.abstention["predictor"] == result.abstention.predictor.to_json()
    assert set(result.effects) == {"all", "unseen"}
    effect = result.effects["all"]
    assert (effect.values == np.where(effect.used, effect.rewritten, effect.original)).all()
    assert len(result.effects["unseen"].queries) <= len(effect.queries)
    saved = json.loads((tmp_path / "run" / "rewriting.json").read_text())
    assert saved["test"]["all"]["queries"] == len(effect.queries) > 0
    assert any("queries are rewritten" in line for line in result.lines())
    positives = json.loads((result.adapter / "train_positives.json").read_text())
    assert positives and card.train_positives_sha256


def test_unseen_queries_share_no_relevant_document_with_training(tiny_collection):
    from searchtune.data.tasks import load_task, open_collection

    collection = open_collection(load_task(str(tiny_collection)))
    qrels = collection.qrels["test"]
    docs, grades = qrels.row(0)
    known = [collection.doc_ids[int(docs[grades >= collection.min_grade][0])]]
    found = unseen(collection, "test", known)
    assert not found[0]
    assert unseen(collection, "test", []).all()
    assert unseen(collection, "test", ["not there"]).all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train": [{"file": "x.jsonl"}]}, "one of the two"),
        ({"reward": None}, "one of the two"),
        ({"test": {"task": "scifact"}}, "leave `test` out"),
        ({"reward": None, "train": [{"file": "x"}], "start": "y"}, "goes with `reward`"),
    ],
)
def test_recipes_learn_from_people_or_from_a_search(changes, message):
    with pytest.raises(ConfigError, match=message):
        recipe("base", "pystdlib", **changes)
