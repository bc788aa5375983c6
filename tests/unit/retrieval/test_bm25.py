"""BM25: against its formula, and queries or collections with nothing in them."""

import math

import numpy as np
import pytest

from searchtune.errors import ArtifactError, ConfigError
from searchtune.retrieval.bm25 import BM25Index, kept_bm25
from searchtune.retrieval.exact import ExactIndex
from searchtune.retrieval.store import load_index, save_index
from searchtune.types import NO_DOC

DOCUMENTS = ["harbour tide sail", "tide tide pool crab", "violin tempo choir", "sail sail sail harbour wind rain"]


def by_hand(query):
    """Lucene's BM25, k1 1.5, b 0.75."""
    documents = [text.split() for text in DOCUMENTS]
    average = sum(map(len, documents)) / len(documents)
    scores = []
    for words in documents:
        total = 0.0
        for word in query.split():
            have = sum(word in other for other in documents)
            often = words.count(word)
            idf = math.log(1 + (len(documents) - have + 0.5) / (have + 0.5))
            total += idf * often / (often + 1.5 * (1 - 0.75 + 0.75 * len(words) / average))
        scores.append(total)
    return scores


def search(texts, depth=10, **options):
    return BM25Index(DOCUMENTS).search(np.arange(len(texts)), texts, depth, **options)


def found(run, row=0):
    return [doc for doc in run.docs[row].tolist() if doc != NO_DOC]


@pytest.mark.parametrize("query", ["tide", "sail harbour", "violin rain tide"])
def test_scores(query):
    run, expected = search([query]), by_hand(query)
    order = sorted((doc for doc in range(4) if expected[doc] > 0), key=lambda doc: -expected[doc])
    assert found(run) == order
    assert run.scores[0, : len(order)] == pytest.approx([expected[doc] for doc in order], rel=1e-4)


def test_documents_without_a_word_of_the_query_are_not_returned():
    run = search(["violin", "tide"])
    assert found(run) == [2]
    assert found(run, 1) == [1, 0]
    assert np.isneginf(run.scores[run.docs == NO_DOC]).all()


@pytest.mark.parametrize("query", ["xylophone", "the of and", "", "?!"])
def test_a_query_without_known_words(query):
    run = search([query, "violin"])
    assert found(run) == []
    assert found(run, 1) == [2]
    assert found(search([query])) == []


def test_excluded_documents():
    assert found(search(["tide"], exclude=np.array([1, 1]))) == [0]
    assert found(search(["tide"], 1, exclude=np.array([1]))) == [0]
    assert search(["tide"], exclude=np.arange(4)).docs.shape == (1, 0)
    assert found(search(["tide"], exclude=np.zeros(0, np.int64))) == [1, 0]


def test_depth():
    assert found(search(["tide"], 1)) == [1]
    assert search([], 3).docs.shape == (0, 0)


def test_one_document():
    run = BM25Index(["harbour tide"]).search(np.array([5]), ["tide"], 100)
    assert (run.queries.tolist(), found(run)) == ([5], [0])


@pytest.mark.parametrize("documents", [["the of"], ["", ""], ["?"]])
def test_a_collection_without_words(documents):
    assert found(BM25Index(documents).search(np.array([0]), ["tide"], 10)) == []


@pytest.mark.parametrize(("k1", "b"), [(0.9, 0.4), (0.0, 0.0), (2.0, 1.0)])
def test_k1_and_b(k1, b):
    run = BM25Index(["tide tide pool", "tide sail sail sail sail"], k1=k1, b=b).search(np.array([0]), ["tide"], 2)
    idf = math.log(1 + 0.5 / 2.5)
    by_doc = [idf * n / (n + k1 * (1 - b + b * length / 4)) for n, length in ((2, 3), (1, 5))]
    assert sorted(run.scores[0].tolist()) == pytest.approx(sorted(by_doc), rel=1e-4)


def test_stop_words_and_stemmer():
    def cut(words):
        return [word.rstrip("s") for word in words]

    texts = ["the sails", "the tides"]
    assert found(BM25Index(texts).search(np.array([0]), ["the"], 2)) == []
    assert len(found(BM25Index(texts, stop_words=None).search(np.array([0]), ["the"], 2))) == 2
    assert found(BM25Index(texts, stop_words=["tides"]).search(np.array([0]), ["tides"], 2)) == []
    assert found(BM25Index(texts).search(np.array([0]), ["tide"], 2)) == []
    assert found(BM25Index(texts, stemmer=cut).search(np.array([0]), ["tide"], 2)) == [1]


@pytest.mark.parametrize("method", ["lucene", "robertson", "atire"])
def test_variants_return_no_document_without_a_word_of_the_query(method):
    run = BM25Index(DOCUMENTS, method=method).search(np.array([0]), ["violin"], 4)
    assert found(run) == [2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"k1": -0.1}, "k1 -0.1"),
        ({"k1": math.nan}, "k1 nan"),
        ({"b": 1.5}, "b 1.5"),
        ({"method": "bm25+"}, "unknown BM25 variant 'bm25\\+'; known: atire, lucene, robertson"),
        ({"stop_words": "klingon"}, "stop words 'klingon'"),
    ],
)
def test_wrong_options(options, message):
    with pytest.raises(ConfigError, match=message):
        BM25Index(DOCUMENTS, **options)


@pytest.mark.parametrize("documents", [DOCUMENTS, ["", "the"], ["harbour tide"]])
@pytest.mark.parametrize("mmap", [True, False])
def test_the_same_answers_after_loading(documents, mmap, tmp_path):
    index = BM25Index(documents, k1=0.9, stop_words=["sail"])
    index.save(tmp_path / "index", "aa11")
    loaded = BM25Index.load(tmp_path / "index", "aa11", mmap=mmap)
    for exclude in (None, np.array([0])):
        runs = [each.search(np.arange(2), ["tide sail", "harbour"], 3, exclude=exclude) for each in (index, loaded)]
        assert runs[0].docs.tolist() == runs[1].docs.tolist()
        assert runs[0].scores.tobytes() == runs[1].scores.tobytes()


def test_an_index_of_something_else(tmp_path):
    BM25Index(DOCUMENTS).save(tmp_path / "index", "aa11")
    with pytest.raises(ArtifactError, match="fingerprint aa11, and bb22 is asked for"):
        BM25Index.load(tmp_path / "index", "bb22")
    with pytest.raises(ArtifactError, match="without a stemmer: pass none"):
        BM25Index.load(tmp_path / "index", "aa11", stemmer=list)
    with pytest.raises(ArtifactError, match="not an index of this searchtune"):
        load_index(tmp_path / "index", "aa11")
    BM25Index(DOCUMENTS, stemmer=list).save(tmp_path / "index", "aa11")
    with pytest.raises(ArtifactError, match="with a stemmer: pass the same one"):
        BM25Index.load(tmp_path / "index", "aa11")
    save_index(ExactIndex(np.eye(3, dtype=np.float32)), tmp_path / "dense", "aa11")
    with pytest.raises(ArtifactError, match="kind 'exact', not bm25"):
        BM25Index.load(tmp_path / "dense", "aa11")


def test_a_kept_index_is_made_once_and_ranks_alike(tmp_path, monkeypatch):
    first = kept_bm25(DOCUMENTS, tmp_path / "bm25")
    monkeypatch.setattr("bm25s.BM25.index", None)  # cannot be called
    again = kept_bm25(DOCUMENTS, tmp_path / "bm25")
    queries, texts = np.arange(2), [DOCUMENTS[0], DOCUMENTS[-1]]
    one, other = (index.search(queries, texts, 3) for index in (first, again))
    assert one.docs.tolist() == other.docs.tolist()
    assert one.scores.tolist() == other.scores.tolist()
    assert first.build_seconds == again.build_seconds > 0


def test_a_kept_index_of_other_documents_is_another_one(tmp_path):
    kept_bm25(DOCUMENTS, tmp_path)
    assert kept_bm25([*DOCUMENTS, "one more text"], tmp_path).documents == len(DOCUMENTS) + 1
    assert kept_bm25([], tmp_path).documents == 0
    assert kept_bm25([], tmp_path).empty
    assert len(list(tmp_path.iterdir())) == 3


@pytest.mark.parametrize("harm", ["cut", "changed", "unmarked"])
def test_a_damaged_kept_index_is_made_again(tmp_path, harm):
    kept_bm25(DOCUMENTS, tmp_path)
    (folder,) = tmp_path.iterdir()
    if harm == "unmarked":
        (folder / "COMPLETE.json").unlink()
    for file in folder.glob("*.npy" if harm != "unmarked" else "none"):
        content = file.read_bytes()
        file.write_bytes(content[:-1] if harm == "cut" else content[:-1] + bytes([content[-1] ^ 1]))
    assert kept_bm25(DOCUMENTS, tmp_path).documents == len(DOCUMENTS)
    assert BM25Index.load(folder, folder.name).documents == len(DOCUMENTS)


def test_the_oldest_kept_indexes_go(tmp_path, monkeypatch):
    monkeypatch.setattr("searchtune.retrieval.bm25._KEPT", 2)
    (tmp_path / ".half.tmp-1").mkdir()
    for number in range(4):
        kept_bm25([f"text number {number}"], tmp_path)
    assert len([one for one in tmp_path.iterdir() if not one.name.startswith(".")]) == 2
    assert (tmp_path / ".half.tmp-1").is_dir()


def test_an_index_that_cannot_be_kept_is_made_all_the_same(tmp_path):
    (tmp_path / "file").write_text("no folder")
    assert kept_bm25(DOCUMENTS, tmp_path / "file").documents == len(DOCUMENTS)
