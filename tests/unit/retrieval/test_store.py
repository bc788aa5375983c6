"""Saved indexes: the same answers after loading, and no answer for another encoder or from a damaged folder."""

import json

import numpy as np
import pytest

from searchtune.errors import ArtifactError, OutputExistsError
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.faiss_index import Factory, FaissIndex, Flat, Gpus, Hnsw, Ivf, Sq
from searchtune.retrieval.store import load_index, save_index
from searchtune.storage.marker import MARKER_FILE, mark_complete

KINDS = [None, Flat(), Ivf(4, 2), Hnsw(8), Sq(), Factory("PCA4,Flat")]
DOCUMENTS = np.random.default_rng(0).standard_normal((200, 8), dtype=np.float32)
QUERIES, ASKED = np.arange(5), np.random.default_rng(1).standard_normal((5, 8), dtype=np.float32)


def make(kind):
    return ExactIndex(DOCUMENTS) if kind is None else FaissIndex(DOCUMENTS, kind, gpus=Gpus(count=0))


@pytest.fixture
def saved(tmp_path):
    save_index(make(None), tmp_path / "index", "aa11")
    return tmp_path / "index"


@pytest.mark.parametrize("mmap", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_same_answers_after_loading(kind, mmap, tmp_path):
    index = make(kind)
    save_index(index, tmp_path / "index", "aa11")
    loaded = load_index(tmp_path / "index", "aa11", mmap=mmap)
    for exclude in (None, np.array([3, 50])):
        expected, found = (each.search(QUERIES, ASKED, 7, exclude=exclude) for each in (index, loaded))
        assert found.docs.tolist() == expected.docs.tolist()
        assert found.scores.tobytes() == expected.scores.tobytes()
    facts = ("documents", "kind", "bytes", "build_seconds", "exact")
    assert [getattr(loaded, fact) for fact in facts] == [getattr(index, fact) for fact in facts]


def test_vectors_stay_on_disk(saved):
    assert isinstance(load_index(saved, "aa11").vectors, np.memmap)
    assert not isinstance(load_index(saved, "aa11", mmap=False).vectors, np.memmap)


def test_another_fingerprint(saved):
    with pytest.raises(ArtifactError, match=r"fingerprint aa11, and bb22 is asked for.*Build the index again"):
        load_index(saved, "bb22")


def test_a_complete_index_is_replaced_and_anything_else_stays(saved):
    save_index(make(Flat()), saved, "bb22")
    assert load_index(saved, "bb22").kind == "flat"
    assert not (saved / "vectors.npy").exists()
    (saved / MARKER_FILE).unlink()
    with pytest.raises(OutputExistsError):
        save_index(make(None), saved, "aa11")
    with pytest.raises(ArtifactError, match="never finished"):
        load_index(saved, "bb22")


def test_damage(saved):
    content = (saved / "vectors.npy").read_bytes()
    (saved / "vectors.npy").write_bytes(content[:-1] + b"x")
    load_index(saved, "aa11")
    with pytest.raises(ArtifactError, match="sha256"):
        load_index(saved, "aa11", mmap=False)
    (saved / "vectors.npy").write_bytes(content[:-1])
    with pytest.raises(ArtifactError, match="bytes where"):
        load_index(saved, "aa11")
    (saved / "vectors.npy").unlink()
    with pytest.raises(ArtifactError, match="missing"):
        load_index(saved, "aa11")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("index.json", b"{", "cannot be read as JSON"),
        ("index.json", b"[]", "not an object but a JSON list"),
        ("index.json", b'{"fingerprint": "aa11", "kind": "annoy", "settings": {}}', "not an index of this searchtune"),
        ("index.json", b'{"fingerprint": "aa11", "kind": "exact", "documents": 3}', "200 documents where"),
        ("vectors.npy", b"nonsense", "cannot be read as an npy array"),
    ],
)
def test_whole_folders_that_make_no_sense(name, content, message, saved):
    (saved / name).write_bytes(content)
    mark_complete(saved)
    with pytest.raises(ArtifactError, match=message):
        load_index(saved, "aa11")


def test_a_faiss_file_that_faiss_cannot_read(tmp_path):
    save_index(make(Flat()), tmp_path / "index", "aa11")
    (tmp_path / "index" / "index.faiss").write_bytes(b"nonsense")
    mark_complete(tmp_path / "index")
    with pytest.raises(ArtifactError, match="FAISS cannot read it"):
        load_index(tmp_path / "index", "aa11")


def test_pickled_objects_are_refused(saved):
    np.save(saved / "vectors.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    mark_complete(saved)
    with pytest.raises(ArtifactError, match="cannot be read as an npy array"):
        load_index(saved, "aa11", mmap=False)


def test_the_fingerprint_is_in_the_folder(saved):
    assert json.loads((saved / "index.json").read_text())["fingerprint"] == "aa11"
