"""Pairs for a judge: what is read and refused, pools and holes, samples and splits; judgments as files."""

import gzip
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.clean_text import clean
from searchtune.data.collection import build_collection
from searchtune.data.judge_samples import balanced_sample, even_sample
from searchtune.data.judging import (
    UNJUDGED,
    PairFields,
    holes,
    joined_pairs,
    pairs_of_labels,
    pairs_of_run,
    pairs_of_runs,
    read_pairs,
    split_by_query,
    with_prefix,
)
from searchtune.data.judgments import (
    judgment_qrels,
    read_judgments,
    with_grades,
    write_judgment_qrels,
    write_judgments,
)
from searchtune.data.named import run_in_collection
from searchtune.data.trec import read_qrels_file, read_trec_run
from searchtune.errors import ConfigError, DataError
from searchtune.types import Judgment, Qrels, Run

ROW = {"query_id": "q1", "query": "why tides?", "doc_id": "d1", "passage": "The moon pulls.", "human": 2}


def put(tmp_path, rows, name="pairs.jsonl"):
    path = tmp_path / name
    text = "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    return path


def table(pairs):
    return {(*pairs.ids(i), *pairs.texts(i)): int(pairs.grades[i]) for i in range(len(pairs))}


def many(tmp_path, queries=20, docs=12):
    rows = [
        {
            **ROW,
            "query_id": f"q{q}",
            "query": f"{'abcdefghijklmnopqrstuvwxyz'[q]} topic{q} word{q}",
            "doc_id": f"d{q}-{d}",
            "human": (q + d) % 4 if d else None,
        }
        for q in range(queries)
        for d in range(docs)
    ]
    return read_pairs(put(tmp_path, rows))


def test_pairs_are_read_by_query_and_document_whatever_their_order(tmp_path):
    rows = [
        {**ROW, "query_id": 10, "doc_id": "d2", "passage": "two " * 5000, "human": None, "llm": {"a": 3, "b": None}},
        {**ROW, "llm": {"a": 0, "c": 1}},
        {**ROW, "doc_id": "d2", "passage": "two " * 5000, "human": 1.0, "llm": {}},
    ]
    pairs = read_pairs(put(tmp_path, rows, "pairs.jsonl.gz"), PairFields(others="llm"))
    assert [pairs.ids(i) for i in range(3)] == [("10", "d2"), ("q1", "d1"), ("q1", "d2")]
    assert pairs.texts(1) == ("why tides?", "The moon pulls.")
    assert (list(pairs.query_ids), list(pairs.doc_ids), len(pairs.passages)) == (["10", "q1"], ["d1", "d2"], 2)
    assert pairs.grades.tolist() == [UNJUDGED, 2, 1]
    assert {name: grades.tolist() for name, grades in pairs.others.items()} == {
        "a": [3, 0, -1],
        "b": [-1, -1, -1],
        "c": [-1, 1, -1],
    }
    assert table(read_pairs(put(tmp_path, rows[::-1]))) == table(pairs)


def test_byte_order_mark_windows_line_ends_and_blank_lines_are_read_as_meant(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(ROW).encode() + b"\r\n\r\n")
    pairs = read_pairs(path)
    assert len(pairs) == 1
    assert [problem.kind for problem in pairs.warnings] == ["bom", "blank-line"]


def test_fields_of_other_names(tmp_path):
    path = put(tmp_path, [{"topic": 7, "title": "q", "pid": "p", "text": "t", "rel": 9}])
    fields = PairFields("topic", "title", "pid", "text", "rel")
    assert table(read_pairs(path, fields, top=9)) == {("7", "p", "q", "t"): 9}
    assert read_pairs(path, PairFields("topic", "title", "pid", "text", None)).grades.tolist() == [UNJUDGED]
    with pytest.raises(DataError, match=r"pairs\.jsonl:1: key 'query_id' is missing; known: pid, rel, text"):
        read_pairs(path)


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r"pairs\.jsonl:2: not JSON"),
        ("[1]", r":2: a JSON list and no object"),
        ("[" * 100_000, ":2: not JSON"),
        ({**ROW, "human": 4}, r":2: 'human' is 4, which is no grade from 0 to 3; write a whole number, or null"),
        ({**ROW, "human": 1.5}, "'human' is 1.5"),
        ({**ROW, "human": "2"}, "'human' is \"2\""),
        ({**ROW, "human": True}, "'human' is true"),
        ({**ROW, "human": -1}, "'human' is -1"),
        (json.dumps(ROW).replace(": 2}", ": NaN}"), "NaN is no number of JSON"),
        (json.dumps(ROW).replace(": 2}", ": 1e999}"), "1e999 is more than a number can hold"),
        (json.dumps(ROW).replace(": 2}", ": 1" + "0" * 400 + "}"), "'human' is 1000"),
        (
            {key: value for key, value in ROW.items() if key != "human"} | {"humna": 1},
            "'human' is missing; did you mean 'humna'",
        ),
        ({**ROW, "query": "  "}, "query 'q1' has no text"),
        ({**ROW, "query": None}, "'query' is null, which is not a string"),
        ({**ROW, "passage": "\ud800"}, "half a surrogate pair"),
        ({**ROW, "query_id": ""}, "'query_id' is ''"),
        ({**ROW, "doc_id": "a\tb"}, "control character"),
        ({**ROW, "doc_id": 1.5}, "which is not a string"),
        ({**ROW, "query": "another"}, r"query 'q1' has another text than on line 1; give one of them another id"),
        ({**ROW, "query_id": "q2", "passage": "other"}, "document 'd1' has another text than on line 1"),
        ({**ROW, "human": 1}, r":2: pair 'q1 d1' has grade 1 here and 2 on line 1; keep one of the two"),
        ({**ROW, "human": None}, "grade none here and 2 on line 1"),
    ],
)
def test_rows_that_cannot_be_used(tmp_path, row, message):
    good = {**ROW, "query_id": "q9", "doc_id": "d9"}
    path = put(tmp_path, [ROW, row, good])
    with pytest.raises(DataError, match=message) as error:
        read_pairs(path)
    assert len(error.value.problems) == 1
    pairs = read_pairs(path, on_problem="skip")
    assert [pairs.ids(i) for i in range(len(pairs))] == [("q1", "d1"), ("q9", "d9")]
    assert len([problem for problem in pairs.warnings if problem.severity == "error"]) == 1


def test_repeated_pairs_and_empty_passages_are_warned_of(tmp_path):
    pairs = read_pairs(put(tmp_path, [ROW, ROW, ROW, {**ROW, "doc_id": "d2", "passage": " "}]))
    assert len(pairs) == 2
    assert {problem.kind for problem in pairs.warnings} == {"repeated-pair", "empty-passage"}
    assert "in 2 rows (lines 2, 3)" in str(next(p for p in pairs.warnings if p.kind == "repeated-pair"))


def test_files_that_hold_nothing_or_are_torn(tmp_path):
    for rows in ([], [""], ["{"]):
        with pytest.raises(DataError, match=r"no usable pair in it|not JSON"):
            read_pairs(put(tmp_path, rows), on_problem="skip")
    with pytest.raises(DataError, match="cannot be read"):
        read_pairs(tmp_path / "nothing.jsonl")
    path = put(tmp_path, [{**ROW, "doc_id": f"d{i}", "passage": f"{i * 7919}"} for i in range(5000)], "x.jsonl.gz")
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(DataError, match=r"x\.jsonl\.gz:\d+: .*end-of-stream.*fetch or write it again"):
        read_pairs(path)
    assert 100 < len(read_pairs(path, on_problem="skip")) < 5000
    path.write_bytes(b"\x1f\x8bnonsense")
    with pytest.raises(DataError, match="broken gzip file"):
        read_pairs(path)
    path.write_bytes(json.dumps(ROW).encode() + b"\n\xe9\n")
    with pytest.raises(DataError, match=r":2: not UTF-8: byte 0xe9 at position 0"):
        read_pairs(path)


@pytest.fixture
def small():
    documents = {f"d{i}": (f"t{i}", f"text {i}") for i in range(6)}
    queries = {"q0": "zero", "q1": "one", "q2": "two"}
    return build_collection("small", documents, queries, {"test": [("q0", "d0", 2), ("q0", "d1", -1), ("q1", "d2", 0)]})


def run_of(rows):
    return Run(
        np.array(list(rows)),
        np.array(list(rows.values())),
        np.zeros((len(rows), len(next(iter(rows.values())))), np.float32),
    )


def test_pairs_of_labels_take_the_collections_texts(small):
    pairs = pairs_of_labels(small, small.split("test"))
    assert table(pairs) == {
        ("q0", "d0", "zero", "t0 text 0"): 2,
        ("q0", "d1", "zero", "t1 text 1"): UNJUDGED,
        ("q1", "d2", "one", "t2 text 2"): 0,
    }
    assert list(pairs.doc_ids) == ["d0", "d1", "d2"]


def test_pairs_of_runs_go_down_to_the_depth_and_count_once(small):
    one = run_of({0: [3, 0, 4], 2: [1, -1, -1]})
    two = run_of({0: [4, 3, 0], 1: [2, 0, 5]})
    labels = small.split("test")
    assert [pairs_of_run(small, one, 2).ids(i) for i in range(3)] == [("q0", "d0"), ("q0", "d3"), ("q2", "d1")]
    pool = pairs_of_runs(small, [one, two], 2, labels)
    found = {pool.ids(i): int(pool.grades[i]) for i in range(len(pool))}
    assert found == {
        ("q0", "d0"): 2,
        ("q0", "d3"): -1,
        ("q0", "d4"): -1,
        ("q1", "d0"): -1,
        ("q1", "d2"): 0,
        ("q2", "d1"): -1,
    }
    empty = holes(small, [one, two], labels, 2)
    assert [empty.ids(i) for i in range(len(empty))] == [("q0", "d3"), ("q0", "d4"), ("q1", "d0")]
    assert len(holes(small, [run_of({0: [0]})], labels, 5)) == 0
    assert len(pairs_of_runs(small, [], 5)) == 0
    with pytest.raises(ConfigError, match="depth 0"):
        pairs_of_run(small, one, 0)


def test_a_run_from_a_file_is_judged_without_any_labels(tmp_path, small):
    path = tmp_path / "a.run"
    path.write_text("q2 Q0 d5 1 2.0 t\nq2 Q0 d1 2 1.0 t\nq0 Q0 d3 1 1.0 t\n")
    run, skipped = run_in_collection(small, read_trec_run(path))
    pairs = pairs_of_run(small, run, 1)
    assert ([pairs.ids(i) for i in range(len(pairs))], skipped) == ([("q0", "d3"), ("q2", "d5")], 0)
    path.write_text("q2 Q0 d5 1 2.0 t\nq2 Q0 nothing 2 3.0 t\nq9 Q0 d3 1 1.0 t\n")
    with pytest.raises(DataError, match="such as 'q9' and 1 documents that the collection lacks, such as 'nothing'"):
        run_in_collection(small, read_trec_run(path))
    run, skipped = run_in_collection(small, read_trec_run(path), on_unknown="skip")
    assert ([pairs_of_run(small, run, 5).ids(0), len(pairs_of_run(small, run, 5))], skipped) == ([("q2", "d5"), 1], 2)


def test_grades_beyond_one_character_are_refused(small):
    labels = Qrels.from_triples(np.array([0]), np.array([0]), np.array([10]))
    with pytest.raises(DataError, match="grade 10: a judge's grades go from 0 to 9"):
        pairs_of_labels(small, labels)
    with pytest.raises(DataError, match="grade 10"):
        pairs_of_run(small, run_of({0: [0]}), 1, labels)


def test_a_balanced_sample_is_even_spread_and_the_same_for_a_seed(tmp_path):
    pairs = many(tmp_path)
    sample = balanced_sample(pairs, 20, seed=3)
    assert np.bincount(sample.grades).tolist() == [20, 20, 20, 20]
    for grade in range(4):
        assert len(np.unique(sample.queries[sample.grades == grade])) == 20
    assert table(sample) == table(balanced_sample(pairs, 20, seed=3)) != table(balanced_sample(pairs, 20, seed=4))
    assert table(sample).items() <= table(pairs).items()
    assert (balanced_sample(pairs, 10_000, seed=0).grades != UNJUDGED).sum() == (pairs.grades != UNJUDGED).sum()
    assert len(balanced_sample(pairs.select(pairs.grades == UNJUDGED), 5, seed=0)) == 0
    with pytest.raises(ConfigError, match="at least 1"):
        balanced_sample(pairs, 0, seed=0)


def test_an_even_sample_has_as_many_relevant_as_other_pairs_of_every_query(tmp_path):
    pairs = many(tmp_path)
    sample = even_sample(pairs, 4, 2, seed=3)
    for query in range(len(sample.query_ids)):
        own = sample.grades[sample.queries == query]
        assert 0 < (own >= 2).sum() == (own < 2).sum() <= 2
    assert table(sample).items() <= table(pairs).items()
    assert table(sample) == table(even_sample(pairs, 4, 2, seed=3)) != table(even_sample(pairs, 4, 2, seed=4))
    everything = even_sample(pairs, 10_000, 2, seed=0)
    for grade in (0, 1):  # the larger side gives of each of its grades alike
        assert (everything.grades == grade).sum() > 0
    assert len(even_sample(pairs.select(pairs.grades >= 2), 4, 2, seed=0)) == 0
    with pytest.raises(ConfigError, match="at least 2"):
        even_sample(pairs, 1, 2, seed=0)


def test_prefixed_sets_can_be_joined(tmp_path):
    pairs = many(tmp_path)
    joined = joined_pairs([pairs, with_prefix(pairs, "1:")])
    assert len(joined) == 2 * len(pairs)
    assert sorted(one.removeprefix("1:") for one in joined.query_ids) == sorted([*pairs.query_ids] * 2)
    with pytest.raises(DataError, match="two of the sets"):
        joined_pairs([pairs, pairs])


def test_parts_share_no_query_and_hold_their_shares(tmp_path):
    pairs = many(tmp_path)
    parts = split_by_query(pairs, {"train": 0.6, "dev": 0.1, "test": 0.3})
    assert [len(part.query_ids) for part in parts.values()] == [12, 2, 6]
    ids = [name for part in parts.values() for name in part.query_ids]
    assert sorted(ids) == list(pairs.query_ids)
    assert sum(map(len, parts.values())) == len(pairs)
    again = split_by_query(pairs, {"train": 0.6, "dev": 0.1, "test": 0.3})
    assert {name: table(part) for name, part in parts.items()} == {name: table(part) for name, part in again.items()}
    assert (
        split_by_query(pairs, {"a": 0.5, "b": 0.5}, seed=1)["a"].query_ids
        != split_by_query(pairs, {"a": 0.5, "b": 0.5})["a"].query_ids
    )


def test_queries_that_are_nearly_the_same_stay_together(tmp_path):
    rows = [
        {**ROW, "query_id": f"q{i}", "query": "What causes the tides?" if i % 2 else f"unlike number{i} word{i}"}
        for i in range(12)
    ]
    parts = split_by_query(read_pairs(put(tmp_path, rows)), {"a": 0.5, "b": 0.5})
    assert [{"What causes the tides?"} <= set(part.query_texts) for part in parts.values()].count(True) == 1


def test_parts_that_cannot_be(tmp_path):
    pairs = read_pairs(put(tmp_path, [ROW]))
    for shares in ({}, {"a": 0.5}, {"a": 1.5, "b": -0.5}, {"a": 1.0, "b": 0.0}, {"a": float("nan")}):
        with pytest.raises(ConfigError, match="together they make 1"):
            split_by_query(pairs, shares)
    with pytest.raises(DataError, match="gets none of 1 queries"):
        split_by_query(pairs, {"a": 0.5, "b": 0.5})
    assert len(split_by_query(pairs, {"all": 1.0})["all"]) == 1
    nothing = pairs.select(np.zeros(1, dtype=bool))
    with pytest.raises(DataError, match="none of 0 queries"):
        split_by_query(nothing, {"all": 1.0})


ids = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=5)
grades = st.none() | st.integers(0, 3)


@st.composite
def judgments(draw):
    shares = draw(st.none() | st.lists(st.floats(0.01, 1), min_size=4, max_size=4))
    probabilities = None if shares is None else tuple(share / sum(shares) for share in shares)
    return Judgment(
        draw(ids),
        draw(ids),
        draw(grades),
        probabilities,
        draw(st.none() | st.text(st.characters(codec="utf-8"), max_size=9).map(clean)),
    )


@settings(deadline=None, max_examples=50)
@given(st.lists(judgments(), unique_by=lambda one: (one.query_id, one.doc_id), max_size=6))
def test_judgments_are_read_back_as_they_were(tmp_path_factory, written):
    path = tmp_path_factory.mktemp("judgments") / "all.jsonl.gz"
    write_judgments(path, written)
    assert read_judgments(path) == written


def test_a_line_of_a_judgment_holds_all_that_others_need(tmp_path):
    path = tmp_path / "j.jsonl"
    write_judgments(path, [Judgment("q", "d", 1, (0.25, 0.5, 0.25)), Judgment("q", "e", None, None, "empty reply")])
    first, second = map(json.loads, path.read_text().splitlines())
    assert first == {
        "query_id": "q",
        "doc_id": "d",
        "grade": 1,
        "probabilities": [0.25, 0.5, 0.25],
        "expected": 1.0,
        "reason": None,
    }
    assert (second["grade"], second["expected"], second["reason"]) == (None, None, "empty reply")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"probabilities": [0.5, 0.6]}, "'probabilities' is .0.5, 0.6., which is no list of shares"),
        ({"probabilities": [1.0]}, "no list of shares"),
        ({"probabilities": "x"}, "no list of shares"),
        ({"probabilities": [True, False]}, "no list of shares"),
        ({"probabilities": [0.5, 0.5]}, "grade 2 and a distribution over 2 grades"),
        ({"grade": 10}, "'grade' is 10"),
        ({"grade": "2"}, "'grade' is \"2\""),
        ({"reason": 3}, "'reason' is 3"),
        ({"grade": 1}, r":2: pair 'q d' was judged on line 1; keep one of the two"),
    ],
)
def test_judgments_that_cannot_be_used(tmp_path, change, message):
    row = {"query_id": "q", "doc_id": "d", "grade": 2}
    path = put(tmp_path, [row, {**row, **change}, row])
    with pytest.raises(DataError, match=message):
        read_judgments(path)
    assert read_judgments(path, on_problem="skip") == [Judgment("q", "d", 2)]


def test_qrels_leave_out_what_has_no_grade_and_say_how_many(tmp_path):
    said = [Judgment("q", "d", 2), Judgment("q", "e", None, reason="empty reply"), Judgment("p", "d", 0)]
    assert write_judgment_qrels(tmp_path / "qrels.txt", said) == 1
    assert (tmp_path / "qrels.txt").read_text() == "p 0 d 0\nq 0 d 2\n"
    assert len(read_qrels_file(tmp_path / "qrels.txt").qrels.docs) == 2
    with pytest.raises(DataError, match="has two grades, 2 and 1"):
        judgment_qrels([*said, Judgment("q", "d", 1)])
    with pytest.raises(DataError, match="none of 1 judgments has a grade"):
        judgment_qrels(said[1:2])
    with pytest.raises(DataError, match="white space"):
        write_judgment_qrels(tmp_path / "x.txt", [Judgment("q 1", "d", 2)])


def test_grades_find_their_pairs(tmp_path):
    pairs = read_pairs(put(tmp_path, [ROW, {**ROW, "doc_id": "d2"}, {**ROW, "doc_id": "d3", "human": None}]))
    changed = with_grades(pairs, [Judgment("q1", "d3", 0), Judgment("q1", "d1", None), Judgment("q1", "d2", 3)])
    assert (changed.grades.tolist(), pairs.grades.tolist()) == ([2, 3, 0], [2, 2, -1])
    with pytest.raises(DataError, match="1 judgments are of other pairs, such as query 'q9' document 'd1'"):
        with_grades(pairs, [Judgment("q9", "d1", 0)])
