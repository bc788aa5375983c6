"""A rewriter before the systems of a suite: every kind of system searches for what it writes."""

import numpy as np
import pytest

from searchtune.data.beir import read_beir
from searchtune.errors import ConfigError
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.base import parse_spec
from searchtune.specs.suite import SuiteSpec, made_of
from searchtune.workflows import evaluate, suite_rewriters
from searchtune.workflows.evaluate import run_suite
from searchtune.workflows.progress import SILENT
from searchtune.workflows.rewriting import changed_share, harm, rewritten_collection
from unit.workflows.rewriting import Parrot, put_parrot, report_quickly, write_conversations


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    report_quickly(monkeypatch)


@pytest.fixture
def parrot(monkeypatch):
    return put_parrot(monkeypatch)


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("talk"))


def suite(task, systems, **changes):
    data = {"name": "s", "tasks": [str(task)], "systems": systems, "metrics": ["ndcg@10", "mrr@10"], **changes}
    return parse_spec(SuiteSpec, data, "s.yaml")


WORDS = {"words": {"kind": "bm25"}}
TOLD = {"kind": "rewrite", "model": "parrot", "of": "words"}


def means(result):
    return {name: result.report.estimate(name).mean for name in result.report.systems}


def test_words_find_more_for_what_was_meant(tasks, parrot, tmp_path):
    systems = {**WORDS, "told": TOLD, **{mode: {**TOLD, "mode": mode} for mode in ("append", "fuse")}}
    (result,) = run_suite(suite(tasks[0], systems), tmp_path / "out")
    found = means(result)
    assert found["told"] == 1.0 > found["words"] and found["append"] > found["words"]
    cost = result.report.costs["told"]
    assert cost["mode"] == "replace" and cost["rewritten_share"] == pytest.approx(6 / 9, abs=1e-3)
    assert (cost["rewrite_ms_per_query"], cost["rewrite_tokens_per_query"]) == (250, 12)
    assert cost["search_ms_per_query"] > 250
    assert cost["gain"] == pytest.approx(found["told"] - found["words"], abs=1e-3)
    assert cost["better"] > 0 == cost["worse"] == cost["mean_fall"]
    assert "gain" not in result.report.costs["words"]


def test_a_rewritten_system_ranks_as_the_system_does_for_the_same_texts(tasks, parrot, tiny_model, tmp_path):
    raw, human = tasks
    dense = {"kind": "dense", "model": str(tiny_model), "max_tokens": 64}
    systems = {**WORDS, "vectors": dense, "both": {"kind": "fusion", "of": ["words", "vectors"], "weights": "dev"}}
    before = {name: {"kind": "rewrite", "model": "p", "of": name} for name in systems}
    cache = EmbeddingCache(tmp_path / "cache" / "vectors")
    whole = suite(raw, {**systems, **{f"{name}+p": one for name, one in before.items()}})
    parrot.query = lambda turn: {text: query for query, text in zip(*_texts(human, raw), strict=True)}[_said(turn)]
    (result,) = run_suite(whole, tmp_path / "out", cache=cache)
    (wanted,) = run_suite(suite(human, systems), tmp_path / "wanted", cache=cache)
    for name in systems:
        assert means(result)[f"{name}+p"] == pytest.approx(means(wanted)[name]), name
    asked = len(parrot.asked)
    (again,) = run_suite(whole, tmp_path / "again", cache=cache)
    assert len(parrot.asked) == asked and means(again) == means(result), "rewrites are kept beside the vectors"
    assert again.report.provenance["texts_encoded"] == 0


def _texts(human, raw):
    meant, said = read_beir(human), read_beir(raw)
    return list(meant.query_texts), [
        f"{name.rpartition('_')[0]} {text}" for name, text in zip(said.query_ids, said.query_texts, strict=True)
    ]


def _said(turn):
    first = turn.history[0][1] if turn.history else turn.utterance
    return f"{first.split()[-1]} {turn.utterance}"


def test_documents_are_encoded_once_without_a_cache(tasks, parrot, tiny_model, tmp_path):
    systems = {"vectors": {"kind": "dense", "model": str(tiny_model), "max_tokens": 64}}
    systems["told"] = {**TOLD, "of": "vectors"}
    (result,) = run_suite(suite(tasks[0], systems), tmp_path / "out")
    assert result.report.provenance["texts_encoded"] == 18 + 9 + 9


def test_a_reranker_reads_the_rewritten_query(tasks, parrot, monkeypatch, tmp_path):
    asked = set()

    class Scorer:
        def __init__(self, collection, *_, **__):
            self.collection, self.milliseconds_per_pair = collection, None

        def of_run(self, run, depth):
            asked.update(self.collection.query_texts[int(query)] for query in run.queries)
            return np.where(np.arange(run.depth) < depth, -np.arange(run.depth), np.nan) + np.zeros(run.docs.shape)

    class Opened:
        load = key = card = None

        def reads(self, collection, *_):
            return collection

    monkeypatch.setattr(evaluate, "PairScorer", Scorer)
    monkeypatch.setattr(evaluate, "open_reranker", lambda *_, **__: Opened())
    systems = {**WORDS, "reranked": {"kind": "rerank", "of": "words", "model": "m", "depth": 5, "blend": False}}
    systems["told"] = {**TOLD, "of": "reranked"}
    (result,) = run_suite(suite(tasks[0], systems), tmp_path / "out")
    assert {"and its price", "and its price orbit"} <= asked
    assert means(result)["told"] == 1.0


def test_the_mode_is_the_cards_for_that_retriever(tasks, parrot, tiny_model, tmp_path):
    parrot.modes = {"bm25": "append", "dense": "fuse"}
    dense = {"kind": "dense", "model": str(tiny_model), "max_tokens": 64}
    systems = {**WORDS, "vectors": dense, "both": {"kind": "fusion", "of": ["words", "vectors"]}}
    told = {f"{name}+": {**TOLD, "of": name} for name in systems}
    (result,) = run_suite(suite(tasks[0], {**systems, **told, "set": {**TOLD, "mode": "replace"}}), tmp_path / "out")
    modes = {name: cost["mode"] for name, cost in result.report.costs.items() if "mode" in cost}
    assert modes == {"words+": "append", "vectors+": "fuse", "both+": "replace", "set": "replace"}


def test_history_can_be_left_out(tasks, parrot, tmp_path):
    (result,) = run_suite(suite(tasks[0], {**WORDS, "told": {**TOLD, "history": False}}), tmp_path / "out")
    assert result.report.costs["told"]["rewritten_share"] == 0
    assert means(result)["told"] == means(result)["words"]
    assert not any(turn.history for turn in parrot.asked)


def test_a_rewriter_behind_an_address(tasks, parrot, tmp_path, monkeypatch):
    asked = []

    def far(endpoint, budget):
        asked.append((endpoint.url, endpoint.model, endpoint.key_variable, budget.max_tokens))
        return parrot

    monkeypatch.setattr(suite_rewriters, "open_remote_rewriter", far)
    told = {**TOLD, "endpoint": "http://localhost:8000/v1", "key_variable": "KEY", "max_tokens": 900}
    (result,) = run_suite(suite(tasks[0], {**WORDS, "told": told}), tmp_path / "out")
    assert asked == [("http://localhost:8000/v1", "parrot", "KEY", 900)] and means(result)["told"] == 1.0
    wrong = suite(tasks[0], {**WORDS, "told": {**TOLD, "endpoint": "localhost"}})
    with pytest.raises(ConfigError, match="is no address"):
        run_suite(wrong, tmp_path / "wrong")


@pytest.mark.parametrize(
    ("systems", "words"),
    [
        ({"told": TOLD, **WORDS}, "rewrites for 'words', which is not among the systems before it"),
        ({"file": {"kind": "run", "file": "x"}, "told": {**TOLD, "of": "file"}}, "'file' is of kind run"),
        ({**WORDS, "told": TOLD, "twice": {**TOLD, "of": "told"}}, "'told' is of kind rewrite"),
        ({**WORDS, "told": {**TOLD, "mode": "add"}}, "mode"),
        ({**WORDS, "told": {**TOLD, "key_variable": "KEY"}}, "key_variable belongs to an endpoint"),
        ({**WORDS, "told": {**TOLD, "max_tokens": 9}}, "max_tokens belongs to an endpoint"),
        ({**WORDS, "told": {**TOLD, "endpoint": "http://a/v1", "precision": "bf16"}}, "precision belongs to a model"),
    ],
)
def test_what_a_suite_cannot_do_is_told(tasks, systems, words):
    with pytest.raises(ConfigError, match=words):
        suite(tasks[0], systems)


def test_a_system_is_made_of_all_before_it():
    systems = {**WORDS, "other": {"kind": "bm25"}, "both": {"kind": "fusion", "of": ["words", "other"]}}
    systems["top"] = {"kind": "rerank", "of": "both", "model": "m"}
    systems["alone"] = {"kind": "bm25"}
    found = suite("t", systems).systems
    assert made_of(found, "top") == ["words", "other", "both", "top"]
    assert made_of(found, "alone") == ["alone"]


def test_the_share_that_is_changed():
    assert changed_share(["it", "the tide"], ["the tide", "The TIDE!"]) == 0.5 and changed_share([], []) == 0


def test_harm_tells_rises_from_falls():
    before, after = np.array([0.5, 0.5, 0.0, 1.0]), np.array([1.0, 0.25, 0.0, 1.0])
    assert harm(before, after) == {"gain": 0.0625, "better": 0.25, "worse": 0.25, "mean_rise": 0.5, "mean_fall": -0.25}
    assert set(harm(np.zeros(0), np.zeros(0)).values()) == {0.0}


def test_only_the_asked_queries_are_rewritten(tasks):
    collection, parrot = read_beir(tasks[0]), Parrot()
    found = rewritten_collection(collection, np.array([1, 4]), parrot, mode="replace", progress=SILENT)
    differs = [i for i, text in enumerate(found.collection.query_texts) if text != collection.query_texts[i]]
    assert differs == [1, 4] and len(parrot.asked) == 2 and found.changed == 1.0
