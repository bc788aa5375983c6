"""Every way in which a collection can be broken is found, with file, line, value and remedy."""

import gzip
import importlib
import json

import pytest
from typer.testing import CliRunner

from searchtune.cli.data import app
from searchtune.data.beir import read_beir
from searchtune.data.check import check_folder, write_rejected
from searchtune.data.parse import parse_grade
from searchtune.data.problems import current_policy, row_policy
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import ConfigError, DataError, SearchtuneWarning
from unit.data.sound import SOUND

CORPUS, QUERIES = SOUND["corpus.jsonl"], SOUND["queries.jsonl"]
TRAIN, TEST = SOUND["qrels/train.tsv"], SOUND["qrels/test.tsv"]

ERRORS = [
    ("corpus.jsonl", CORPUS + b'{"_id": "d1", "title": "", "text": "again"}\n', 3, "duplicate-id", "d1"),
    ("queries.jsonl", QUERIES + b'{"_id": "q2", "text": "again"}\n', 3, "duplicate-id", "q2"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "text": "caf\xe9"}\n', 3, "bad-utf8", "0xe9"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "text": "\\ud800"}\n', 3, "bad-utf8", "'\\ud800'"),
    ("queries.jsonl", b"\xff\xfe{\x00}\n" + QUERIES, 1, "bad-utf8", "0xff"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "text": \n', 3, "bad-json", '{"_id": "d3", "text": '),
    ("corpus.jsonl", CORPUS + b'["d3"]\n', 3, "bad-json", '["d3"]'),
    ("corpus.jsonl", CORPUS + b'{"name": "d3", "text": "x"}\n', 3, "missing-key", "_id"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "title": "x"}\n', 3, "missing-key", "text"),
    ("corpus.jsonl", CORPUS + b'{"_id": 3.5, "text": "x"}\n', 3, "wrong-type", "3.5"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "text": null}\n', 3, "wrong-type", "None"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d3", "title": 7, "text": "x"}\n', 3, "wrong-type", "7"),
    ("corpus.jsonl", CORPUS + b'{"_id": "", "text": "x"}\n', 3, "empty-id", ""),
    ("corpus.jsonl", CORPUS + b'{"_id": "d\\t3", "text": "x"}\n', 3, "bad-id", "d\t3"),
    ("corpus.jsonl", CORPUS + b'{"_id": "d\\u20283", "text": "x"}\n', 3, "bad-id", "d\u20283"),
    ("queries.jsonl", QUERIES + b'{"_id": "q3", "text": " \\n"}\n', 3, "empty-query", "q3"),
    ("qrels/test.tsv", TEST + b"q2\tnowhere\t1\n", 4, "dangling-document", "nowhere"),
    ("qrels/test.tsv", TEST + b"q9\td1\t1\n", 4, "dangling-query", "q9"),
    ("qrels/test.tsv", TEST + b"q2 \td1\t1\n", 4, "dangling-query", "q2 "),
    ("qrels/test.tsv", TEST + b"q2\td2\t1\n", 4, "duplicate-label", "q2 d2"),
    ("qrels/test.tsv", TEST + b"q1\td1\n", 4, "bad-row", "q1\td1"),
    ("qrels/test.tsv", b"q2 0 d2 1 x\n" + TEST[23:], 1, "bad-row", "q2 0 d2 1 x"),
    *(
        ("qrels/test.tsv", TEST + b"q1\td2\t%s\n" % grade, 4, "bad-grade", grade.decode())
        for grade in (b"nan", b"NaN", b"inf", b"0.5", b"high", b"", b"1_0", b"1001", b"-1001", b"1e2", "١".encode())
    ),
    ("corpus.jsonl", None, 0, "missing-file", "corpus.jsonl"),
    ("queries.jsonl", None, 0, "missing-file", "queries.jsonl"),
    ("corpus.jsonl", b"", 0, "empty-file", "corpus.jsonl"),
    ("queries.jsonl", b"\n \n", 0, "empty-file", "queries.jsonl"),
    ("qrels/train.tsv", b"", 0, "empty-split", "train"),
    ("qrels/train.tsv", b"query-id\tcorpus-id\tscore\n", 0, "empty-split", "train"),
]


@pytest.mark.parametrize(("file", "content", "line", "kind", "value"), ERRORS)
def test_error_is_named_with_its_place(make, file, content, line, kind, value):
    folder = make({file: content})
    problem = next(p for p in check_folder(folder).problems if p.kind == kind)
    assert (problem.file, problem.line, problem.value) == (file, line, value)
    assert problem.message
    assert problem.remedy
    with pytest.raises(DataError) as caught:
        read_beir(folder)
    assert str(problem) in caught.value.problems
    assert str(problem).startswith(f"{file}:{line}: " if line else f"{file}: ")


WARNINGS = [
    ("corpus.jsonl", b"\xef\xbb\xbf" + CORPUS, 1, "bom"),
    ("queries.jsonl", b"\xef\xbb\xbf" + QUERIES, 1, "bom"),
    ("qrels/test.tsv", b"\xef\xbb\xbf" + TEST, 1, "bom"),
    ("qrels/test.tsv", b"\xef\xbb\xbf" + TEST[25:], 1, "bom"),
    ("corpus.jsonl", CORPUS.replace(b"\n", b"\r\n"), 1, "crlf"),
    ("queries.jsonl", QUERIES.replace(b"\n", b"\r\n"), 1, "crlf"),
    ("qrels/test.tsv", TEST.replace(b"\n", b"\r\n"), 1, "crlf"),
    ("qrels/test.tsv", TEST + b"q2\td2\t2\n", 4, "repeated-label"),
]


@pytest.mark.parametrize(("file", "content", "line", "kind"), WARNINGS)
def test_warning_is_given_and_the_rows_are_read_unharmed(make, file, content, line, kind):
    folder = make({file: content})
    result = check_folder(folder)
    assert [(p.file, p.line, p.kind) for p in result.warnings] == [(file, line, kind)]
    assert result.problems == ()
    assert read_beir(folder).fingerprint == read_beir(make(name="sound")).fingerprint


def test_missing_title_and_empty_document_are_warnings_counted_once(make):
    rows = b"".join(b'{"_id": "e%d", "text": ""}\n' % i for i in range(7))
    result = check_folder(make({"corpus.jsonl": CORPUS + rows}))
    assert [p.kind for p in result.warnings] == ["missing-title", "empty-document"]
    assert result.warnings[1].message == "document with neither title nor text in 7 rows (lines 3, 4, 5, 6, 7, ...)"
    assert result.problems == ()


def test_title_alone_is_a_document(make):
    row = b'{"_id": "d3", "title": "only a title", "text": ""}\n'
    assert check_folder(make({"corpus.jsonl": CORPUS + row})).warnings == ()


def test_white_space_in_ids_is_a_warning_and_kept(make):
    corpus = CORPUS.replace(b'"d1"', b'"d 1"')
    folder = make({"corpus.jsonl": corpus, "qrels/train.tsv": b"q1\td 1\t1\n", "qrels/test.tsv": b"q2\td2\t2\n"})
    assert [p.kind for p in check_folder(folder).warnings] == ["spaced-id"]
    assert list(read_beir(folder).doc_ids) == ["d 1", "d2"]


def test_query_judged_in_two_splits_is_a_warning(make):
    result = check_folder(make({"qrels/test.tsv": TEST + b"q1\td1\t1\n"}))
    assert [(p.kind, p.value) for p in result.warnings] == [("split-overlap", "q1")]


def test_negative_grades_and_hopeless_queries_are_notes(make):
    folder = make({"qrels/train.tsv": b"q1\td1\t-2\nq1\td2\t-1\n"})
    result = check_folder(folder)
    assert [p.kind for p in result.notes if p.kind != "few-queries"] == ["no-relevant", "negative-grade"]
    assert result.problems == result.warnings == ()
    assert read_beir(folder).qrels["train"].grades.tolist() == [-2, -1]


def test_sound_collection_has_no_findings(make):
    result = check_folder(make())
    assert (result.problems, result.warnings) == ((), ())
    assert [(note.kind, note.value) for note in result.notes] == [("few-queries", "1")] * 2
    splits = {"test judged": 1, "test labels": 2, "train judged": 1, "train labels": 1}
    assert result.counts == {"documents": 2, "queries": 2, **splits}


def test_no_labels_at_all_is_an_error(make):
    folder = make({"qrels/train.tsv": None, "qrels/test.tsv": None})
    assert [p.kind for p in check_folder(folder).problems] == ["missing-file"]


def test_missing_folder_is_a_configuration_error(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing: no such folder; expected corpus\.jsonl"):
        check_folder(tmp_path / "nothing")


@pytest.mark.parametrize("rows", [b"q2 0 d2 2\nq2 0 d1 0\n", b"q2\t0\td2\t2\nq2\tQ0\td1\t0\n"])
@pytest.mark.parametrize("file", ["qrels/test.tsv", "qrels/test.txt", "qrels/test.qrels"])
def test_trec_qrels_are_read_beside_a_corpus(make, file, rows):
    folder = make({"qrels/test.tsv": None, file: b"# made by hand\n" + rows})
    assert read_beir(folder).fingerprint == read_beir(make(name="sound")).fingerprint
    assert {"trec-qrels", "comment"} <= {note.kind for note in check_folder(folder).notes}


def test_labels_beside_the_corpus_are_the_test_split(make):
    folder = make({"qrels/test.tsv": None, "qrels/train.tsv": None, "qrels.txt": b"q2 0 d2 1\n"})
    assert list(read_beir(folder).qrels) == ["test"]


def test_two_files_of_one_split_are_an_error(make):
    assert "split-twice" in {p.kind for p in check_folder(make({"qrels/test.txt": b"q2 0 d2 1\n"})).problems}


def test_packed_files_other_ids_and_comments_are_read(make):
    corpus = b"# a comment\n" + CORPUS.replace(b'"_id"', b'"id"')
    packed = {"corpus.jsonl": None, "corpus.jsonl.gz": gzip.compress(corpus), "qrels/test.tsv": None}
    folder = make(
        {**packed, "queries.jsonl": QUERIES.replace(b'"_id"', b'"qid"'), "qrels/test.tsv.gz": gzip.compress(TEST)}
    )
    assert read_beir(folder).fingerprint == read_beir(make(name="sound")).fingerprint


def test_ids_that_are_numbers_are_read_as_their_digits(make):
    corpus = CORPUS.replace(b'"d1"', b"1").replace(b'"d2"', b"2")
    labels = {"qrels/train.tsv": b"q1\t1\t1\n", "qrels/test.tsv": b"q2\t2\t2\nq2\t1\t0\n"}
    folder = make({"corpus.jsonl": corpus, **labels})
    assert list(read_beir(folder).doc_ids) == ["1", "2"]
    assert "whole-id" in {note.kind for note in check_folder(folder).notes}


def test_a_packed_file_that_breaks_off_is_an_error_of_the_user(make):
    packed = gzip.compress(CORPUS * 50)
    with pytest.raises(DataError, match="broken gzip"):
        read_beir(make({"corpus.jsonl": None, "corpus.jsonl.gz": packed[: len(packed) // 2]}))


@pytest.mark.parametrize(("grade", "factor"), [("0.5", "10"), (".25", "100"), ("-1.50", "10")])
def test_decimal_grades_are_told_how_to_become_whole(make, grade, factor):
    problem = check_folder(make({"qrels/test.tsv": TEST + f"q1\td2\t{grade}\n".encode()})).problems[0]
    assert f"multiply all grades by {factor}," in problem.remedy


def test_a_fault_of_all_rows_is_one_line(make):
    rows = b"".join(b'{"doc": "d%d", "text": "x"}\n' % i for i in range(300))
    folder = make(
        {"corpus.jsonl": CORPUS + rows, "qrels/test.tsv": TEST + b"".join(b"q2\tx%d\t1\n" % i for i in range(9))}
    )
    shown = CliRunner().invoke(app, ["check", str(folder)])
    errors = [line for line in shown.output.splitlines() if line.startswith("error:")]
    assert shown.exit_code == 1
    assert len(errors) == 4
    assert "corpus.jsonl:3: key '_id' is missing" in errors[0]
    assert "and 299 more like it (lines 4, 5, 6, 7, 8, ...)" in errors[0]
    assert "'x2' is not in corpus.jsonl" in errors[3]
    assert "and 6 more like it" in errors[3]
    with pytest.raises(DataError, match="309 problems") as caught:
        read_beir(folder)
    assert len(caught.value.problems) == 309


def test_message_shows_the_first_problems_and_carries_all(make):
    folder = make({"queries.jsonl": QUERIES + b"broken\n" * 9})
    with pytest.raises(DataError, match=r"9 problems\nqueries\.jsonl:3: not JSON.*; and 8 more like it") as caught:
        read_beir(folder)
    assert len(caught.value.problems) == 9


def test_rejected_rows_are_written_with_their_reason(make, tmp_path):
    folder = make({"queries.jsonl": QUERIES + b'{"_id": "q3", "text": "caf\xe9"}\n', "qrels/train.tsv": b""})
    assert write_rejected(check_folder(folder), tmp_path / "rejected.jsonl") == 1
    (row,) = map(json.loads, (tmp_path / "rejected.jsonl").read_text().splitlines())
    assert (row["file"], row["line"], row["kind"]) == ("queries.jsonl", 3, "bad-utf8")
    assert row["row"] == '{"_id": "q3", "text": "caf\\xe9"}'
    assert "iconv" in row["remedy"]


def test_rows_are_skipped_only_when_asked(make):
    folder = make({"queries.jsonl": QUERIES + b"broken\n", "qrels/test.tsv": TEST + b"q2\tnowhere\t1\n"})
    with pytest.raises(DataError, match="2 problems"):
        read_beir(folder)
    skipped = read_beir(folder, on_problem="skip")
    assert skipped.fingerprint == read_beir(make(name="sound")).fingerprint


def test_skipping_everything_still_fails(make):
    with pytest.raises(DataError, match="not one usable row"):
        read_beir(make({"corpus.jsonl": b"broken\n"}), on_problem="skip")


@pytest.mark.parametrize(("field", "grade"), [("1", 1), ("1.0", 1), ("+2", 2), ("-1", -1), ("1000", 1000), ("0.", 0)])
def test_whole_grades_are_read(field, grade):
    assert parse_grade(field) == grade


def test_a_policy_around_the_call_leaves_rows_out_and_says_so(make):
    folder = make({"queries.jsonl": QUERIES + b"broken\n"})
    task = load_task(str(folder))
    with (
        row_policy("skip"),
        pytest.warns(SearchtuneWarning, match=r"1 faulty rows or files left out: queries\.jsonl:3"),
    ):
        assert len(open_collection(task).query_ids) == 2
    with pytest.raises(DataError, match="--on-problem skip"):
        open_collection(task)


@pytest.mark.parametrize(
    "command", [("eval", "run"), *((name, "train") for name in ("embed", "rerank", "rewrite", "judge", "answer"))]
)
def test_every_command_that_measures_or_trains_takes_the_policy(command, make, monkeypatch):
    room, verb = command
    module = importlib.import_module(f"searchtune.cli.{room}")
    seen: list[str] = []

    def loaded(*args, **kwargs):
        seen.append(current_policy())
        raise ConfigError("enough")

    for place in ("recipes.load_recipe", "recipes.load_rerank_recipe", "recipes.load_rewrite_recipe"):
        monkeypatch.setattr(f"searchtune.workflows.{place}", loaded)
    for place in ("recipes.load_judge_recipe", "recipes.load_answer_recipe", "evaluate.load_suite"):
        monkeypatch.setattr(f"searchtune.workflows.{place}", loaded)
    for arguments in ([], ["--on-problem", "skip"], []):
        CliRunner().invoke(module.app, [verb, "x", *arguments])
    assert seen == ["fail", "skip", "fail"]


def test_splits_are_named_by_their_files_wherever_these_lie(make):
    folder = make({"qrels/test.v2.tsv": TEST})
    assert set(read_beir(folder).qrels) == {"train", "test", "test.v2"}
    for name in ("train", "test"):
        (folder / "qrels" / f"{name}.tsv").rename(folder / f"{name}.tsv")
    assert set(read_beir(folder, qrels_folder=".").qrels) == {"train", "test"}


def test_a_text_about_the_labels_is_no_split(make):
    result = check_folder(make({"qrels/README.txt": b"Made by hand in spring.\n"}))
    assert result.problems == ()
    assert "README judged" not in result.counts
