"""From names to collections: where tasks and folders are looked for, and what is said when they are not there."""

import pytest

from searchtune.data import tasks
from searchtune.data.collection import build_collection
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError
from searchtune.specs.task import TaskSpec
from searchtune.storage.assets import list_assets


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """An empty working directory, and no data home."""
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    monkeypatch.delenv("SEARCHTUNE_DATA", raising=False)


def test_every_shipped_task_loads_under_its_own_name():
    names = list_assets("tasks")
    assert {"pystdlib", "scifact", "nfcorpus", "cranfield", "trec-dl20"} <= set(names)
    for name in names:
        task = load_task(name)
        assert task.name == name
        assert not task.source.startswith("/")
    assert load_task("trec-dl19").min_grade == 2


def test_builtin_prefix_names_the_same_task():
    assert load_task("builtin:pystdlib") == load_task("pystdlib")


def test_unknown_names_are_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="did you mean 'scifact'"):
        load_task("scifcat")


def test_folder_is_a_task(make):
    folder = make()
    task = load_task(str(folder))
    assert (task.name, task.source) == ("set", str(folder))
    assert open_collection(task).name == "set"


def test_source_beside_the_task_file_comes_first(make, tmp_path):
    make(name="corpora/pets")
    file = tmp_path / "corpora" / "mine.yaml"
    file.write_text("name: mine\nsource: pets\nmin_grade: 2\ndoc_template: '{text}'\n")
    collection = open_collection(load_task(str(file)))
    assert (collection.name, collection.min_grade) == ("mine", 2)
    assert collection.documents == ["purr", "dogs bark"]


@pytest.mark.parametrize("place", ["cwd", "home", "cwd/datasets"])
def test_relative_source_is_found(make, tmp_path, monkeypatch, place):
    make(name=f"{place}/beir/pets")
    monkeypatch.setenv("SEARCHTUNE_DATA", str(tmp_path / "home"))
    assert len(open_collection(TaskSpec(name="pets", source="beir/pets")).doc_ids) == 2


def test_missing_public_set_says_how_to_fetch_it():
    with pytest.raises(ConfigError, match="run `searchtune data fetch beir/scifact`"):
        open_collection(load_task("scifact"))


def test_missing_other_set_says_where_to_put_it():
    with pytest.raises(ConfigError, match=r"looked at beir/cisi, datasets/beir/cisi\).*\./datasets/"):
        open_collection(load_task("cisi"))


def test_unknown_builtin_is_answered_with_the_nearest():
    with pytest.raises(ConfigError, match="no built-in collection 'pystdlb'; did you mean 'pystdlib'"):
        open_collection(TaskSpec(name="x", source="builtin:pystdlb"))


def test_builtin_takes_the_fields_of_the_task(monkeypatch):
    made = build_collection("b", {"d": ("T", "t")}, {"q": "t"}, {"test": [("q", "d", 1)]})
    monkeypatch.setitem(tasks._BUILTINS, "pystdlib", lambda: made)
    collection = open_collection(load_task("pystdlib"))
    assert collection.name == "pystdlib"
    assert collection.documents == ["T\nt"]


def test_dev_is_cut_only_where_there_is_none(make):
    queries = b"".join(b'{"_id": "q%d", "text": "word%d"}\n' % (i, i) for i in range(20))
    labels = b"".join(b"q%d\td%d\t1\n" % (i, i % 2 + 1) for i in range(4))
    files = {"queries.jsonl": queries, "qrels/train.tsv": labels, "qrels/test.tsv": b"q19\td1\t1\n"}
    cut = open_collection(TaskSpec(name="x", source=str(make(files)), dev_from_train=0.5))
    assert {split: len(labels) for split, labels in cut.qrels.items()} == {"train": 2, "dev": 2, "test": 1}
    own = make({**files, "qrels/dev.tsv": b"q18\td1\t1\n"}, name="own")
    kept = open_collection(TaskSpec(name="x", source=str(own), dev_from_train=0.5))
    assert {split: len(labels) for split, labels in kept.qrels.items()} == {"train": 4, "dev": 1, "test": 1}


def test_bad_template_is_refused_before_reading():
    with pytest.raises(ConfigError, match=r"only \{title\} and \{text\}"):
        open_collection(TaskSpec(name="x", source="builtin:pystdlib", doc_template="{body}"))


def test_a_task_of_ir_datasets(monkeypatch):
    asked = {}

    def fake(source, **options):
        asked.update(source=source, **options)
        return build_collection("x", {"d": ("", "a cat")}, {"q": "cat"}, {"test": [("q", "d", 1)]})

    monkeypatch.setattr(tasks, "open_irds", fake)
    spec = load_task("irds:beir/scifact/train+beir/scifact/test")
    assert spec.name == "beir-scifact-train-beir-scifact-test"
    assert len(open_collection(spec).split("test")) == 1
    assert (asked["source"], asked["min_grade"]) == (spec.source, 1)


def test_labels_serve_under_the_names_that_the_task_gives(make):
    task = TaskSpec(name="pets", source=str(make()), splits={"dev": "test"})
    whole = open_collection(TaskSpec(name="pets", source=str(make(name="again"))))
    collection = open_collection(task)
    assert list(collection.qrels) == ["dev"]
    assert collection.qrels["dev"].grades.tolist() == whole.qrels["test"].grades.tolist()
    assert collection.fingerprint != whole.fingerprint


@pytest.mark.parametrize(
    ("splits", "message"),
    [
        ({"train": "tset"}, "splits.train names 'tset'; did you mean 'test'"),
        ({"train": "test", "dev": "test"}, "two names"),
    ],
)
def test_labels_that_are_not_there_or_named_twice(make, splits, message):
    with pytest.raises(ConfigError, match=message):
        open_collection(TaskSpec(name="pets", source=str(make()), splits=splits))
