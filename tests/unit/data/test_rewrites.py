"""Reading people's rewrites, turns, and the conversations of a task; splitting them and finding leaks."""

import gzip
import io
import json

import pytest

from searchtune.data.rewrites import (
    RewriteExample,
    chosen,
    leaking,
    read_rewrites,
    read_turns,
    split_by_conversation,
    task_turns,
    turn_key,
)
from searchtune.errors import DataError
from searchtune.types import Turn

GOOD = {
    "conversation": 7,
    "history": [{"role": "title", "text": "Comets"}, {"role": "system", "text": "Ice."}],
    "utterance": " Why? ",
    "rewrite": "Why is it ice?",
    "further": 1,
}


def write(path, *rows):
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return path


def test_a_row_becomes_an_example(tmp_path):
    (one,) = read_rewrites(write(tmp_path / "a.jsonl", GOOD)).examples
    assert one.turn == Turn("Why?", (("title", "Comets"), ("assistant", "Ice.")))
    assert (one.rewrite, one.conversation, one.changed) == ("Why is it ice?", "a.jsonl 7", True)
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress((tmp_path / "a.jsonl").read_bytes()))
    assert read_rewrites(packed).examples[0].turn == one.turn


def test_rows_without_conversation_or_history_stand_alone(tmp_path):
    rows = [{"utterance": "a b", "rewrite": "A  b!"}, {"utterance": "c", "rewrite": "c d", "history": None}]
    found = read_rewrites(write(tmp_path / "a.jsonl", *rows))
    assert [one.conversation for one in found.examples] == ["a.jsonl line 1", "a.jsonl line 2"]
    assert [one.changed for one in found.examples] == [False, True]
    assert found.fingerprint != read_rewrites(write(tmp_path / "a.jsonl", *rows[::-1])).fingerprint


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"utterance": " "}, "'utterance' is empty; .*remove the row"),
        ({"rewrite": ""}, "'rewrite' is empty"),
        ({"rewrite": None}, "'rewrite' is null, which is not a string"),
        ({"history": "x"}, "'history' is 'x', which is no list"),
        ({"history": ["x"]}, "an entry of 'history' is 'x', which is no object"),
        ({"history": [{"role": "bot", "text": "x"}]}, "role 'bot' in 'history' is none of user, assistant"),
        ({"history": [{"role": "user"}]}, "key 'text' is missing"),
        ({"conversation": "a\nb"}, "control character"),
    ],
)
def test_rows_that_cannot_be_used_are_told_with_file_line_and_remedy(tmp_path, change, words):
    path = write(tmp_path / "a.jsonl", GOOD, {**GOOD, **change})
    with pytest.raises(DataError, match=rf"a\.jsonl:2.*{words}"):
        read_rewrites(path)
    kept = read_rewrites(path, on_problem="skip")
    assert len(kept) == 1 and len(kept.warnings) == 1


def test_files_of_nothing_and_of_no_json(tmp_path):
    with pytest.raises(DataError, match="no usable turn"):
        read_rewrites(write(tmp_path / "a.jsonl"))
    with pytest.raises(DataError, match=r"a\.jsonl:1.*not JSON"):
        read_rewrites(write(tmp_path / "a.jsonl", "{"))
    with pytest.raises(DataError, match="key 'rewrite' is missing"):
        read_rewrites(write(tmp_path / "a.jsonl", {"utterance": "x"}))


def test_turns_to_rewrite_from_a_file_and_from_a_pipe(tmp_path):
    rows = [{"query_id": "q1", "utterance": "a"}, {"utterance": "b", "history": [{"role": "user", "text": "a"}]}]
    ids, turns = read_turns(write(tmp_path / "t.jsonl", *rows))
    assert ids == ["q1", "2"] and turns == [Turn("a"), Turn("b", (("user", "a"),))]
    assert read_turns(io.BytesIO((tmp_path / "t.jsonl").read_bytes())) == (ids, turns)
    with pytest.raises(DataError, match=r"<stdin>:1.*key 'utterance' is missing"):
        read_turns([b'{"query_id": "q"}\n'])
    with pytest.raises(DataError, match=r"<stdin>:2.*not UTF-8"):
        read_turns([b'{"utterance": "q"}\n', b"\xff\n"])
    with pytest.raises(DataError, match=r"t\.jsonl:2: query id 'q1' is also on line 1"):
        read_turns(write(tmp_path / "t.jsonl", rows[0], rows[0]))
    assert read_turns([]) == ([], [])


def test_conversations_of_a_task_are_read_from_its_ids():
    ids = ["c_1_10", "c_1_2", "c_1_1", "d_1"]
    turns = task_turns(ids, ["ten", "two", "one", "other"])
    assert turns[0] == Turn("ten", (("user", "one"), ("user", "two")))
    assert turns[1:] == [Turn("two", (("user", "one"),)), Turn("one"), Turn("other")]
    assert task_turns(ids, ["ten", "two", "one", "other"], history=False)[0] == Turn("ten")


@pytest.mark.parametrize(
    "ids", [["c_1", "c_2", "q7"], ["PLAIN-1", "PLAIN-2"], ["1", "2"], [f"q_{i}" for i in range(201)], []]
)
def test_ids_of_other_kinds_give_no_history(ids):
    assert task_turns(ids, [f"text {i}" for i in ids]) == [Turn(f"text {i}") for i in ids]


def examples(count, conversations):
    return [
        RewriteExample(f"{i % conversations} {i}", str(i % conversations), Turn(f"said {i}"), f"meant {i}")
        for i in range(count)
    ]


def test_dev_takes_whole_conversations_and_stays_the_same():
    train, dev = split_by_conversation(examples(100, 20), 0.1)
    assert len(dev) == 10 and len(train) == 90
    assert {one.conversation for one in train}.isdisjoint(one.conversation for one in dev)
    assert split_by_conversation(examples(100, 20)[::-1], 0.1)[1] == dev[::-1]
    train, dev = split_by_conversation(examples(4, 2), 0.9)
    assert len(train) == len(dev) == 2, "one conversation is left to train on"
    with pytest.raises(DataError, match="3 turns of 1 conversation"):
        split_by_conversation(examples(3, 1), 0.1)


def test_a_sample_does_not_depend_on_what_else_is_there():
    few, many = chosen(examples(50, 5), 5), chosen(examples(100, 5), 50)
    assert len(few) == 5 and chosen(few, None) == few == chosen(few, 9)
    assert [one for one in chosen(examples(50, 5), 10) if one in few] == few
    assert len(many) == 50


def test_leaks_are_near_rewrites_and_near_turns():
    said = "why did the old tower of the harbour of the town fall down"
    train = [
        RewriteExample("1", "1", Turn("why?"), "Why did the tower fall?"),
        RewriteExample("2", "2", Turn("and why?", (("user", said),)), "something else"),
        RewriteExample("3", "3", Turn("why?"), "Why did the bridge fall?"),
    ]
    test = [Turn("and why", (("user", f"{said}!"),)), Turn("why?", (("user", "tell me of the tower"),))]
    assert leaking(train, test, ["why did the TOWER fall", "nothing"]) == [0, 1]
    assert leaking([], test, []) == [] and leaking(train, [], []) == []


def test_the_key_of_a_turn_holds_all_that_was_said():
    turns = [Turn("a"), Turn("a", (("user", "b"),)), Turn("a", (("assistant", "b"),)), Turn("b", (("user", "a"),))]
    assert len({turn_key(turn) for turn in turns}) == 4
    assert turn_key(turns[1]) == turn_key(Turn("a", (("user", "b"),)))
