"""Candidates and rewards: what is searched, what it is worth, and that nothing is asked or searched twice."""

from dataclasses import replace

import numpy as np
import pytest

from searchtune.data.beir import write_beir
from searchtune.data.collection import build_collection
from searchtune.errors import ConfigError, DataError, LeakError
from searchtune.metrics.ranking import score
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.choice import choose
from searchtune.retrieval.fusion import fuse
from searchtune.specs.reward import RetrievalReward
from searchtune.storage.journal import JournalView
from searchtune.types import NO_DOC, Run, Turn
from searchtune.workflows import rewrite_reward
from searchtune.workflows.rewrite_reward import (
    AssociationRewriter,
    RewardData,
    associations_of,
    open_reward_data,
    read_rewarded,
    reward_candidates,
    reward_figures,
    single_turns,
    write_rewarded,
)
from searchtune.workflows.rewrite_search import RewriteSearch, open_retrieval
from unit.workflows.rewarding import QUERIES, Scripted, collection, counting

SAYS = {
    "visit every folder": ["walk directory tree", "walk", "visit every folder"],
    "join path pieces": ["join path parts", "remove"],
    "duplicate a file": ["copy file", "copy  file ", "walk"],
    "serialise an object": ["", "json dump"],
}


def toy_data(toy=None):
    toy = toy or collection()
    return RewardData(toy, toy.split("train"), single_turns(list(toy.query_ids), list(toy.query_texts)))


def run_all(place, *, source=None, opened=None, data=None, **changes):
    data = data or toy_data()
    reward = RetrievalReward(task="toy", **{"samples": 2, **changes})
    search = RewriteSearch(data.collection, opened or counting(data.collection), reward.mode, reward.depth)
    return reward_candidates(data, source or Scripted(SAYS), search=search, reward=reward, place=place)


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
@pytest.mark.parametrize("metric", ["ndcg@10", "recall@1", "mrr@10"])
def test_rewards_are_the_metric_of_the_search(tmp_path, mode, metric):
    toy = collection()
    index, train = BM25Index(toy.documents), toy.split("train")
    for one in run_all(tmp_path, mode=mode, metric=metric):
        query = toy.query_index[one.query_id]
        labels = train.select(train.queries == query)
        for text, reward in [(one.turn.utterance, one.original), *zip(one.candidates, one.rewards, strict=True)]:
            old = one.turn.utterance
            whole = f"{old} {text}" if mode == "append" and text != old else text
            run = index.search(np.array([query]), [whole], 100)
            if mode == "fuse" and text != old:
                run = fuse([index.search(np.array([query]), [old], 100), run])
            assert reward == pytest.approx(score(run, labels, [metric])[metric][0])


def test_candidates_are_cleaned_and_each_stands_once(tmp_path):
    found = {one.turn.utterance: one for one in run_all(tmp_path)}
    assert found["duplicate a file"].candidates == ("copy file", "walk", "duplicate a file")
    assert found["serialise an object"].candidates == ("json dump", "serialise an object")
    without = {one.turn.utterance: one for one in run_all(tmp_path / "without", keep_original=False)}
    assert without["visit every folder"].candidates == ("walk directory tree", "walk")
    assert without["visit every folder"].original == found["visit every folder"].rewards[2]


def associating():
    """Four training queries about copying, with all of which `shutil` goes, among others about other things."""
    names = ("one", "two", "three", "four")
    documents = {f"d{name}": ("", f"shutil {name}") for name in names} | {f"x{i}": ("", f"else {i}") for i in range(40)}
    texts = {f"q{name}": f"copy {name}x" for name in names} | {"qt": "copy five", "qo": "other"}
    texts |= {f"qo{i}": f"thing{i}" for i in range(1, 30)}
    train = [(f"q{name}", f"d{name}", 1) for name in names] + [("qo", "x0", 1)]
    labels = {"train": train + [(f"qo{i}", f"x{i}", 1) for i in range(1, 30)], "test": [("qt", "dtwo", 1)]}
    return build_collection("copies", documents, texts, labels)


def test_rewrites_from_documents_come_from_training_pairs(tmp_path):
    data = toy_data(associating())
    found = run_all(tmp_path, from_documents=True, source=Scripted({}), data=data)
    by_text = {one.turn.utterance: one.candidates for one in found}
    assert by_text["copy onex"] == ("copy onex", "shutil")
    assert by_text["other"] == ("other",)
    rewarded = run_all(tmp_path / "fuse", from_documents=True, source=Scripted({}), data=data, mode="fuse")
    assert {one.turn.utterance: one.candidates for one in rewarded}["copy onex"][1] == "copy onex shutil"


def test_the_rewriter_without_a_model():
    associations = associations_of(toy_data(associating()))
    turns = [Turn("copy five", (("user", "hm"),)), Turn("nothing known"), Turn("")]
    assert AssociationRewriter(associations, least=0.2).rewrite(turns) == ["shutil", "nothing known", ""]
    assert AssociationRewriter(associations, "fuse", least=0.2).rewrite(turns)[0] == "copy five shutil"
    assert AssociationRewriter(associations, least=0.99).rewrite(turns)[0] == "copy five"


@pytest.mark.parametrize("mode", ["replace", "append", "fuse"])
def test_every_turn_is_asked_and_every_text_searched_once(tmp_path, mode, monkeypatch):
    monkeypatch.setattr(rewrite_reward, "_TURNS", 1)
    monkeypatch.setattr(rewrite_reward, "_TEXTS", 2)
    source, opened = Scripted(SAYS), counting(collection())
    first = run_all(tmp_path, source=source, opened=opened, mode=mode)
    assert sorted(source.asked) == sorted(SAYS)
    assert set(opened.retrieval.asked.values()) == {1}
    source, opened = Scripted(SAYS), counting(collection())
    assert run_all(tmp_path, source=source, opened=opened, mode=mode) == first
    assert source.asked == [] and not opened.retrieval.asked


@pytest.mark.parametrize("mode", ["replace", "fuse"])
@pytest.mark.parametrize("texts", [1, 256])
def test_a_killed_job_goes_on_where_it_was(tmp_path, monkeypatch, mode, texts):
    monkeypatch.setattr(rewrite_reward, "_TURNS", 1)
    monkeypatch.setattr(rewrite_reward, "_TEXTS", texts)
    whole = run_all(tmp_path / "whole", mode=mode)
    asked, searched = [], 0
    for _ in range(20):
        source = Scripted(SAYS, fail_after=1)
        opened = counting(collection(), fail_after=5)
        try:
            result = run_all(tmp_path / "killed", source=source, opened=opened, mode=mode)
        except KeyboardInterrupt:
            asked += source.asked
            searched += opened.retrieval.asked.total()
            continue
        asked += source.asked
        break
    assert result == whole
    assert sorted(asked) == sorted(SAYS)
    if mode == "replace" and texts == 1:
        assert searched + opened.retrieval.asked.total() == len({t for one in whole for t in one.candidates})


def test_another_setting_asks_again_only_for_what_it_changes(tmp_path):
    run_all(tmp_path)
    for change, asks, searches in [
        ({"metric": "mrr@10"}, False, True),
        ({"mode": "replace"}, False, True),
        ({"depth": 3}, False, True),
        ({"samples": 3}, True, False),
        ({"temperature": 0.5}, True, False),
        ({"min_margin": 0.5}, False, False),
    ]:
        source, opened = Scripted(SAYS), counting(collection())
        run_all(tmp_path, source=source, opened=opened, **change)
        assert (bool(source.asked), bool(opened.retrieval.asked)) == (asks, searches), change
    other = Scripted(SAYS, name="another")
    run_all(tmp_path, source=other)
    assert other.asked
    assert len(JournalView(tmp_path)) > 20


def test_the_same_words_after_another_history_are_another_turn(tmp_path):
    toy = collection()
    turns = [Turn(text, (("user", f"about {i % 2}"),)) for i, text in enumerate(["same"] * 6)]
    data = RewardData(toy, toy.split("train"), turns)
    source = Scripted({"same": ["walk"]})
    run_all(tmp_path, source=source, data=data)
    assert source.asked == ["same", "same"]  # four queries, two histories


def test_without_samples_the_rewriter_is_asked_for_its_likeliest_alone(tmp_path):
    found = run_all(tmp_path, samples=0, source=Scripted(SAYS))
    assert found[0].candidates == ("walk directory tree", "visit every folder")


def test_a_document_that_bears_the_querys_id_is_left_out(tmp_path):
    documents = {"q": ("", "alpha beta"), "d": ("", "alpha gamma"), "e": ("", "delta")}
    toy = build_collection("self", documents, {"q": "alpha beta"}, {"train": [("q", "d", 1)]})
    kept = run_all(tmp_path / "a", data=toy_data(toy), source=Scripted({}))
    dropped = run_all(tmp_path / "b", data=toy_data(replace(toy, drop_self=True)), source=Scripted({}))
    assert kept[0].original < dropped[0].original == 1


def test_figures_and_the_file(tmp_path):
    found = run_all(tmp_path)
    figures = reward_figures(found)
    assert figures["best"] >= max(figures["first"], figures["utterance"])
    assert figures["improvable"] == pytest.approx(np.mean([max(one.rewards) > one.original + 1e-9 for one in found]))
    write_rewarded(tmp_path / "rewarded.jsonl", found)
    assert read_rewarded(tmp_path / "rewarded.jsonl") == found
    assert reward_figures([]) == {}


def write_toy(folder, leaking=False):
    documents = {"d0": ("", "alpha"), "d1": ("", "beta"), "d2": ("", "gamma")}
    texts = {
        "q0": "first question about alpha things",
        "q1": "second one on beta matters",
        "q2": "third gamma query here",
    }
    if leaking:
        texts["q2"] = texts["q0"]
    labels = {"train": [("q0", "d0", 1), ("q1", "d1", 0)], "test": [("q2", "d2", 1)], "dev": [("q1", "d1", 1)]}
    write_beir(build_collection("toy", documents, texts, labels), folder)
    return str(folder)


def test_data_holds_only_queries_with_something_to_find(tmp_path):
    data = open_reward_data(RetrievalReward(task=write_toy(tmp_path / "toy")), "allow")
    assert [data.collection.query_ids[i] for i in data.train.queries] == ["q0"]
    assert data.positives == ["d0"]


def test_data_that_cannot_be_rewarded(tmp_path):
    task = write_toy(tmp_path / "toy", leaking=True)
    with pytest.raises(LeakError, match="test queries are also in train"):
        open_reward_data(RetrievalReward(task=task))
    with pytest.raises(DataError, match="no training query has a document of grade 1"):
        open_reward_data(RetrievalReward(task=task), "drop")
    with pytest.raises(ConfigError, match="unknown metric"):
        open_reward_data(RetrievalReward(task=task, metric="ndgc@10"))
    (tmp_path / "toy" / "qrels" / "train.tsv").unlink()
    with pytest.raises((DataError, ConfigError), match="train"):
        open_reward_data(RetrievalReward(task=task))


def test_runs_are_chosen_row_by_row():
    first = Run(np.array([3, 5]), np.array([[1, 2], [3, 4]]), np.array([[2.0, 1.0], [2.0, 1.0]], np.float32))
    second = Run(np.array([3, 5]), np.array([[7], [8]]), np.array([[9.0], [8.0]], np.float32))
    run = choose(first, second, np.array([False, True]))
    assert run.docs.tolist() == [[1, 2], [8, -1]]
    assert run.scores.tolist() == [[2, 1], [8, -np.inf]]
    assert first.docs.tolist() == [[1, 2], [3, 4]]
    assert choose(second, first, np.array([False, False])).docs.tolist() == [[7, NO_DOC], [8, NO_DOC]]
    with pytest.raises(ConfigError, match="do not belong to the same queries"):
        choose(first, second, np.array([True]))


def test_scores_of_rows_that_repeat_queries():
    toy = collection()
    search = RewriteSearch(toy, open_retrieval(["bm25"], toy), "replace")
    train = toy.split("train")
    run = search.original(None, ["walk", "join", "walk"])
    found = search.scores(run, train, np.array([0, 1, 0]), "ndcg@10")
    assert found[0] == found[2] > 0 and found[1] == 1
    none = search.scores(search.original(None, []), train, np.zeros(0, np.int64), "ndcg@10")
    assert none.shape == (0,)


def test_retrievers_by_name(tiny_model):
    toy = collection()
    both = open_retrieval(["bm25", str(tiny_model)], toy)
    assert both.identity["what"] == "rrf" and [one["what"] for one in both.identity["of"]] == ["bm25", "dense"]
    run = both.retrieval.retrieve(["walk", QUERIES["q1"]], 3)
    assert run.docs.shape == (2, 3)
    with pytest.raises(ConfigError, match="no retriever"):
        open_retrieval([], toy)
