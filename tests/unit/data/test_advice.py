"""What misleads in a collection that can be read: told, and no error."""

import dataclasses

import pytest
from typer.testing import CliRunner

from searchtune.cli.data import app
from searchtune.data import advice
from searchtune.data.advice import advise, rules
from searchtune.data.beir import write_beir
from searchtune.data.collection import build_collection
from searchtune.data.leakage import find_leaks, raise_leaks
from searchtune.errors import LeakError

ANIMALS = ["cats purr at night", "dogs bark at the moon", "hens lay brown eggs", "cows chew fresh grass"]


def collection(documents, queries, labels, **fields):
    texts = {name: ("", text) for name, text in documents.items()}
    return dataclasses.replace(build_collection("small", texts, queries, labels), **fields)


def kinds(findings):
    return [one.kind for one in findings]


def test_queries_that_are_documents_are_told_with_the_key():
    texts = {f"a{i}": text for i, text in enumerate(ANIMALS)}
    labels = {"test": [("a0", "a1", 1), ("a2", "a3", 1)]}
    (found,) = rules(collection(texts, texts, labels))
    assert (found.kind, found.value, found.severity) == ("self-match", "a0", "warning")
    assert "4 of 4 queries" in found.message
    assert "drop_self: true" in found.remedy
    assert rules(collection(texts, texts, labels, drop_self=True)) == []


def test_ids_that_only_happen_to_be_equal_are_no_self_match():
    documents = {str(i): text for i, text in enumerate(ANIMALS)}
    queries = {"0": "what barks", "1": "who lays eggs"}
    labels = {"test": [("0", "1", 1), ("1", "2", 1)]}
    assert rules(collection(documents, queries, labels)) == []
    (found,) = rules(collection(documents, queries, labels, drop_self=True))
    assert "drop_self: false" in found.remedy


def test_a_document_that_answers_its_own_query_is_no_self_match():
    texts = {f"a{i}": text for i, text in enumerate(ANIMALS)}
    assert rules(collection(texts, texts, {"test": [(name, name, 1) for name in texts]})) == []


def test_texts_without_words_are_told():
    found = rules(collection({"d1": "🙂🙂", "d2": "cats purr"}, {"q": "?!"}, {"test": [("q", "d2", 1)]}))
    assert [(one.kind, one.file) for one in found] == [("no-words", "corpus.jsonl"), ("no-words", "queries.jsonl")]
    chinese = collection({"d1": "今天天气很好", "d2": "信息检索"}, {"q": "检索"}, {"test": [("q", "d2", 1)]})
    assert rules(chinese) == []


@pytest.fixture
def leaky():
    documents = {"d1": ANIMALS[0], "d2": ANIMALS[1], "d3": ANIMALS[2], "d4": "Cats purr, at night!", "d5": ANIMALS[3]}
    queries = {"q1": "who purrs", "q2": "who barks", "q3": "Who barks?", "q4": "who purrs.", "q5": "what is chewed"}
    labels = {
        "train": [("q1", "d1", 1), ("q2", "d2", 1)],
        "dev": [("q3", "d3", 1)],
        "test": [("q4", "d4", 1), ("q5", "d5", 1)],
    }
    return collection(documents, queries, labels)


def test_leaks_copies_and_small_splits_are_told_with_their_splits(leaky, tmp_path):
    found = advise(leaky)
    assert kinds(found) == [*["few-queries"] * 3, "duplicate-documents", "leak", "leak", "copied-answer"]
    assert [one.file for one in found[4:]] == ["qrels/dev.tsv", "qrels/test.tsv", "qrels/test.tsv"]
    assert "train 'q2' 'who barks' / dev 'q3' 'Who barks?'" in found[4].message
    assert "--leaks drop" in found[4].remedy
    write_beir(leaky, tmp_path / "set")
    shown = CliRunner().invoke(app, ["check", str(tmp_path / "set")])
    assert shown.exit_code == 0
    assert "dev 'q3'" in shown.output
    assert CliRunner().invoke(app, ["check", str(tmp_path / "set"), "--strict"]).exit_code == 1


def test_queries_of_one_split_that_repeat_each_other_are_a_note(leaky):
    queries = dict(zip(leaky.query_ids, leaky.query_texts, strict=True)) | {"q5": "who purrs"}
    documents = dict(zip(leaky.doc_ids, leaky.texts, strict=True))
    found = advise(collection(documents, queries, {"test": [("q4", "d4", 1), ("q5", "d5", 1)]}))
    (note,) = [one for one in found if one.kind == "duplicate-queries"]
    assert "1 of 2 test queries repeat another one" in note.message


def test_all_splits_that_leak_are_named_at_once_with_the_remedy(leaky):
    reports = [
        find_leaks(leaky, leaky.split("train"), leaky.split(split), splits=("train", split))
        for split in ("dev", "test")
    ]
    with pytest.raises(LeakError, match=r"1 dev queries are also in train[\s\S]*1 test queries are") as caught:
        raise_leaks(reports)
    assert "--leaks drop" in str(caught.value)
    assert "--leaks allow" in str(caught.value)
    assert "data check FOLDER --json" in str(caught.value)
    assert len(caught.value.problems) == 3


def test_namesakes_of_other_lengths_are_not_taken_apart(monkeypatch):
    documents = {str(i): f"{text} " * 20 for i, text in enumerate(ANIMALS)}
    queries = {str(i): text for i, text in enumerate(ANIMALS)}
    monkeypatch.setattr(advice, "shingles", pytest.fail)
    assert rules(collection(documents, queries, {"test": [("0", "1", 1)]})) == []
