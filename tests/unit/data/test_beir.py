"""Reading and writing collections: order, fingerprints, round trips, edge sizes."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.data.beir import check_template, read_beir, write_beir
from searchtune.data.collection import build_collection, with_qrels
from searchtune.errors import ConfigError, DataError, OutputExistsError
from searchtune.storage.marker import check_complete

ids = st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Zl", "Zp"]), min_size=1, max_size=6)
texts = st.text(st.characters(codec="utf-8"), max_size=20)
filled = texts.filter(str.strip)


@st.composite
def collections(draw):
    documents = draw(st.dictionaries(ids, st.tuples(texts, texts), min_size=1, max_size=6))
    queries = draw(st.dictionaries(ids, filled, min_size=1, max_size=6))
    pairs = st.tuples(st.sampled_from(sorted(queries)), st.sampled_from(sorted(documents)))
    grades = st.dictionaries(pairs, st.integers(-1000, 1000), min_size=1)
    labels = {split: [(*pair, grade) for pair, grade in draw(grades).items()] for split in ("train", "test")}
    return build_collection("random", documents, queries, labels)


@settings(max_examples=30, deadline=None)
@given(collection=collections())
def test_writing_and_reading_gives_the_same_collection(tmp_path_factory, collection):
    folder = tmp_path_factory.mktemp("round") / "trip"
    write_beir(collection, folder)
    back = read_beir(folder)
    assert back.fingerprint == collection.fingerprint
    for field in ("doc_ids", "titles", "texts", "query_ids", "query_texts"):
        assert list(getattr(back, field)) == list(getattr(collection, field))
    for split, labels in collection.qrels.items():
        for field in ("queries", "offsets", "docs", "grades"):
            np.testing.assert_array_equal(getattr(back.qrels[split], field), getattr(labels, field))


@given(names=st.lists(ids, unique=True))
def test_order_of_positions_is_byte_order_of_ids(names):
    collection = build_collection("order", dict.fromkeys(names, ("", "text")), {}, {})
    assert list(collection.doc_ids) == sorted(names, key=str.encode)


def test_fingerprint_does_not_depend_on_the_order_of_rows(make):
    def turned(content: bytes) -> bytes:
        return b"".join(reversed(content.splitlines(keepends=True)))

    plain = make()
    files = {f: turned((plain / f).read_bytes()) for f in ("corpus.jsonl", "queries.jsonl")}
    labels = (plain / "qrels/test.tsv").read_bytes().splitlines(keepends=True)
    files["qrels/test.tsv"] = b"".join([labels[2], labels[1]])
    assert read_beir(make(files, name="turned")).fingerprint == read_beir(plain).fingerprint


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        ("corpus.jsonl", b"Cats", b"Hats"),
        ("corpus.jsonl", b"purr", b"Purr"),
        ("corpus.jsonl", b'"Cats", "text": "purr"', b'"", "text": "Catspurr"'),
        ("queries.jsonl", b"who purrs", b"what purrs"),
        ("qrels/test.tsv", b"\t2\n", b"\t1\n"),
        ("qrels/train.tsv", b"q1\td1", b"q1\td2"),
    ],
)
def test_fingerprint_notices_every_part(make, file, old, new):
    plain = make()
    changed = (plain / file).read_bytes().replace(old, new)
    assert changed != (plain / file).read_bytes()
    assert read_beir(make({file: changed}, name="changed")).fingerprint != read_beir(plain).fingerprint


def test_fields_of_the_task_are_kept(make):
    collection = read_beir(make(), name="pets", doc_template="{text}", min_grade=2, drop_self=True)
    assert (collection.name, collection.min_grade, collection.drop_self) == ("pets", 2, True)
    assert collection.documents == ["purr", "dogs bark"]
    assert read_beir(make()).documents == ["Cats purr", "dogs bark"]


def test_other_queries_and_labels_can_be_chosen(make):
    extra = {"queries_raw.jsonl": b'{"_id": "q1", "text": "it?"}\n', "qrels_own/dev.tsv": b"q1\td2\t1\n"}
    collection = read_beir(make(extra), queries_file="queries_raw.jsonl", qrels_folder="qrels_own")
    assert list(collection.query_texts) == ["it?"]
    assert list(collection.qrels) == ["dev"]


def test_one_document_and_one_query(make):
    files = {
        "corpus.jsonl": b'{"_id": "d", "title": "", "text": "all there is"}',
        "queries.jsonl": b'{"_id": "q", "text": "what is there"}',
        "qrels/train.tsv": None,
        "qrels/test.tsv": b"q\td\t1",
    }
    collection = read_beir(make(files))
    assert (len(collection.doc_ids), len(collection.query_ids)) == (1, 1)
    docs, grades = collection.split("test").row(0)
    assert (docs.tolist(), grades.tolist()) == ([0], [1])
    with pytest.raises(KeyError, match="it has: test"):
        collection.split("train")


def test_header_is_recognised_and_never_eats_a_label(make):
    headed = read_beir(make())
    bare = read_beir(make({"qrels/test.tsv": b"q2\td2\t2\nq2\td1\t0\n"}, name="bare"))
    assert bare.fingerprint == headed.fingerprint


def test_line_separators_inside_texts_do_not_split_rows(make):
    text = "one\u2028two\x85three\x0bfour"
    row = json.dumps({"_id": "d3", "title": "", "text": text}, ensure_ascii=False).encode()
    collection = read_beir(make({"corpus.jsonl": (make() / "corpus.jsonl").read_bytes() + row}, name="lines"))
    assert collection.texts[2].startswith("one\u2028two\x85three")


def test_export_is_complete_and_replaces_only_collections(make, tmp_path):
    collection = read_beir(make())
    write_beir(collection, tmp_path / "out")
    write_beir(dataclasses.replace(collection, name="again"), tmp_path / "out")
    check_complete(tmp_path / "out")
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "diary.txt").write_text("mine")
    with pytest.raises(OutputExistsError, match="holds no collection"):
        write_beir(collection, tmp_path / "notes")
    with pytest.raises(OutputExistsError, match="choose another"):
        write_beir(collection, make(name="own data"))
    assert (tmp_path / "notes" / "diary.txt").read_text() == "mine"


@pytest.mark.parametrize("template", ["{body}", "{0}", "{text", "{title.x}", "always the same", ""])
def test_bad_templates_are_refused(template):
    with pytest.raises(ConfigError, match="doc_template"):
        check_template(template)


def test_labels_must_name_what_is_there():
    with pytest.raises(DataError, match="not there"):
        build_collection("x", {"d": ("", "t")}, {"q": "t"}, {"test": [("q", "e", 1)]})
    with pytest.raises(DataError, match="both grade 1 and 2"):
        build_collection("x", {"d": ("", "t")}, {"q": "t"}, {"test": [("q", "d", 1), ("q", "d", 2)]})


def test_new_labels_change_the_fingerprint(make):
    collection = read_beir(make())
    assert with_qrels(collection, collection.qrels).fingerprint == collection.fingerprint
    assert with_qrels(collection, {"test": collection.qrels["test"]}).fingerprint != collection.fingerprint
