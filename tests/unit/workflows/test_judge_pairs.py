"""Where a judge's pairs come from: a file, a task's labels, its runs, their holes, its negatives; and what is refused."""

import gzip
import json

import numpy as np
import pytest

import support
from searchtune.data.judging import UNJUDGED
from searchtune.errors import ConfigError, DataError
from searchtune.specs.base import parse_spec
from searchtune.specs.judge import PairSource
from searchtune.workflows.judge_pairs import fingerprint_of, open_pairs
from unit.workflows.judging import write_rows


def source(**keys):
    return parse_spec(
        PairSource, {name: str(it) if name in ("file", "task") else it for name, it in keys.items()}, "test"
    )


@pytest.fixture(scope="module")
def task(tmp_path_factory):
    return support.write_collection(tmp_path_factory.mktemp("pairs") / "tiny")


def write_run(path, docs, queries=("q48", "q49")):
    lines = [f"{query} Q0 {doc} {i} {9 - i} tag\n" for query in queries for i, doc in enumerate(docs)]
    path.write_text("".join(lines))
    return str(path)


def test_a_file_is_found_in_the_data_folder_too(tmp_path, monkeypatch):
    write_rows(tmp_path / "pairs.jsonl", others=True)
    (tmp_path / "pairs.jsonl.gz").write_bytes(gzip.compress((tmp_path / "pairs.jsonl").read_bytes()))
    whole = open_pairs(source(file=tmp_path / "pairs.jsonl", judges_field="judges"), top=3)
    monkeypatch.setenv("SEARCHTUNE_DATA", str(tmp_path))
    packed = open_pairs(source(file="pairs.jsonl.gz", judges_field="judges"), top=3)
    assert len(whole) == 48 and list(whole.others) == ["llm"]
    assert fingerprint_of(whole) == fingerprint_of(packed)
    with pytest.raises(ConfigError, match=r"no file of pairs 'other\.jsonl' \(looked at .*set SEARCHTUNE_DATA"):
        open_pairs(source(file="other.jsonl"), top=3)


def test_a_tasks_documents_are_written_as_the_judge_was_trained_to_read_them(task):
    plain = open_pairs(source(task=task), top=3)
    trained = open_pairs(source(task=task), top=3, doc_template="{text} ({title})")
    titles = {name: title for name, (title, _) in support.documents().items()}
    assert plain.doc_ids == trained.doc_ids
    assert all(text.endswith(f"({titles[name]})") for name, text in zip(trained.doc_ids, trained.passages, strict=True))


def test_the_fingerprint_sees_every_change(tmp_path):
    file = write_rows(tmp_path / "pairs.jsonl")
    before, text = fingerprint_of(open_pairs(source(file=file), top=3)), file.read_text()
    assert fingerprint_of(open_pairs(source(file=file, grade_field=None), top=3)) != before
    for old, new in (("question 1", "question x"), ('"d1-2"', '"d1-x"'), ("passage 2 of 1", "passage x")):
        file.write_text(text.replace(old, new))
        assert fingerprint_of(open_pairs(source(file=file), top=3)) != before
    file.write_text("".join(reversed(text.splitlines(keepends=True))))
    assert fingerprint_of(open_pairs(source(file=file), top=3)) == before, "the order of rows does not matter"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", r"p\.jsonl: no usable pair in it"),
        ("{\n", r"p\.jsonl:1: "),
        ('{"query_id": "q", "query": "x", "doc_id": "d", "passage": "y", "human": 4}\n', r"p\.jsonl:1: .*4.*0 to 3"),
        ('{"query_id": "q", "query": "x", "doc_id": "d", "passage": "y", "human": NaN}\n', r"p\.jsonl:1: "),
        ('{"query_id": "q", "query": " ", "doc_id": "d", "passage": "y", "human": 1}\n', r"p\.jsonl:1: .*has no text"),
        ('{"query_id": "q", "query": "x", "doc_id": "d", "human": 1}\n', r"p\.jsonl:1: .*passage"),
    ],
)
def test_broken_rows_are_named_with_file_and_line(tmp_path, text, words):
    (tmp_path / "p.jsonl").write_text(text)
    with pytest.raises(DataError, match=words):
        open_pairs(source(file=tmp_path / "p.jsonl"), top=3)


def test_one_pair_with_two_grades_is_refused_and_a_repeated_one_told(tmp_path):
    row = {"query_id": "q", "query": "x", "doc_id": "d", "passage": "y", "human": 1}
    file = tmp_path / "p.jsonl"
    file.write_text(json.dumps(row) + "\n" + json.dumps(row) + "\n")
    pairs = open_pairs(source(file=file), top=3)
    assert len(pairs) == 1 and pairs.warnings[0].kind == "repeated-pair"
    file.write_text(json.dumps(row) + "\n" + json.dumps({**row, "human": 2}) + "\n")
    with pytest.raises(DataError, match=r"p\.jsonl:2: pair 'q d' has grade 2 here and 1 on line 1; keep one"):
        open_pairs(source(file=file), top=3)


def test_a_task_gives_its_labels(task):
    pairs = open_pairs(source(task=task, split="test"), top=3)
    expected = {(q.id, doc): grade for q in support.queries() if q.split == "test" for doc, grade in q.grades.items()}
    assert {pairs.ids(i): int(pairs.grades[i]) for i in range(len(pairs))} == expected
    with pytest.raises(DataError, match="people's grades go up to 2, the rubric's to 1; choose a rubric"):
        open_pairs(source(task=task), top=1)
    with pytest.raises(ConfigError, match="has no split 'tst'; did you mean 'test'"):
        open_pairs(source(task=task, split="tst"), top=3)


def test_negatives_are_unlabelled_documents_at_grade_0(task):
    labels = open_pairs(source(task=task), top=3)
    pairs = open_pairs(source(task=task, negatives=3), top=3)
    known = {labels.ids(i) for i in range(len(labels))}
    fresh = [i for i in range(len(pairs)) if pairs.ids(i) not in known]
    assert len(pairs) == len(labels) + 12 * 3 and len(fresh) == 36
    assert set(pairs.grades[fresh].tolist()) == {0}


def test_limits_take_the_same_queries_every_time(task):
    few = open_pairs(source(task=task, max_queries=4), top=3)
    more = open_pairs(source(task=task, max_queries=5), top=3)
    assert len(few.query_ids) == 4 and set(few.query_ids) < set(more.query_ids)
    assert len(open_pairs(source(task=task, max_queries=1), top=3).query_ids) == 1


def test_runs_give_their_top_and_holes_what_nobody_judged(task, tmp_path):
    docs = list(support.documents())
    first, second = write_run(tmp_path / "a", docs[:6]), write_run(tmp_path / "b", docs[4:10])
    pool = open_pairs(source(task=task, runs=[first, second], depth=5), top=3)
    assert len(pool) == 2 * 9
    holes = open_pairs(source(task=task, runs=[first, second], depth=5, holes=True), top=3)
    assert (holes.grades == UNJUDGED).all()
    judged = {pool.ids(i) for i in np.flatnonzero(pool.grades != UNJUDGED)}
    assert {holes.ids(i) for i in range(len(holes))} == {pool.ids(i) for i in range(len(pool))} - judged
    own = {q.id: list(q.grades) for q in support.queries() if q.split == "test"}
    full = write_run(tmp_path / "full", own["q48"], queries=("q48",))
    with pytest.raises(DataError, match=r"no pair to judge \(no holes\)"):
        open_pairs(source(task=task, runs=[full], holes=True), top=3)


def test_a_run_with_documents_that_the_corpus_lacks_is_named(task, tmp_path):
    run = write_run(tmp_path / "strange.run", ["sea-0", "nowhere-7"])
    with pytest.raises(DataError, match="nowhere-7"):
        open_pairs(source(task=task, runs=[run]), top=3)
    with pytest.raises(DataError, match=r"none\.run: cannot be read"):
        open_pairs(source(task=task, runs=[str(tmp_path / "none.run")]), top=3)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "either a `file` of pairs or a `task`"),
        ({"file": "a", "task": "b"}, "either a `file` of pairs or a `task`"),
        ({"file": "a", "runs": ["r"]}, "belong to a `task`"),
        ({"task": "a", "holes": True}, "name at least one"),
        ({"task": "a", "runs": ["r"], "negatives": 1}, "not with `runs`"),
        ({"task": "a", "depth": 0}, "depth"),
    ],
)
def test_a_source_that_makes_no_sense_is_named(keys, words):
    with pytest.raises(ConfigError, match=words):
        source(**keys)
