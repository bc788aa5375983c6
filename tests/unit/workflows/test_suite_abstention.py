"""A card's rule in suites: rewrites that it expects nothing of leave the ranking as it is."""

import numpy as np
import pytest

from searchtune.data.beir import read_beir
from searchtune.errors import ArtifactError, ConfigError
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.specs.base import parse_spec
from searchtune.specs.suite import SuiteSpec
from searchtune.types import Run
from searchtune.workflows import costs, evaluate
from searchtune.workflows.encode import open_encoder
from searchtune.workflows.evaluate import run_suite
from searchtune.workflows.retriever_identity import dense_identity, fused_identity, words_identity
from searchtune.workflows.rewrite_settle import Searched, Wishes, settle_use
from searchtune.workflows.systems import VectorRanker
from unit.workflows.rewriting import Carded, Notes, Parrot, held_rule, put_parrot, report_quickly, write_conversations

WORDS = {"words": {"kind": "bm25"}}
TOLD = {"kind": "rewrite", "model": "parrot", "of": "words"}
ALL = {**TOLD, "abstain": False}


class Runs:
    """Runs and costs of a suite on one task."""

    def __init__(self, report, runs):
        self.report, self.runs = report, runs

    def ranks(self, name, row):
        run = self.runs[name]
        return run.docs[row][run.docs[row] >= 0].tolist()

    def same(self, name, other):
        return [self.ranks(name, row) == self.ranks(other, row) for row in range(len(self.runs[name].queries))]


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    report_quickly(monkeypatch)


@pytest.fixture
def parrot(monkeypatch):
    return put_parrot(monkeypatch)


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return write_conversations(tmp_path_factory.mktemp("talk"))[0]


def run(task, systems, tmp_path, monkeypatch, *, progress=None, cache=None):
    kept = {}
    monkeypatch.setattr(evaluate, "write_for_others", lambda folder, collection, report, runs: kept.update(runs))
    data = {"name": "s", "tasks": [str(task)], "systems": systems, "metrics": ["ndcg@10", "mrr@10"]}
    suite = parse_spec(SuiteSpec, data, "s.yaml")
    (result,) = run_suite(suite, tmp_path / "out", progress=progress or Notes(), cache=cache)
    return Runs(result.report, kept)


def short_or_long(turn):
    """Rewrites of what is asked about repairs are two words longer."""
    return Parrot.query(turn) + (" by hand" if "repair" in turn.utterance and turn.history else "")


def test_a_rule_that_expects_nothing_leaves_rankings_and_asks_nobody(task, parrot, tmp_path, monkeypatch):
    parrot.card = Carded(held_rule("never"))
    notes = Notes()
    found = run(task, {**WORDS, "told": TOLD}, tmp_path, monkeypatch, progress=notes)
    assert all(found.same("told", "words")) and not parrot.asked
    cost = found.report.costs["told"]
    assert (cost["abstention"], cost["rewritten_share"], cost["rewrite_ms_per_query"]) == ("never", 0, 0)
    assert (cost["gain"], cost["better"], cost["worse"]) == (0, 0, 0)
    assert "systems.told: as dev says: never" in notes.said


@pytest.mark.parametrize("held", [held_rule("always"), held_rule(above=0.0)])
def test_a_rule_that_expects_a_gain_uses_every_rewrite(task, parrot, tmp_path, monkeypatch, held):
    parrot.card = Carded(held)
    found = run(task, {**WORDS, "told": TOLD, "all": ALL}, tmp_path, monkeypatch)
    assert all(found.same("told", "all")) and not all(found.same("told", "words"))
    cost, whole = found.report.costs["told"], found.report.costs["all"]
    assert cost["rewritten_share"] == whole["rewritten_share"] == pytest.approx(6 / 9, abs=1e-3)
    assert cost["gain"] == whole["gain"] > 0 and "abstention" not in whole


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_some_rewrites_are_used(task, parrot, tmp_path, monkeypatch, mode):
    parrot.query = short_or_long
    parrot.card = Carded(held_rule(mode=mode, above=np.log1p(5)))
    systems = {**WORDS, "told": TOLD, "all": {**ALL, "mode": mode}, "sure": {**TOLD, "abstain": True, "mode": mode}}
    found = run(task, systems, tmp_path, monkeypatch)
    collection = read_beir(task)
    queries = collection.qrels["test"].queries.tolist()
    used = ["repair" in (text := collection.query_texts[query]) and "and" in text for query in queries]
    assert any(used) and not all(used)
    for row, use in enumerate(used):
        assert found.ranks("told", row) == found.ranks("all" if use else "words", row) == found.ranks("sure", row)
    cost = found.report.costs["told"]
    assert cost["mode"] == mode and cost["abstention"] == "predicted"
    assert cost["rewritten_share"] == pytest.approx(np.mean(used), abs=1e-3)
    assert cost["worse"] == 0 < cost["better"] <= cost["rewritten_share"]


def test_the_cost_of_a_query_holds_both_searches(task, parrot, tmp_path, monkeypatch):
    parrot.card = Carded(held_rule())
    clock = iter([3.0, 5.0, 5.0, 5.0])  # words, and once more behind each rewriter
    monkeypatch.setattr(costs, "repeated", lambda work, queries: np.full(costs.REPEATS, next(clock)))
    found = run(task, {**WORDS, "told": TOLD, "all": ALL, "fused": {**ALL, "mode": "fuse"}}, tmp_path, monkeypatch)
    spent = {name: cost["search_ms_per_query"] for name, cost in found.report.costs.items()}
    assert spent == {"words": 3, "told": 250 + 8, "all": 250 + 5, "fused": 250 + 8}


@pytest.mark.processor
def test_dense_and_fused_searches_are_known_in_any_precision(task, parrot, tiny_model, tmp_path, monkeypatch):
    encoder = open_encoder(str(tiny_model), max_tokens=64, precision="fp32")
    dense = dense_identity(encoder)
    assert dense["queries"]["dtype"] == dense["documents"]["dtype"] == "float32"
    systems = {**WORDS, "vectors": {"kind": "dense", "model": str(tiny_model), "max_tokens": 64, "precision": "bf16"}}
    systems["both"] = {"kind": "fusion", "of": ["words", "vectors"]}
    systems["tuned"] = {"kind": "fusion", "of": ["words", "vectors"], "weights": [1.0, 2.0]}
    told = {f"{name}+": {**TOLD, "of": name} for name in systems}
    cache = EmbeddingCache(tmp_path / "cache" / "vectors")
    for place, (retriever, fits) in enumerate(
        [(dense, "vectors+"), (fused_identity([dense, words_identity()]), "both+")]
    ):
        parrot.card = Carded(held_rule("never", retriever=retriever, mode="append"))
        notes = Notes()
        found = run(task, {**systems, **told}, tmp_path / str(place), monkeypatch, cache=cache, progress=notes)
        assert [name for name in told if any(f"systems.{name}: as dev says" in line for line in notes.said)] == [fits]
        assert found.report.costs[fits]["mode"] == "append" and all(found.same(fits, fits[:-1]))


def test_where_the_rule_is_for_another_search_queries_stay_as_they_are(task, parrot, tmp_path, monkeypatch):
    parrot.card = Carded(held_rule("always", retriever={"what": "dense"}), modes={"dense": "append"})
    notes = Notes()
    every = {**TOLD, "abstain": False}
    found = run(task, {**WORDS, "told": TOLD, "every": every}, tmp_path, monkeypatch, progress=notes)
    assert found.report.costs["told"]["abstention"] == "never" and all(found.same("told", "words"))
    assert found.report.costs["every"]["rewritten_share"] > 0 and not all(found.same("every", "words"))
    (said,) = [line for line in notes.said if "no rewrite is used" in line]
    assert "systems.told" in said and "learned for a search by dense, not by bm25" in said


def test_a_tuned_fusion_behind_a_rewriter_is_fitted_on_rewritten_dev(task, parrot, tiny_model, tmp_path, monkeypatch):
    systems = {**WORDS, "vectors": {"kind": "dense", "model": str(tiny_model), "max_tokens": 64}}
    systems["told"] = {**TOLD, "of": "vectors"}
    systems["both"] = {"kind": "fusion", "of": ["words", "told"], "weights": "dev"}
    rank, unknown = VectorRanker.rank, []

    def watched(ranker, request, earlier):
        unknown.extend(np.setdiff1d(request.queries, ranker.known).tolist())
        return rank(ranker, request, earlier)

    monkeypatch.setattr(VectorRanker, "rank", watched)
    found = run(task, systems, tmp_path, monkeypatch)
    collection = read_beir(task)
    asked = {turn.utterance for turn in parrot.asked if turn.history}
    dev = [collection.query_texts[query] for query in collection.qrels["dev"].queries]
    assert asked >= {text for text in dev if text.startswith("and")} and "both" in found.runs
    assert len(parrot.asked) == len(dev) + 9
    assert not unknown, "queries whose vectors the ranker does not have"


@pytest.mark.parametrize(
    ("card", "searched", "wishes", "words"),
    [
        (None, "bm25", Wishes(abstain=True), "s: abstain is true, and parrot has no rule"),
        (Carded(), "bm25", Wishes(abstain=True), "parrot has no rule"),
        (Carded(held_rule()), None, Wishes(abstain=True), "for another retriever than the one here"),
        (Carded(held_rule(), {"bm25": "fuse"}), None, Wishes("fuse", True), "another bm25 retriever than the one here"),
        (Carded(held_rule()), "bm25", Wishes("fuse", True), "for the mode replace, not fuse"),
        (Carded(held_rule()), "bm25", Wishes(abstain=True), "rankings of 10 documents or more, not 9"),
        (Carded(held_rule(other="x")), "bm25", Wishes(abstain=True), "beside a second retriever"),
    ],
)
def test_a_rule_that_is_not_there_cannot_be_insisted_on(card, searched, wishes, words):
    parrot = Parrot()
    parrot.card = card
    before = Searched("bm25", None if searched is None else words_identity(), 9 if "9" in words else 10)
    with pytest.raises(ConfigError, match=words):
        settle_use(parrot, before, wishes, where="s")
    left = settle_use(parrot, before, Wishes(wishes.mode), where="s")
    unruled = card is None or card.abstention is None
    assert left.mode == (wishes.mode or "replace") and left.never is not unruled
    assert (left.rule([]) is None) is unruled


def test_a_damaged_rule_is_told_unless_it_is_off():
    parrot = Parrot()
    parrot.card = Carded({"predictor": {}})
    before = Searched("bm25", words_identity())
    with pytest.raises(ArtifactError, match="no abstention"):
        settle_use(parrot, before, Wishes(), where="s")
    assert settle_use(parrot, before, Wishes(abstain=False), where="s").abstention is None


def test_a_rule_over_no_query():
    rule = settle_use(_with(held_rule()), Searched("bm25", words_identity()), Wishes(), where="s").rule(["tide"])
    nothing = Run(np.zeros(0, np.int64), np.zeros((0, 3), np.int64), np.zeros((0, 3), np.float32))
    assert rule.decide([], [], nothing, nothing).shape == (0,)


def _with(held):
    parrot = Parrot()
    parrot.card = Carded(held)
    return parrot
