"""Training by reward with a tiny model: it learns what searches find, goes on after a kill, and begins where told."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import support
from searchtune.errors import ArtifactError, ConfigError, DataError
from searchtune.models.adapters import without_adapter
from searchtune.models.backends import LocalBackend
from searchtune.models.chat import example_store
from searchtune.models.completions import CompletionReader
from searchtune.models.llm_artifact import load_llm_adapter
from searchtune.specs.llm import LlmRecipe
from searchtune.specs.reward import RetrievalReward
from searchtune.training.fit import TrainingInterrupted
from searchtune.workflows import fitting, rewrite_by_reward
from searchtune.workflows.progress import Progress
from searchtune.workflows.rewrite_by_reward import RewardPlan, train_by_reward
from searchtune.workflows.rewrite_reward import read_rewarded
from unit.models.causal import write_byte_causal
from unit.models.test_llm_artifact import saved
from unit.workflows.rewarding import Greedy, Scripted, ask

OPTIM = {"lr": 1e-2, "epochs": 2, "min_steps": 0, "batch_size": 8, "checkpoint_every": 2}


def hints():
    """For each question the title of the document that is asked for, and one of another topic."""
    titles = {name: title for name, (title, _) in support.documents().items()}
    found = {}
    for query in support.queries():
        wanted = max(query.grades, key=query.grades.get)
        other = next(name for name in titles if name.partition("-")[0] != wanted.partition("-")[0])
        found[query.text] = [titles[other], titles[wanted]]
    return found


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, message):
        self.notes.append(message)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=256)


def recipe_of(base, **changes):
    keys = {"max_tokens": 200, "precision": "fp32", "method": {"rank": 4, "alpha": 8}, "optim": OPTIM}
    return LlmRecipe.model_validate({"base": str(base), **keys, "dev": {"times": 1, "max_examples": 3}, **changes})


def plan_of(task, source=None, **changes):
    reward = RetrievalReward.model_validate(
        {"task": str(task), "samples": 2, "mode": "replace", "max_queries": 12, **changes}
    )
    return RewardPlan(
        reward, source or Scripted(hints()), ask, lambda model: Greedy(LocalBackend(model, {}, max_tokens=200))
    )


def margins(trained, pairs):
    """How much more likely than without the adapter each better rewrite has become, less the same of the worse."""
    store = example_store(trained.model.tokenizer, pairs, 200)
    reader = CompletionReader(trained.model)
    now = reader.read_store(store.chosen) - reader.read_store(store.rejected)
    with without_adapter(trained.adapter):
        return now - (reader.read_store(store.chosen) - reader.read_store(store.rejected))


def test_better_rewrites_become_likelier(base, tmp_path, tiny_collection):
    notes = Notes()
    plan = plan_of(tiny_collection)
    trained = train_by_reward(recipe_of(base), plan, tmp_path / "run", progress=notes)
    rewarded = read_rewarded(tmp_path / "run" / "rewarded.jsonl")
    assert len(rewarded) == 12
    found = rewrite_by_reward.preferences(rewarded, min_margin=0.1, per_query=2)
    pairs = rewrite_by_reward.preference_pairs(found, ask)
    assert margins(trained, pairs).mean() > 0.1
    assert trained.log.steps[-1].dev.keys() == {"reward", "gain", "changed", "harmed"}
    assert trained.positives and trained.examples[0].rejected is None
    assert trained.rewards["best"] > trained.rewards["utterance"]
    assert any("pairs of a better and a worse rewrite" in note for note in notes.notes)
    assert json.loads((tmp_path / "run" / "train_log.json").read_text())["steps"]


def test_a_run_that_was_killed_ends_in_the_same_weights(base, tmp_path, tiny_collection, monkeypatch):
    recipe, plan = (
        recipe_of(base, optim={**OPTIM, "batch_size": 4, "epochs": 4}, dev={"times": 0}),
        plan_of(tiny_collection),
    )
    whole = train_by_reward(recipe, plan, tmp_path / "whole")
    real, stops = fitting.fit, [("warm", 3), ("killed", 3)]

    def stopping(objective, optim, fitted, *, on_eval=None, on_step=None):
        def stop(step, total):
            if stops and (fitted.folder.name, step.step) == stops[0]:
                stops.pop(0)
                raise TrainingInterrupted("test")

        return real(objective, optim, fitted, on_eval=on_eval, on_step=stop)

    monkeypatch.setattr(fitting, "fit", stopping)
    policy = "fail"
    while stops:
        with pytest.raises(TrainingInterrupted):
            train_by_reward(recipe, plan, tmp_path / "killed", policy=policy)
        policy = "resume"
    source = Scripted(hints())
    again = train_by_reward(recipe, plan_of(tiny_collection, source), tmp_path / "killed", policy="resume")
    assert source.asked == []
    states = [trained.adapter.state() for trained in (whole, again)]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    with pytest.raises(ConfigError, match="collection has changed"):
        train_by_reward(recipe, plan_of(tiny_collection, min_margin=0.2), tmp_path / "killed", policy="resume")


@pytest.mark.parametrize("reference", ["start", "base"])
def test_gains_are_measured_from_the_start_or_from_the_base(base, tmp_path, tiny_collection, reference, monkeypatch):
    seen = {}

    class Spy(rewrite_by_reward.PairPreference):
        def __init__(self, model, store, reference, *rest, **settings):
            super().__init__(model, store, reference, *rest, **settings)
            own = self.logprobs(np.arange(self.pairs)).detach().numpy()
            seen["far"] = float(np.abs(own - reference).max())

    monkeypatch.setattr(rewrite_by_reward, "PairPreference", Spy)
    plan = plan_of(tiny_collection, preference={"reference": reference})
    train_by_reward(recipe_of(base, dev={"times": 0}), plan, tmp_path / "run")
    assert (seen["far"] < 1e-3) == (reference == "start")


def test_it_begins_with_another_rewriters_weights(base, tmp_path, tiny_collection, monkeypatch):
    folder = tmp_path / "rewriter"
    saved(folder, base, kind="rewrite", labels=[], rubric={}, max_tokens=200)
    expected, _ = load_llm_adapter(folder, dtype=torch.float32, device=torch.device("cpu"))
    seen = {}

    class Spy(rewrite_by_reward.PairPreference):
        def __init__(self, model, store, reference, *rest, **settings):
            super().__init__(model, store, reference, *rest, **settings)
            seen["differs"] = float(np.abs(CompletionReader(expected).read_store(store.chosen) - reference[:, 0]).max())

    monkeypatch.setattr(rewrite_by_reward, "PairPreference", Spy)
    plan = replace(plan_of(tiny_collection, warm_start=0), start=folder)
    recipe = recipe_of(base, dev={"times": 0})
    train_by_reward(recipe, plan, tmp_path / "run")
    assert seen["differs"] < 1e-3
    other = recipe_of(base, method={"rank": 2, "alpha": 8}, dev={"times": 0})
    with pytest.raises(ConfigError, match=r"was trained with \{'r': 4\}, unlike the recipe's method"):
        train_by_reward(other, plan, tmp_path / "other")
    saved(tmp_path / "judge", base, labels=["1", "0"], max_tokens=200)
    with pytest.raises(ArtifactError, match="an adapter of kind 'judge'"):
        train_by_reward(recipe, replace(plan, start=tmp_path / "judge"), tmp_path / "third")


def test_nothing_to_learn_from(base, tmp_path, tiny_collection):
    plan = plan_of(tiny_collection, Scripted({}))
    with pytest.raises(DataError, match="set reward.from_documents"):
        train_by_reward(recipe_of(base), plan, tmp_path / "run")


def test_labels_of_dev_and_test_play_no_part(base, tmp_path):
    """Whatever dev and test call relevant, candidates and rewards are the same."""
    files = []
    for name, relevant in (("one", "sea-0"), ("two", "law-1")):
        folder = support.write_collection(tmp_path / name)
        for split in ("dev", "test"):
            rows = [f"{q.id}\t{relevant}\t2" for q in support.queries() if q.split == split]
            (folder / "qrels" / f"{split}.tsv").write_text(
                "\n".join(["query-id\tcorpus-id\tscore", *rows, ""]), encoding="utf-8"
            )
        out = tmp_path / f"run-{name}"
        train_by_reward(
            recipe_of(base, dev={"times": 0}), plan_of(folder, warm_start=0, from_documents=True), out, leaks="allow"
        )
        files.append((out / "rewarded.jsonl").read_text(encoding="utf-8"))
    assert files[0] == files[1]
