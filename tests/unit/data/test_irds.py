"""Collections of the ir_datasets catalogue, from data sets that only look like its own."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from searchtune.data.irds import open_irds
from searchtune.errors import ConfigError, DataError, MissingExtraError


class Doc(NamedTuple):
    doc_id: str
    text: str
    title: str


class Paper(NamedTuple):
    doc_id: str
    title: str
    abstract: str


class Web(NamedTuple):
    doc_id: str
    html: str

    def default_text(self) -> str:
        return self.html.strip("<>")


class Query(NamedTuple):
    query_id: str
    text: str


class Topic(NamedTuple):
    query_id: str
    title: str
    description: str


class Qrel(NamedTuple):
    query_id: str
    doc_id: str
    relevance: int
    iteration: str


class FakeDataset:
    def __init__(self, docs=(), queries=(), qrels=()) -> None:
        self.docs_iter, self.queries_iter, self.qrels_iter = (
            (lambda: iter(docs)),
            (lambda: iter(queries)),
            lambda: qrels,
        )
        self.has_docs, self.has_queries, self.has_qrels = (
            (lambda: bool(docs)),
            (lambda: bool(queries)),
            lambda: bool(qrels),
        )


DOCS = [Doc("d10", "all about cats", "Cats"), Doc("d2", "all about dogs", "Dogs")]
LABELS = [Qrel("q2", "d2", 2, "0"), Qrel("q2", "d10", 0, "0")]


@pytest.fixture
def catalogue(monkeypatch: pytest.MonkeyPatch) -> dict[str, FakeDataset]:
    sets = {
        "beir/pets/test": FakeDataset(DOCS, [Query("q2", "a dog"), Query("q1", "unasked")], LABELS),
        "beir/pets/train": FakeDataset(DOCS, [Query("q3", "a cat")], [Qrel("q3", "d10", 1, "0")]),
    }
    monkeypatch.setitem(sys.modules, "ir_datasets", SimpleNamespace(load=sets.__getitem__))
    return sets


@pytest.mark.usefixtures("catalogue")
def test_documents_queries_and_labels_are_taken_over() -> None:
    pets = open_irds("irds:beir/pets/test")
    assert (pets.name, list(pets.doc_ids), list(pets.titles)) == ("beir/pets/test", ["d10", "d2"], ["Cats", "Dogs"])
    assert pets.documents == ["Cats all about cats", "Dogs all about dogs"]
    assert dict(zip(pets.query_ids, pets.query_texts, strict=True)) == {"q1": "unasked", "q2": "a dog"}
    assert list(pets.qrels) == ["test"]
    assert pets.split("test").grades.tolist() == [0, 2]


@pytest.mark.usefixtures("catalogue")
def test_several_ids_make_the_splits_of_one_collection() -> None:
    pets = open_irds("irds:beir/pets/train+beir/pets/test", name="pets", doc_template="{text}", min_grade=2)
    assert (pets.name, sorted(pets.qrels), pets.min_grade) == ("pets", ["test", "train"], 2)
    assert pets.documents == ["all about cats", "all about dogs"]
    with pytest.raises(ConfigError, match="two ids stand for one split"):
        open_irds("irds:beir/pets/test+beir/pets/test")


def test_other_fields_of_the_catalogue(catalogue: dict[str, FakeDataset]) -> None:
    labels = [Qrel("q", "d", 1, "0")]
    catalogue["papers"] = FakeDataset([Paper("d", "Title", "Abstract")], [Topic("q", "short", "long")], labels)
    catalogue["web/dev"] = FakeDataset([Web("d", "<page>")], [Query("q", "x")], labels)
    papers, web = open_irds("irds:papers"), open_irds("irds:web/dev")
    assert (papers.documents, papers.query_texts, list(papers.qrels)) == (["Title Abstract"], ["short"], ["test"])
    assert (web.documents, list(web.qrels)) == (["page"], ["dev"])
    catalogue["odd"] = FakeDataset([SimpleNamespace(doc_id="d")], [Query("q", "x")], labels)
    with pytest.raises(DataError, match="has none of the fields text, body, abstract, contents"):
        open_irds("irds:odd")


def test_what_cannot_be_used_is_named(catalogue: dict[str, FakeDataset]) -> None:
    with pytest.raises(ConfigError, match="irds:beir/pest: no such id"):
        open_irds("irds:beir/pest")
    catalogue["pets"] = FakeDataset(DOCS, [Query("q", "x")])
    with pytest.raises(ConfigError, match="irds:pets has no qrels; choose an id"):
        open_irds("irds:pets")
    catalogue["twice"] = FakeDataset([*DOCS, DOCS[0]], [Query("q2", "x")], LABELS)
    with pytest.raises(DataError, match="two documents have the id 'd10'"):
        open_irds("irds:twice")
    catalogue["stray"] = FakeDataset(
        DOCS, [Query("q2", "x")], [*LABELS, Qrel("q2", "d0", 1, ""), Qrel("q9", "d2", 1, "")]
    )
    with pytest.raises(DataError, match="irds:stray: 2 labels name what is not there, the first one document 'd0'"):
        open_irds("irds:stray")
    catalogue["torn/train"] = FakeDataset(DOCS, [Query("q2", "another text")], [Qrel("q2", "d2", 1, "")])
    with pytest.raises(DataError, match="query 'q2' has two texts, 'another text' and 'a dog'"):
        open_irds("irds:torn/train+beir/pets/test")


def test_without_the_package_the_remedy_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ir_datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'searchtune\[irds\]'"):
        open_irds("irds:beir/scifact/test")
