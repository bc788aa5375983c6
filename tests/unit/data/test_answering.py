"""Questions with passages: read in three forms, made from labels and runs, split by md5, and kept apart."""

import gzip
import hashlib
import json

import numpy as np
import pytest

from searchtune.data.answering import (
    AnswerExample,
    AnswerSet,
    answers_of_labels,
    answers_of_run,
    md5_range,
    read_answers,
    sampled_answers,
    shared_questions,
    split_by_md5,
    without_passages,
    write_questions,
)
from searchtune.data.collection import build_collection
from searchtune.errors import ConfigError, DataError
from searchtune.types import Run

ROW = {
    "id": "q1",
    "question": " what is a tide? ",
    "passages": [{"id": "a", "title": "Sea", "text": "Tides rise."}, {"id": "b", "text": "Bread."}],
    "gold": ["a"],
    "answers": ["They rise.", " "],
}
CLAPNQ = {
    "id": 7,
    "question": "why",
    "answerable": True,
    "sources": [{"id": "7_0", "title": "T", "text": "Because it is. So."}],
    "answers": [{"text": "It is.", "selected_sentences": ["Because it is."]}],
}
PUBMED = {
    "id": "9", "split": "train", "question": "Does it?", "contexts": ["We looked.", "We saw."],
    "long_answer": "It does.", "answer": "yes",
}  # fmt: skip


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def example(name, question="why", **changes):
    return AnswerExample(name, question, **{"passages": ("p",), "gold": (0,), "references": ("r",), **changes})


def test_own_form(tmp_path):
    (one,) = read_answers(write(tmp_path / "a.jsonl", ROW)).examples
    assert one == AnswerExample(
        "q1", "what is a tide?", ("Sea\nTides rise.", "Bread."), (0,), ("They rise.",), ("a", "b")
    )
    assert one.answerable and not without_passages(one).answerable
    bare = {key: ROW[key] for key in ("id", "question", "passages")}
    (one,) = read_answers(write(tmp_path / "b.jsonl", bare)).examples
    assert (one.gold, one.references) == ((), ())


def test_clapnq_form_packed(tmp_path):
    no = {**CLAPNQ, "id": "8", "answerable": False, "answers": []}
    path = tmp_path / "c.jsonl.gz"
    path.write_bytes(gzip.compress("\n".join(map(json.dumps, [CLAPNQ, no])).encode()))
    first, second = read_answers(path, "clapnq").examples
    assert (first.id, first.gold, first.references, first.selected) == ("7", (0,), ("It is.",), ("Because it is.",))
    assert first.passages == ("T\nBecause it is. So.",)
    assert second.gold == () and second.references == () and second.passages == first.passages


def test_pubmedqa_form(tmp_path):
    (one,) = read_answers(write(tmp_path / "p.jsonl", PUBMED), "pubmedqa").examples
    assert (one.passages, one.gold, one.references) == (("We looked. We saw.",), (0,), ("It does.",))
    assert (one.decision, one.part) == ("yes", "train")


@pytest.mark.parametrize(
    ("form", "row", "words"),
    [
        ("passages", {**ROW, "gold": ["c"]}, r"a.jsonl:1: gold 'c' is none of its passages \['a', 'b'\]"),
        ("passages", {**ROW, "question": "  "}, "question 'q1' has no text"),
        ("passages", {**ROW, "passages": "text"}, "'passages' is 'text', which is no list of objects"),
        ("passages", {**ROW, "passages": [ROW["passages"][0]] * 2}, "repeat an id"),
        ("passages", {**ROW, "answers": [1]}, "no list of strings"),
        ("passages", {"id": "q", "passages": []}, "key 'question' is missing"),
        ("clapnq", {**CLAPNQ, "answerable": "yes"}, "'answerable' is 'yes'"),
        ("clapnq", {**CLAPNQ, "answers": []}, "answerable, and no answer has text"),
        ("clapnq", ROW, "key 'sources' is missing"),
        ("pubmedqa", {**PUBMED, "long_answer": ""}, "no context, or no long_answer"),
    ],
)
def test_what_is_wrong_with_a_row_is_told(tmp_path, form, row, words):
    path = write(tmp_path / "a.jsonl", row)
    with pytest.raises(DataError, match=words):
        read_answers(path, form)
    with pytest.raises(DataError, match="no usable question"):
        read_answers(path, form, on_problem="skip")


def test_an_id_twice_and_an_unknown_form(tmp_path):
    path = write(tmp_path / "a.jsonl", ROW, ROW)
    with pytest.raises(DataError, match=r"a.jsonl:2: id 'q1' stands on line 1 too"):
        read_answers(path)
    assert len(read_answers(path, on_problem="skip")) == 1
    with pytest.raises(ConfigError, match="did you mean 'clapnq'"):
        read_answers(path, "clapnqs")
    with pytest.raises(DataError, match="'q' comes twice"):
        AnswerSet.of([example("q"), example("q", "other")])


def test_what_is_written_is_read_back(tmp_path):
    found = read_answers(write(tmp_path / "a.jsonl", ROW, {**ROW, "id": "q0", "gold": [], "answers": []}))
    for name in ("b.jsonl", "b.jsonl.gz"):
        write_questions(tmp_path / name, found)
        assert read_answers(tmp_path / name).examples == found.examples
        assert read_answers(tmp_path / name).fingerprint == found.fingerprint
    assert AnswerSet.of(found.examples[::-1]).fingerprint == found.fingerprint, "order does not matter"
    assert found.select(lambda one: one.answerable).fingerprint != found.fingerprint


def test_halves_by_md5():
    ids = [f"q{i}" for i in range(11)]
    whole = AnswerSet.of([example(name) for name in ids])
    halves = split_by_md5(whole, {"train": 0.5, "test": 0.5})
    names = {part: {one.id for one in half.examples} for part, half in halves.items()}
    ordered = sorted(ids, key=lambda name: hashlib.md5(name.encode()).hexdigest())
    cut = len(names["train"])
    assert cut in (5, 6) and names["train"] == set(ordered[:cut]) and names["test"] == set(ordered[cut:])
    assert md5_range(whole, 0.0, 0.5).examples == halves["train"].examples
    assert md5_range(whole, 0.5, 1.0).examples == halves["test"].examples
    thirds = split_by_md5(whole, {"a": 1 / 3, "b": 1 / 3, "c": 1 / 3})
    assert sorted(one.id for part in thirds.values() for one in part.examples) == sorted(ids)
    assert {one.id for one in sampled_answers(whole, 3).examples} == set(ordered[:3])


@pytest.mark.parametrize("parts", [{}, {"a": 0.5}, {"a": 1.0, "b": 0.0}])
def test_shares_that_make_no_whole(parts):
    with pytest.raises(ConfigError, match="together they make 1"):
        split_by_md5(AnswerSet.of([example("q")]), parts)


def test_a_part_without_questions():
    with pytest.raises(DataError, match="none of 1 questions lies"):
        split_by_md5(AnswerSet.of([example("q")]), {"a": 0.9, "b": 0.1})


def test_near_questions_are_found():
    train = AnswerSet.of([example("a", "Who wrote the old book?"), example("b", "how high is the tower")])
    test = AnswerSet.of([example("c", "who wrote THE old book"), example("d", "what is bread")])
    assert shared_questions(train, test) == {"a"}
    assert shared_questions(train, AnswerSet.of([])) == set()


@pytest.fixture
def collection():
    return build_collection(
        "code",
        {"f1": ("os.join", "def join"), "f2": ("", "def other"), "f3": ("os.cut", "def cut")},
        {"q1": "join paths", "q2": "do other", "q3": "nothing"},
        {"test": [("q1", "f1", 1), ("q1", "f3", 2), ("q2", "f2", 1), ("q3", "f1", 0)]},
    )


def test_a_task_becomes_questions(collection):
    first, second = answers_of_labels(collection, collection.split("test")).examples
    assert (first.passages, first.gold, first.references) == (("os.cut def cut",), (0,), ("Use `os.cut`.",))
    assert second.references == ("Use `f2`.",), "a document without a title is named by its id"
    first, _ = answers_of_labels(collection, collection.split("test"), passages=2).examples
    assert first.passage_ids == ("f3", "f1") and first.gold == (0, 1)


def test_a_run_gives_the_passages(collection):
    run = Run.ranked(np.array([0, 2]), np.array([[0, 1], [1, -1]]), np.array([[2, 1], [1, 0]], np.float32))
    first, second, third = answers_of_run(collection, run, 2, collection.split("test")).examples
    assert (first.passage_ids, first.gold, first.references) == (("f1", "f2"), (0,), ("Use `os.cut`.",))
    assert (third.id, third.passage_ids, third.gold, third.references) == ("q3", ("f2",), (), ())
    assert answers_of_run(collection, run, 1).examples[0].gold == ()
    assert (second.id, second.passages, second.references) == ("q2", (), ("Use `f2`.",)), "the run lacks it"
    with pytest.raises(ConfigError, match="depth 0"):
        answers_of_run(collection, run, 0)
