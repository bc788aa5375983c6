"""Training a rewriter, tiny: what it writes, how it resumes, what it refuses."""

import json
from functools import partial

import pytest

from searchtune.errors import ArtifactError, ConfigError, DataError, LeakError, ModelError
from searchtune.evaluation import build_report
from searchtune.models.cards import read_any_card
from searchtune.prompts.rewrite import RewritePrompt
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.training.fit import TrainingInterrupted
from searchtune.types import Turn
from searchtune.workflows import fitting, rewrite_finish, rewrite_measure
from searchtune.workflows.adapter import verify_adapter
from searchtune.workflows.open_rewriter import open_rewriter
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.rewrite import train_rewriter
from searchtune.workflows.rewrite_data import open_rewrite_data
from searchtune.workflows.rewrite_run import turns_of_task
from unit.models.causal import write_byte_causal
from unit.workflows.rewriting import recipe, rows, write_conversations, write_rows


@pytest.fixture(autouse=True, scope="module")
def quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rewrite_finish, "verify_in_fresh_process", verify_adapter)
        patch.setattr(rewrite_measure, "build_report", partial(build_report, rounds=200))
        yield


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return write_byte_causal(tmp_path_factory.mktemp("bytes") / "model", max_position_embeddings=512)


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return write_rows(tmp_path_factory.mktemp("rows") / "train.jsonl", rows())


@pytest.fixture(scope="module")
def trained(base, file, tmp_path_factory):
    """A finished run. Read only."""
    return train_rewriter(recipe(base, file), tmp_path_factory.mktemp("rewrite") / "run")


def test_a_run_leaves_an_adapter_whose_card_says_how_to_ask(trained):
    card = read_any_card(trained.adapter)
    assert (card.kind, card.prompt, card.prompt_version, card.labels) == ("rewrite", "rewrite/short", "1", [])
    assert card.rewriting.model_dump() == {
        "history_turns": 12, "history_words": 160, "reply_words": 32, "max_new_tokens": 12, "modes": {},
    }  # fmt: skip
    assert verify_adapter(trained.folder).peft <= 1e-3
    assert set(trained.dev) == {"log_likelihood", "exact_match", "token_f1"}
    assert trained.dev["log_likelihood"] < 0 <= trained.dev["token_f1"] <= 1
    assert json.loads(json.dumps(trained.summary()))["dev"] == trained.dev


def test_training_makes_rewrites_likelier(base, file, tmp_path):
    settled = recipe(base, file, optim={"lr": 1e-2, "epochs": 3, "min_steps": 0, "batch_size": 8})
    log = train_rewriter(settled, tmp_path / "run").log
    assert log.steps[-1].loss < 0.8 * log.steps[0].loss


def test_a_killed_run_goes_on_to_the_same_weights(base, file, tmp_path, monkeypatch, trained):
    def stop(step, total):
        if step.step == 2:
            raise TrainingInterrupted("stopped")

    real = fitting.fit
    monkeypatch.setattr(fitting, "fit", lambda *args, on_step, **rest: real(*args, on_step=stop, **rest))
    with pytest.raises(TrainingInterrupted):
        train_rewriter(recipe(base, file), tmp_path / "stopped")
    monkeypatch.setattr(fitting, "fit", real)
    with pytest.raises(Exception, match="--resume"):
        train_rewriter(recipe(base, file), tmp_path / "stopped")
    resumed = train_rewriter(recipe(base, file), tmp_path / "stopped", policy="resume")
    weights = [(run.adapter / "adapter_model.safetensors").read_bytes() for run in (trained, resumed)]
    assert weights[0] == weights[1]


def test_dev_conversations_are_not_trained_on(base, file):
    data = open_rewrite_data(recipe(base, file), "fail", SILENT)
    train, dev = ({one.conversation for one in part} for part in (data.train, data.dev))
    assert train and dev and train.isdisjoint(dev)
    assert len(data.train) + len(data.dev) == 36


def test_a_source_may_be_repeated_cut_and_reduced_to_what_was_changed(base, file):
    keys = {"file": str(file), "changed_only": True, "repeat": 3}
    data = open_rewrite_data(recipe(base, train=[keys]), "fail", SILENT)
    assert all(one.changed for one in data.train)
    assert len(data.train) == 3 * len({one.id for one in data.train})
    fewer = open_rewrite_data(recipe(base, train=[{"file": str(file), "max_examples": 10}]), "fail", SILENT)
    assert len(fewer.train) + len(fewer.dev) == 10


def test_leaks_between_train_and_test(base, tmp_path):
    raw, human = write_conversations(tmp_path)
    whole = {"utterance": "and the price?", "rewrite": "What is the price of the orbit?", "conversation": "new"}
    said = [{"role": "user", "text": "what is the history of the violin"}]
    turn = {"history": said, "utterance": "and its price", "rewrite": "violin price", "conversation": "other"}
    file = write_rows(tmp_path / "leaky.jsonl", [*rows(), whole, turn])
    test = {"task": str(raw), "human": str(human)}
    notes = []

    class Told(Progress):
        def note(self, message):
            notes.append(message)

    with pytest.raises(LeakError, match="2 training turns are also, or nearly, test turns: 'What is the price of"):
        train_rewriter(recipe(base, file, test=test), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    dropped = open_rewrite_data(recipe(base, file, test=test), "drop", Told())
    assert any("2 training turns are also test turns (drop)" in note for note in notes)
    allowed = open_rewrite_data(recipe(base, file, test=test), "allow", SILENT)
    assert len(allowed.train) + len(allowed.dev) == 2 + len(dropped.train) + len(dropped.dev) == 38
    alone = write_rows(tmp_path / "alone.jsonl", [whole])
    with pytest.raises(LeakError, match="nothing is left"):
        open_rewrite_data(recipe(base, alone, test=test), "drop", SILENT)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"train": [{"file": "no-such.jsonl"}]}, "no file of rewrites 'no-such.jsonl'"),
        ({"train": [{"file": "builtin:conversation"}]}, "conversation"),
        ({"test": {"task": "pystdlib", "split": "tset"}}, "no split 'tset'"),
    ],
)
def test_what_is_not_there_is_told_before_training(base, file, tmp_path, changes, words):
    settled = recipe(base, file, **changes)
    with pytest.raises(ConfigError, match=words):
        train_rewriter(settled, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_one_conversation_is_too_few(base, tmp_path):
    file = write_rows(tmp_path / "one.jsonl", rows(("tide",)))
    with pytest.raises(DataError, match="3 turns of 1 conversation"):
        train_rewriter(recipe(base, file), tmp_path / "run")


def test_the_built_in_conversations_are_read(base):
    data = open_rewrite_data(recipe(base, train=[{"file": "builtin:conversations"}]), "fail", SILENT)
    assert len(data.train) + len(data.dev) == 33


@pytest.fixture(scope="module")
def measured(base, file, tiny_model, tmp_path_factory):
    """A finished run that searched. Read only."""
    folder = tmp_path_factory.mktemp("measured")
    raw, human = write_conversations(folder)
    test = {"task": str(raw), "human": str(human), "retrievers": ["bm25", str(tiny_model)]}
    settled = recipe(base, file, test=test)
    return train_rewriter(settled, folder / "run", cache=EmbeddingCache(folder / "cache" / "vectors"))


def test_a_test_searches_with_what_was_said_and_with_every_rewrite(measured):
    names = list(measured.report.systems)
    assert names[:3] == ["bm25", "bm25+human", "bm25+base"] and "dense+tuned" in names
    assert len(names) == 12
    assert measured.report.n == 9 and measured.report.reference == "bm25"
    assert measured.report.estimate("bm25+human").mean == 1.0 > measured.report.estimate("bm25").mean
    assert measured.report.comparison("bm25+tuned", "bm25+human") is not None
    assert {path.name for path in measured.folder.iterdir()} >= {
        "report.json",
        "report.html",
        "rewriting.json",
        "rewrites.jsonl",
    }
    card = read_any_card(measured.adapter)
    facts = json.loads((measured.folder / "rewriting.json").read_text())
    assert card.rewriting.modes == facts["modes"] and set(facts["modes"]) == {"bm25", "dense"}
    for name, figures in facts["dev_ndcg@10"].items():
        assert figures[facts["modes"][name]] == max(figures[mode] for mode in ("replace", "append", "fuse"))
    assert facts["utterance"]["changed"] == 0 and 0 < facts["utterance"]["token_f1"]["mean"] < 1
    assert facts["tuned"]["tokens_per_query"] > 0
    cost = facts["systems"]["bm25+human"]
    rises = [row.scores["bm25+human"] - row.scores["bm25"] for row in measured.report.per_query]
    assert cost["better"] == pytest.approx(sum(rise > 0 for rise in rises) / 9, abs=1e-4) and cost["worse"] == 0
    assert cost["gain"] == pytest.approx(sum(rises) / 9, abs=1e-4) and cost["gain"] > 0
    assert measured.summary()["test"]["bm25+human"] == 1.0


def test_rewrites_are_kept_with_the_run(measured):
    rows = [json.loads(line) for line in (measured.folder / "rewrites.jsonl").read_text().splitlines()]
    assert [row["query_id"] for row in rows][:2] == ["ledger_1", "ledger_2"]
    assert rows[1]["utterance"] == "and its price" and rows[1]["human"] == "what is the price of the ledger"
    assert all(row["base"] and row["tuned"] for row in rows)


def test_the_adapter_rewrites_as_when_it_was_measured(measured):
    opened = open_rewriter(str(measured.folder), precision="fp32")
    rows = [json.loads(line) for line in (measured.folder / "rewrites.jsonl").read_text().splitlines()]
    ids, turns = turns_of_task(str(measured.folder.parent / "raw"), "test")
    assert ids == [row["query_id"] for row in rows]
    assert opened.rewrite(turns) == [row["tuned"] for row in rows]
    assert opened.mode("bm25") == read_any_card(measured.adapter).rewriting.modes["bm25"]
    assert opened.identity["reply_words"] == "32" and opened.card.kind == "rewrite"


def test_a_task_without_dev_gets_no_modes(base, file, tmp_path):
    raw, _ = write_conversations(tmp_path)
    for split in ("dev", "train"):
        (raw / "qrels" / f"{split}.tsv").unlink()
    result = train_rewriter(recipe(base, file, test={"task": str(raw), "max_queries": 4}), tmp_path / "run")
    assert result.report.n == 4 and "bm25+human" not in result.report.systems
    assert read_any_card(result.adapter).rewriting.modes == {}


def test_opening_refuses_what_is_no_rewriter(trained, base, tmp_path, monkeypatch):
    from searchtune.workflows import open_rewriter as module

    with pytest.raises(ConfigError, match="its card settles the prompt"):
        open_rewriter(str(trained.folder), prompt=RewritePrompt("full"))
    with pytest.raises(ConfigError, match="its card settles quantise: none"):
        open_rewriter(str(trained.folder), quantise="nf4")
    with pytest.raises(ModelError, match="no such folder"):
        open_rewriter("/no/such/model")
    other = write_byte_causal(tmp_path / "other", max_position_embeddings=512, hidden_size=32)
    with pytest.raises(ArtifactError):
        open_rewriter(str(trained.folder), base=str(other))
    monkeypatch.setitem(module.VERSIONS, "short", 99)
    with pytest.raises(ArtifactError, match="trained under version 1 of the prompt 'rewrite/short', which is not here"):
        open_rewriter(str(trained.folder))


def test_a_plain_model_rewrites_and_draws_distinct_candidates(base):
    opened = open_rewriter(str(base), precision="fp32", prompt=RewritePrompt("search"))
    turns = [Turn("tide"), Turn("soil")]
    (first, second) = opened.candidates(turns, samples=4, temperature=1.5, seed=1)
    assert [first[0], second[0]] == opened.rewrite(turns)
    assert 2 <= len(first) == len(set(first)) <= 5
    assert opened.candidates(turns, samples=4, temperature=1.5, seed=1) == [first, second]
    assert opened.card is None and opened.identity["style"] == "search"
    with pytest.raises(ConfigError, match="temperature"):
        opened.candidates(turns, samples=4, temperature=0, seed=1)
