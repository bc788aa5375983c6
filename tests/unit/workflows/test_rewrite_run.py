"""Rewriting jobs: nothing is rewritten twice, nothing is lost, and what is written can be read."""

import json

import pytest

from searchtune.data.rewrites import turn_key
from searchtune.errors import ConfigError, DataError
from searchtune.retrieval.cache import EmbeddingCache
from searchtune.storage.journal import JournalView
from searchtune.types import Turn
from searchtune.workflows.progress import Progress
from searchtune.workflows.rewrite_run import kept_rewrites, rewrite_all, turns_of_task, write_rewrites
from unit.workflows.rewriting import Parrot, write_conversations

TURNS = [Turn("a"), Turn("b", (("user", "x tide"),)), Turn("a"), Turn("b", (("user", "x soil"),))]


def test_each_turn_is_rewritten_once(tmp_path):
    parrot = Parrot()
    done = rewrite_all(parrot, TURNS, tmp_path / "j.jsonl")
    assert done.queries == ["a", "b tide", "a", "b soil"]
    assert (done.distinct, done.fresh, done.unanswered, len(parrot.asked)) == (3, 3, 0, 3)
    assert (done.milliseconds_per_turn, done.tokens_per_turn) == (250, 12)
    again = rewrite_all(parrot, TURNS[::-1], tmp_path / "j.jsonl")
    assert again.queries == done.queries[::-1] and again.fresh == 0 and len(parrot.asked) == 3
    assert (again.seconds, again.tokens) == (done.seconds, done.tokens), "what it took is kept too"


def test_a_killed_job_goes_on(tmp_path):
    turns = [Turn(f"t{i}") for i in range(150)]
    with pytest.raises(RuntimeError):
        rewrite_all(Parrot(fail_after=100), turns, tmp_path / "j.jsonl")
    journal = tmp_path / "j.jsonl"
    assert len(JournalView(journal)) == 100
    torn = journal.read_bytes()[:-7]
    journal.write_bytes(torn)
    parrot = Parrot()
    done = rewrite_all(parrot, turns, journal)
    assert [turn.utterance for turn in parrot.asked] == [f"t{i}" for i in range(99, 150)]
    assert done.queries == [turn.utterance for turn in turns] and done.fresh == 51


def test_another_rewriter_does_not_take_the_journal(tmp_path):
    rewrite_all(Parrot(), TURNS, tmp_path / "j.jsonl")
    with pytest.raises(ConfigError, match="written by another job.*rewriter.what"):
        rewrite_all(Parrot(name="magpie"), TURNS, tmp_path / "j.jsonl")


def test_what_had_no_reply_stays_as_it_is_and_is_asked_again(tmp_path):
    notes = []

    class Told(Progress):
        def note(self, message):
            notes.append(message)

    done = rewrite_all(Parrot(silent="b"), TURNS, tmp_path / "j.jsonl", progress=Told())
    assert done.queries == ["a", "b", "a", "b"] and done.unanswered == 2
    assert notes == ["2 turns had no reply (the last: no answer in 6 attempts) and stay as they are; run it again"]
    assert turn_key(TURNS[1]) not in JournalView(tmp_path / "j.jsonl")
    assert rewrite_all(Parrot(), TURNS, tmp_path / "j.jsonl").queries == ["a", "b tide", "a", "b soil"]


def test_no_turn_and_no_journal():
    done = rewrite_all(Parrot(), [])
    assert done.queries == [] and done.milliseconds_per_turn == done.tokens_per_turn == 0
    assert rewrite_all(Parrot(), TURNS).fresh == 3


def test_rewrites_lie_beside_the_vectors_one_file_a_rewriter(tmp_path):
    cache = EmbeddingCache(tmp_path / "vectors")
    places = {kept_rewrites(cache, Parrot(name=name)) for name in ("parrot", "parrot", "magpie")}
    assert len(places) == 2 and {place.parent for place in places} == {tmp_path / "rewrites"}
    assert kept_rewrites(None, Parrot()) is None


def test_turns_of_a_task(tmp_path):
    raw, _ = write_conversations(tmp_path)
    ids, turns = turns_of_task(str(raw), "dev")
    assert ids == [f"{topic}_{turn}" for topic in ("harbour", "kitchen") for turn in (1, 2, 3)]
    assert turns[2] == Turn(
        "and its repair", (("user", "what is the history of the harbour"), ("user", "and its price"))
    )
    assert len(turns_of_task(str(raw), None)[0]) == 18
    some, _ = turns_of_task(str(raw), "dev", max_queries=2)
    assert len(some) == 2 and some == sorted(some) and set(some) < set(ids)
    assert turns_of_task(str(raw), "dev", history=False)[1][2] == Turn("and its repair")
    with pytest.raises(ConfigError, match="no split 'tset'; did you mean 'test'"):
        turns_of_task(str(raw), "tset")


def test_rewrites_are_written_as_rows_or_as_a_collections_queries(tmp_path):
    turns = [Turn("said \u4e00")]
    write_rewrites(tmp_path / "out.jsonl", ["q"], turns, ["meant"])
    assert json.loads((tmp_path / "out.jsonl").read_text("utf-8")) == {
        "query_id": "q", "utterance": "said \u4e00", "rewrite": "meant",
    }  # fmt: skip
    write_rewrites(tmp_path / "queries_tuned.jsonl", ["q"], turns, ["meant"])
    assert json.loads((tmp_path / "queries_tuned.jsonl").read_text("utf-8")) == {"_id": "q", "text": "meant"}


def test_a_damaged_journal_is_named(tmp_path):
    rewrite_all(Parrot(), TURNS, tmp_path / "j.jsonl")
    text = (tmp_path / "j.jsonl").read_text().replace("tide", "ride")
    (tmp_path / "j.jsonl").write_text(text)
    with pytest.raises(DataError, match=r"j\.jsonl:3: damaged or edited"):
        rewrite_all(Parrot(), TURNS, tmp_path / "j.jsonl")
