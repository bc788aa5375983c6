"""Abstention from end to end on small collections: fitted on dev, refused elsewhere, and reported as it is."""

import json
from dataclasses import replace

import numpy as np
import pytest

from searchtune.data.collection import build_collection
from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.metrics.significance import SAME
from searchtune.specs.reward import AbstentionSpec
from searchtune.workflows.rewrite_abstain import (
    RewriteWatch,
    fit_abstention,
    measure_rewriting,
)
from searchtune.workflows.rewrite_rule import Abstention
from searchtune.workflows.rewrite_search import RewriteSearch, open_retrieval
from unit.workflows.rewarding import collection

GOOD, BAD = "helpful", "harmful"


def world(queries=40, splits=("dev", "test")):
    """Half of the queries find nothing until they are rewritten; the other half is perfect as it is."""
    documents, texts, labels = {}, {}, {}
    for split in splits:
        labels[split] = []
        for i in range(queries):
            name = f"{split}{i:02d}"
            documents[name] = ("", f"key{name} common filler")
            documents[f"{name}x"] = ("", f"wrong{name} wrong{name}")
            texts[name] = f"lost {name}" if i % 2 else f"key{name}"
            labels[split].append((name, name, 1))
    return build_collection("world", documents, texts, labels)


def rewrites_of(one, split):
    """What mends the lost queries and spoils the good ones."""
    names = [one.query_ids[int(query)] for query in one.split(split).queries]
    return [f"key{name}" if int(name[-2:]) % 2 else f"wrong{name}" for name in names]


def watching(one, mode="replace", other=False):
    return RewriteWatch(
        RewriteSearch(one, open_retrieval(["bm25"], one), mode), open_retrieval(["bm25"], one) if other else None
    )


@pytest.mark.parametrize("other", [False, True])
def test_what_dev_taught_holds_on_test(other):
    one = world()
    watch = watching(one, other=other)
    abstention = fit_abstention(watch, rewrites_of(one, "dev"), metric="ndcg@10")
    assert abstention.predictor.use == "predicted"
    assert ("retrievers_jaccard" in abstention.predictor.names) == other
    read = Abstention.from_json(json.loads(json.dumps(abstention.to_json(), allow_nan=False)))
    effect = measure_rewriting(watch, rewrites_of(one, "test"), metric="ndcg@10", abstention=read)
    assert effect.original.mean() == 0.5 and effect.rewritten.mean() == 0.5
    assert effect.values.mean() == 1 and effect.used.mean() == 0.5
    figures = effect.figures()
    assert (figures["gain"].mean, figures["gain_used"].mean, figures["harmed"]) == (0.5, 1.0, 0.0)
    assert figures["gain_without_abstention"].mean == 0
    lines = effect.lines()
    assert lines[0] == "50% of 40 queries are rewritten"
    assert "gain on all +0.5000 (95% interval +0.3" in lines[1]
    assert effect.run.queries.tolist() == one.split("test").queries.tolist()


def test_without_abstention_all_rewrites_are_used_and_harm_is_told():
    one = world()
    effect = measure_rewriting(watching(one), rewrites_of(one, "test"), metric="ndcg@10")
    figures = effect.figures()
    assert (figures["share"], figures["better"], figures["harmed"], figures["mean_harm"]) == (1, 0.5, 0.5, -1)
    assert effect.lines()[-1] == "50% become better, 50% worse, those by -1.0000"


def test_rewrites_that_change_nothing_are_not_rewrites():
    one = world()
    same = [one.query_texts[int(query)] for query in one.split("test").queries]
    for rewrites in (same, [""] * len(same), [f" {text}  " for text in same]):
        effect = measure_rewriting(watching(one, "append"), rewrites, metric="ndcg@10")
        assert not effect.used.any() and not effect.gains.any()
        assert "gain on those rewritten unknown, since there are none" in effect.lines()


def test_harmful_rewrites_are_never_used():
    one = world()
    wrong = [f"wrong{one.query_ids[int(query)]}" for query in one.split("dev").queries]
    abstention = fit_abstention(watching(one), wrong, metric="ndcg@10")
    assert abstention.predictor.use == "never"
    assert "so no rewrite is used" in abstention.predictor.reading


def test_the_spec_settles_features_and_aim():
    one = world()
    spec = AbstentionSpec(features=["runs_jaccard", "original_found"], aim="harm", max_harmed=0.0)
    abstention = fit_abstention(watching(one), rewrites_of(one, "dev"), metric="ndcg@10", spec=spec)
    assert abstention.predictor.names == ("runs_jaccard", "original_found")
    assert abstention.predictor.harmed == 0
    with pytest.raises(ConfigError, match="no feature 'bm25'"):
        fit_abstention(watching(one), rewrites_of(one, "dev"), metric="ndcg@10", spec=AbstentionSpec(features=["bm25"]))


def test_it_is_refused_for_another_search():
    one = world()
    abstention = fit_abstention(watching(one), rewrites_of(one, "dev"), metric="ndcg@10")
    assert abstention.mode == "replace"
    for watch, what in [(watching(one, "fuse"), "mode"), (watching(one, other=True), "other")]:
        with pytest.raises(ConfigError, match=f"fitted for another {what}"):
            measure_rewriting(watch, rewrites_of(one, "test"), metric="ndcg@10", abstention=abstention)


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_modes_agree_with_what_was_searched(mode):
    one = world(10)
    watch = watching(one, mode)
    rewrites = rewrites_of(one, "test")
    effect = measure_rewriting(watch, rewrites, metric="mrr@10")
    better = effect.rewritten > effect.original + SAME
    lost = [one.query_texts[int(query)].startswith("lost") for query in effect.queries]
    assert better.tolist() == lost


def test_splits_and_rewrites_that_do_not_fit():
    one = world(12)
    watch = watching(one)
    with pytest.raises(DataError, match="no split 'tests'; did you mean 'test'"):
        measure_rewriting(watch, [], metric="ndcg@10", split="tests")
    with pytest.raises(DataError, match="3 rewrites and 12 utterances for 12 judged queries"):
        fit_abstention(watch, ["a"] * 3, metric="ndcg@10")
    with pytest.raises(DataError, match="12 rewrites and 1 utterances"):
        fit_abstention(watch, ["a"] * 12, metric="ndcg@10", utterances=["b"])


def test_one_dev_query_is_too_few_and_one_test_query_is_reported():
    toy = collection()
    watch = watching(toy)
    abstention = fit_abstention(watch, ["walk tree"], metric="ndcg@10")
    assert "1 dev queries are too few" in abstention.predictor.reading
    effect = measure_rewriting(watch, ["remove path"], metric="ndcg@10")
    assert "(1 query has no interval)" in effect.lines()[1]
    nothing = replace(
        effect, queries=effect.queries[:0], original=np.zeros(0), rewritten=np.zeros(0), used=np.zeros(0, bool)
    )
    assert nothing.lines() == ["no query was searched"]


@pytest.mark.parametrize("data", [{}, {"made_for": {}}, {"made_for": {"retriever": "", "other": None, "mode": "x"}}])
def test_json_that_is_wrong(data):
    one = world(12)
    predictor = fit_abstention(watching(one), rewrites_of(one, "dev"), metric="ndcg@10").to_json()["predictor"]
    with pytest.raises(ArtifactError, match="abstention"):
        Abstention.from_json({**data, "predictor": predictor})
