"""Training from a recipe to a report: what is written, what is refused, and collections of odd shape."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from searchtune.data.beir import read_beir
from searchtune.errors import ConfigError, DataError, LeakError, ModelError, OutputExistsError
from searchtune.evaluation import read_report
from searchtune.models.artifact import load_artifact
from searchtune.models.cards import read_card
from searchtune.workflows.embed import train_embedding
from searchtune.workflows.progress import Progress

SYSTEMS = ["bm25", "base", "hybrid", "tuned", "hybrid-tuned"]


class Notes(Progress):
    """Keeps what a run tells."""

    def __init__(self) -> None:
        self.notes, self.stages, self.steps = [], [], []

    def note(self, message):
        self.notes.append(message)

    def stage(self, name):
        self.stages.append(name)

    def step(self, done, total, text):
        self.steps.append((done, total))


def adapter_weights(result):
    from safetensors.torch import load_file

    return load_file(result.adapter / "adapter_model.safetensors")


def same_weights(left, right):
    first, second = adapter_weights(left), adapter_weights(right)
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def rewrite_labels(folder, split, keep):
    """Keep the lines of a split's labels that `keep` takes, by (query, document, grade)."""
    file = folder / "qrels" / f"{split}.tsv"
    head, *rows = file.read_text(encoding="utf-8").splitlines()
    file.write_text("\n".join([head, *(row for row in rows if keep(*row.split("\t"))), ""]), encoding="utf-8")


def rewrite_jsonl(file, change):
    rows = [change(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows if row is not None), encoding="utf-8")


def test_what_a_run_writes(finished):
    names = {path.name for path in finished.folder.iterdir()}
    assert names >= {"adapter", "report.json", "report.html", "recipe.json", "train_log.json", "checkpoints"}
    log = json.loads((finished.folder / "train_log.json").read_text())
    assert [step["step"] for step in log["steps"]] == [1, 2, 3, 4, 5]
    assert [step["step"] for step in log["steps"] if step["dev"]] == [2, 5]
    assert finished.log.best_step in {2, 5}
    assert all(np.isfinite(step["loss"]) for step in log["steps"])
    assert json.loads((finished.folder / "recipe.json").read_text())["precision"] == "fp32"


def test_the_report(finished):
    report = read_report(finished.folder / "report.json")
    assert list(report.systems) == SYSTEMS
    assert report.n == 12
    assert {name: part.n for name, part in report.slices.items()} == {"unseen": 6, "seen": 6, "residual": 6}
    assert all(list(part.systems) == SYSTEMS for part in report.slices.values())
    pairs = {(c.a, c.b) for c in report.comparisons}
    assert pairs == {("base", "tuned"), ("hybrid", "hybrid-tuned")}
    assert (report.reference, report.tuned, report.split) == ("base", ["tuned"], "test")
    assert all(0 <= figure.mean <= 1 for system in report.systems.values() for figure in system.metrics.values())
    assert report.systems["tuned"].metrics["ndcg@10"].mean > report.systems["base"].metrics["ndcg@10"].mean
    assert report.provenance["precision"] == "float32"
    assert report.provenance["reload_difference"] < 1e-5
    assert any("training pairs" in note for note in report.notes), "a warning that is told while training only"
    assert finished.summary()["test"]["tuned"]["ndcg@10"] == report.systems["tuned"].metrics["ndcg@10"].mean


def test_the_systems_are_what_their_names_say(finished):
    """The report's figures, from vectors of the saved adapter, by another road."""
    from searchtune.metrics import score
    from searchtune.retrieval.dense import DenseIndex

    collection = read_beir(finished.folder.parent / "tiny")
    encoder, card = load_artifact(finished.adapter, dtype=torch.float32, device=torch.device("cpu"))
    qrels = collection.qrels["test"]
    documents = encoder.encode(collection.documents, max_tokens=card.max_tokens)
    queries = encoder.encode([collection.query_texts[q] for q in qrels.queries], max_tokens=card.query_max_tokens)
    run = DenseIndex(documents).search(qrels.queries, queries, 100)
    expected = score(run, qrels, ["ndcg@10"])["ndcg@10"].mean()
    assert finished.report.systems["tuned"].metrics["ndcg@10"].mean == pytest.approx(expected, abs=1e-9)


def test_the_run_is_repeatable(finished, recipe, tmp_path):
    notes = Notes()
    again = train_embedding(recipe(), tmp_path / "again", progress=notes)
    assert same_weights(again, finished)
    assert notes.steps == [(i, 5) for i in range(1, 6)]
    assert any("trainable params" in note for note in notes.notes)
    other = train_embedding(recipe(seed=14), tmp_path / "other")
    assert not same_weights(other, finished)


def test_out_is_there_already(recipe, tmp_path):
    out = tmp_path / "run"
    first = train_embedding(recipe(), out)
    (out / "mine.txt").write_text("x")
    with pytest.raises(OutputExistsError, match="--overwrite"):
        train_embedding(recipe(), out)
    changed = recipe(seed=14)
    with pytest.raises(ConfigError, match="the run was started with another recipe"):
        train_embedding(changed, out, policy="resume")
    before = adapter_weights(first)
    resumed = train_embedding(recipe(), out, policy="resume")
    assert all(torch.equal(tensor, before[name]) for name, tensor in adapter_weights(resumed).items())
    assert resumed.log.to_json() == first.log.to_json(), "nothing was trained again"
    record = json.loads((out / "recipe.json").read_text())
    (out / "recipe.json").write_text(json.dumps(record | {"data": "other"}))
    with pytest.raises(ConfigError, match="the collection has changed"):
        train_embedding(recipe(), out, policy="resume")
    second = train_embedding(changed, out, policy="overwrite")
    assert not (out / "mine.txt").exists()
    assert not torch.equal(next(iter(before.values())), next(iter(adapter_weights(second).values())))


def test_a_folder_that_is_not_ours(recipe, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("x")
    for policy in ("fail", "overwrite", "resume"):
        with pytest.raises(OutputExistsError, match="did not make"):
            train_embedding(recipe(), tmp_path / "photos", policy=policy)
    assert (tmp_path / "photos" / "cat.jpg").is_file()


def test_the_cache_on_disk_is_the_cache_in_memory(recipe, tmp_path):
    memory = train_embedding(recipe(frozen_prefix=True), tmp_path / "memory")
    disk = train_embedding(recipe(frozen_prefix=True, prefix_cache="disk"), tmp_path / "disk")
    assert same_weights(memory, disk)
    assert 0 < memory.report.training["frozen_prefix_difference"] < 1e-2
    assert memory.report.systems["tuned"] == disk.report.systems["tuned"]


def test_query_side(recipe, tmp_path):
    plan = {"candidates": "positives", "hard_negatives": {"per_query": 2, "first_rank": 1}}
    result = train_embedding(recipe(side="query", objective=plan), tmp_path / "run")
    assert read_card(result.adapter).side == "query"
    assert list(result.report.systems) == SYSTEMS
    costs = result.report.costs
    assert costs["tuned"]["index_seconds"] == costs["base"]["index_seconds"], "documents were encoded once"


@pytest.mark.parametrize("candidates", ["batch", "corpus"])
def test_query_side_with_other_candidates(recipe, tmp_path, candidates):
    changes = {"side": "query", "objective": {"candidates": candidates}, "frozen_prefix": True}
    assert train_embedding(recipe(**changes), tmp_path / "run").log.steps[-1].step == 5


def test_hard_negatives_matryoshka_and_gradient_caching(recipe, tmp_path):
    changes = {
        "objective": {"hard_negatives": {"per_query": 2, "first_rank": 1}, "matryoshka": [32, 8]},
        "gradient_caching": True,
        "tokens_per_chunk": 200,
        "train_max_tokens": 12,
        "query_prompt": "old ",
        "document_prompt": "new ",
        "method": {"rank": 2, "alpha": 4, "dropout": 0.1},
    }
    result = train_embedding(recipe(**changes), tmp_path / "run")
    card = read_card(result.adapter)
    assert (card.matryoshka, card.query_prompt, card.document_prompt) == ([32, 8], "old ", "new ")
    assert result.report is not None


def test_gradient_caching_changes_no_weight(recipe, tmp_path):
    kept = train_embedding(recipe(gradient_caching=False, tokens_per_chunk=300), tmp_path / "kept")
    cached = train_embedding(recipe(gradient_caching=True, tokens_per_chunk=300), tmp_path / "cached")
    left, right = adapter_weights(kept), adapter_weights(cached)
    assert all(torch.allclose(left[name], right[name], atol=1e-4) for name in left)


def test_no_train_split(recipe, tiny_collection, tmp_path):
    (tiny_collection / "qrels" / "train.tsv").unlink()
    with pytest.raises(DataError, match=r"has no train split \(it has: dev, test\); add qrels/train\.tsv"):
        train_embedding(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_no_relevant_document_in_train(recipe, tiny_collection, tmp_path):
    file = tiny_collection / "qrels" / "train.tsv"
    file.write_text(file.read_text().replace("\t1\n", "\t0\n").replace("\t2\n", "\t0\n"))
    with pytest.raises(DataError, match="no document of grade 1 or more in the train split"):
        train_embedding(recipe(), tmp_path / "run")


def test_no_dev_split(recipe, tiny_collection, tmp_path):
    """One is cut from train."""
    (tiny_collection / "qrels" / "dev.tsv").unlink()
    result = train_embedding(recipe(), tmp_path / "run")
    assert any(step.dev for step in result.log.steps)
    assert result.report.n == 12


def test_no_look_at_dev(recipe, tmp_path):
    result = train_embedding(recipe(dev={"times": 0}), tmp_path / "run")
    assert result.log.best_step == 5
    assert not any(step.dev for step in result.log.steps)


def test_the_strength_is_chosen_on_dev(finished, recipe, tmp_path):
    notes = Notes()
    result = train_embedding(recipe(dev={"times": 2, "strengths": [1.0, 0.5, 0.001]}), tmp_path / "run", progress=notes)
    said = next(note for note in notes.notes if "by strength" in note)
    figures = {float(key): float(value) for key, value in re.findall(r"([\d.]+): ([\d.]+)[,;]", said)}
    assert list(figures) == [1.0, 0.5, 0.001]
    assert figures[result.log.strength] == max(figures.values())
    assert result.log.best_dev["ndcg@10"] == pytest.approx(figures[result.log.strength], abs=1e-4)
    assert json.loads((result.folder / "train_log.json").read_text())["strength"] == result.log.strength
    assert read_card(result.adapter).metrics["dev ndcg@10"] == result.log.best_dev["ndcg@10"]


def test_a_given_strength_scales_b_alone(finished, recipe, tmp_path):
    half = train_embedding(recipe(dev={"times": 2, "strengths": [0.5]}), tmp_path / "run")
    assert half.log.strength == 0.5
    for name, tensor in adapter_weights(finished).items():
        factor = 0.5 if "lora_B" in name else 1.0
        torch.testing.assert_close(adapter_weights(half)[name], factor * tensor)


def test_dev_figures_are_those_of_the_strength_that_was_kept(finished, recipe, tmp_path):
    """Next to nothing of the change is next to the base."""
    least = train_embedding(recipe(dev={"times": 2, "strengths": [1e-5]}), tmp_path / "run")
    assert finished.log.best_dev != pytest.approx(finished.log.base_dev)
    assert least.log.best_dev == pytest.approx(least.log.base_dev)
    assert read_card(least.adapter).metrics["dev ndcg@10"] == least.log.best_dev["ndcg@10"]


def test_dev_joins_train(finished, recipe, tmp_path):
    result = train_embedding(recipe(train_on="train+dev"), tmp_path / "run")
    assert result.report.training["pairs_per_epoch"] > finished.report.training["pairs_per_epoch"]
    assert all(step.dev is None for step in result.log.steps)
    assert result.log.best_step == len(result.log.steps)
    before, after = (json.loads((it.adapter / "train_positives.json").read_text()) for it in (finished, result))
    assert set(before) < set(after)


def test_train_and_dev_leave_nothing_to_choose_by(recipe):
    with pytest.raises(ValidationError, match=r"leaves no dev to choose among dev\.strengths"):
        recipe(train_on="train+dev", dev={"strengths": [1.0, 0.5]})


def test_no_test_split(recipe, tiny_collection, tmp_path):
    (tiny_collection / "qrels" / "test.tsv").unlink()
    result = train_embedding(recipe(), tmp_path / "run")
    assert result.report is None
    assert result.summary()["test"] == {}
    assert not (result.folder / "report.json").exists()
    read_card(result.adapter)


def test_one_test_query(recipe, tiny_collection, tmp_path):
    rewrite_labels(tiny_collection, "test", lambda query, doc, grade: query == "q48")
    result = train_embedding(recipe(), tmp_path / "run")
    assert result.report.n == 1
    assert sum(part.n for name, part in result.report.slices.items() if name != "residual") == 1
    read_report(result.folder / "report.json")


def test_a_corpus_of_one_document(recipe, tiny_collection, tmp_path):
    rewrite_jsonl(tiny_collection / "corpus.jsonl", lambda row: row if row["_id"] == "sea-0" else None)
    for split in ("train", "dev", "test"):
        file = tiny_collection / "qrels" / f"{split}.tsv"
        queries = dict.fromkeys(row.split("\t")[0] for row in file.read_text().splitlines()[1:])
        rows = ["query-id\tcorpus-id\tscore", *(f"{query}\tsea-0\t1" for query in queries), ""]
        file.write_text("\n".join(rows))
    result = train_embedding(recipe(objective={"hard_negatives": {"per_query": 1}}), tmp_path / "run")
    assert result.report.systems["tuned"].metrics["ndcg@10"].mean == 1.0
    assert result.report.slices["residual"].n == 0


def test_a_document_of_5000_tokens(recipe, tiny_collection, tmp_path):
    def lengthen(row):
        return {**row, "text": "harbour tide sail anchor wave " * 1000} if row["_id"] == "sea-0" else row

    rewrite_jsonl(tiny_collection / "corpus.jsonl", lengthen)
    notes = Notes()
    result = train_embedding(recipe(), tmp_path / "run", progress=notes)
    assert result.report.training["truncated_texts"] == 1
    assert "1 of 100 texts (1%) are cut at 64 tokens" in notes.notes


@pytest.fixture
def leaking(tiny_collection):
    """The first train query asked once more in test."""
    queries = [json.loads(line) for line in (tiny_collection / "queries.jsonl").read_text().splitlines()]
    first = next(row for row in queries if row["_id"] == "q00")
    rewrite_jsonl(
        tiny_collection / "queries.jsonl", lambda row: {**row, "text": first["text"]} if row["_id"] == "q48" else row
    )
    return tiny_collection


def test_leaks_fail(recipe, leaking, tmp_path):
    with pytest.raises(LeakError, match="1 test queries are also in train"):
        train_embedding(recipe(), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("leaks", "pairs"), [("drop", 70), ("allow", 72)])
def test_leaks_that_are_settled(recipe, leaking, tmp_path, leaks, pairs):
    notes = Notes()
    result = train_embedding(recipe(), tmp_path / "run", leaks=leaks, progress=notes)
    assert result.report.training["pairs_per_epoch"] == pairs
    assert result.report.training["leaking_train_queries"] == 1
    assert any("1 train queries are also test or dev queries" in note for note in notes.notes)


def test_a_base_that_is_missing(recipe, tmp_path):
    with pytest.raises(ModelError, match="no such folder"):
        train_embedding(recipe(base="/no/such/base"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_base_that_is_damaged(recipe, tiny_model, tmp_path):
    broken = shutil.copytree(tiny_model, tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(b"x")
    with pytest.raises(ModelError, match="cannot open this model"):
        train_embedding(recipe(base=broken), tmp_path / "run")


def test_more_tokens_than_positions(recipe, tmp_path):
    with pytest.raises(ConfigError, match="max_tokens is 500, but .* has 128 positions"):
        train_embedding(recipe(max_tokens=500), tmp_path / "run")


def test_a_prefix_without_a_layer_to_cache(recipe, tmp_path):
    with pytest.raises(ModelError, match="nothing is left to cache"):
        train_embedding(recipe(frozen_prefix=True, method={"rank": 2, "top_layers": 4}), tmp_path / "run")


def test_a_llama(recipe, tiny_llama_model, tmp_path):
    result = train_embedding(recipe(base=tiny_llama_model, frozen_prefix=True), tmp_path / "run")
    assert list(result.report.systems) == SYSTEMS


def test_what_makes_a_run_worth_less_is_in_report_card_and_terminal(recipe, tiny_collection, tmp_path):
    """Few steps raised, a dev of three queries, a base that the adapter does not reach: all in one run."""
    queries = sorted(
        {line.split("\t")[0] for line in (tiny_collection / "qrels" / "dev.tsv").read_text().split("\n")[1:-1]}
    )
    rewrite_labels(tiny_collection, "dev", lambda query, doc, grade: query in queries[:3])
    notes = Notes()
    wild = {"lr": 3.0, "epochs": 1, "min_steps": 8, "batch_size": 16}
    result = train_embedding(
        recipe(optim=wild, dev={"times": 2, "strengths": [1.0, 0.5]}), tmp_path / "run", progress=notes
    )
    assert len(result.log.steps) == 10 == result.log.best_step
    assert result.log.strength == 1.0, "nor is the strength chosen on it"
    assert result.log.best_dev["ndcg@10"] < result.log.base_dev["ndcg@10"]
    card = read_card(result.adapter)
    wanted = [
        "fewer than 1,000",
        "raised to 2 epochs, 10 steps",
        "dev has 3 queries, fewer than 10",
        "worse than the base",
    ]
    assert [any(words in warning for warning in card.extra["warnings"]) for words in wanted] == [True] * 4
    assert list(result.report.notes) == card.extra["warnings"]
    assert all(f"warning: {warning}" in notes.notes for warning in card.extra["warnings"])
    assert card.metrics["base dev ndcg@10"] == result.log.base_dev["ndcg@10"]
    assert any("kept: the weights after step 10 of 10" in note for note in notes.notes)


def test_an_adapter_carries_no_text_of_its_training_unless_it_is_asked_to(finished, recipe, tmp_path):
    collection = read_beir(finished.folder.parent / "tiny")
    texts = {*collection.query_texts, *collection.documents}
    assert not texts & {*read_card(finished.adapter).probe.queries, *read_card(finished.adapter).probe.documents}
    files = (path for path in finished.adapter.rglob("*") if path.suffix in (".json", ".md"))
    assert not any(text in file.read_text(encoding="utf-8") for file in files for text in texts)
    open_one = read_card(train_embedding(recipe(probe="data"), tmp_path / "run").adapter)
    assert {*open_one.probe.queries, *open_one.probe.documents} <= texts


def test_every_file_of_an_adapter_may_be_read_by_whom_new_files_may(finished):
    modes = {path.name: path.stat().st_mode & 0o777 for path in finished.adapter.rglob("*") if path.is_file()}
    assert set(modes.values()) == {modes["adapter_card.json"]}, modes
