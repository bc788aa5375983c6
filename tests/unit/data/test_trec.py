"""TREC and BEIR files of labels and runs: what is read, what is refused with file and line, and round trips."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from searchtune.data import trec
from searchtune.data.named import NamedQrels, NamedRun
from searchtune.data.trec import read_qrels_file, read_trec_run, write_qrels_file, write_trec_run
from searchtune.errors import DataError, StorageError
from searchtune.types import NO_DOC

RUN = "q2 Q0 d1 1 0.9 bm25\nq2 Q0 d10 2 0.9 bm25\nq10 Q0 d2 1 3 bm25\nq2 Q0 d3 3 1e-2 bm25\n"


def put(tmp_path: Path, text: str | bytes, name: str = "a.run") -> Path:
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def ranking(named: NamedRun) -> dict[str, list[tuple[str, float]]]:
    return {
        named.query_ids[query]: [
            (named.doc_ids[d], round(float(s), 6)) for d, s in zip(docs, scores, strict=True) if d != NO_DOC
        ]
        for query, docs, scores in zip(named.run.queries, named.run.docs, named.run.scores, strict=True)
    }


def labels(named: NamedQrels) -> dict[tuple[str, str], int]:
    rows = zip(named.qrels.label_queries, named.qrels.docs, named.qrels.grades, strict=True)
    return {(named.query_ids[q], named.doc_ids[d]): int(grade) for q, d, grade in rows}


def test_run_is_read_with_ids_in_byte_order_and_ties_as_trec_eval_has_them(tmp_path: Path) -> None:
    named = read_trec_run(put(tmp_path, RUN))
    assert (named.tag, list(named.query_ids), list(named.doc_ids)) == ("bm25", ["q10", "q2"], ["d1", "d10", "d2", "d3"])
    assert ranking(named) == {"q10": [("d2", 3.0)], "q2": [("d10", 0.9), ("d1", 0.9), ("d3", 0.01)]}
    assert (named.rank_conflicts, named.warnings) == (0, ())


def test_order_of_lines_and_kind_of_white_space_do_not_matter(tmp_path: Path) -> None:
    shuffled = "\n\n" + "\n".join(reversed(RUN.replace(" ", "\t").splitlines())) + "\n  \n"
    assert ranking(read_trec_run(put(tmp_path, shuffled))) == ranking(read_trec_run(put(tmp_path, RUN, "b.run")))


def test_scores_that_float32_cannot_tell_apart_are_tied(tmp_path: Path) -> None:
    named = read_trec_run(put(tmp_path, "q Q0 a 1 0.30000000001 t\nq Q0 b 2 0.3 t\n"))
    assert [doc for doc, _ in ranking(named)["q"]] == ["b", "a"]


def test_scores_decide_over_ranks_and_the_contradiction_is_counted(tmp_path: Path) -> None:
    text = "q1 Q0 a 2 9 t\nq1 Q0 b 1 5 t\nq2 Q0 a 1 9 t\nq2 Q0 b 2 9 t\nq3 Q0 a 0 1 t\nq3 Q0 b 0 2 t\n"
    named = read_trec_run(put(tmp_path, text))
    assert [doc for doc, _ in ranking(named)["q1"]] == ["a", "b"]
    assert named.rank_conflicts == 1
    assert "a.run: the rank column contradicts the scores of 1 queries" in str(named.warnings[0])


def test_gzip_bom_and_windows_line_ends_are_read_as_meant(tmp_path: Path) -> None:
    windows = b"\xef\xbb\xbf" + RUN.replace("\n", "\r\n").encode()
    plain, packed = put(tmp_path, windows), put(tmp_path, gzip.compress(windows), "packed-without-suffix")
    for path in (plain, packed):
        named = read_trec_run(path)
        assert ranking(named) == ranking(read_trec_run(put(tmp_path, RUN, "b.run")))
        assert {warning.kind for warning in named.warnings} == {"bom", "crlf"}
        assert list(named.query_ids) == ["q10", "q2"]


def test_ids_beyond_ascii_sort_by_byte(tmp_path: Path) -> None:
    named = read_trec_run(put(tmp_path, "q Q0 \U0001f50d 1 1 t\nq Q0 \uff5a 2 1 t\nq Q0 z 3 1 t\n"))
    assert list(named.doc_ids) == sorted(named.doc_ids, key=str.encode)
    assert [doc for doc, _ in ranking(named)["q"]] == ["\U0001f50d", "\uff5a", "z"]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("q Q0 d 1 0.5", r"a\.run:3: 5 columns where 6 belong: 'q Q0 d 1 0.5'; write query-id Q0 document-id"),
        ("q Q0 d 1 0.5 my run", r"a\.run:3: 7 columns where 6"),
        ("q Q0 d 1 nan t", r"a\.run:3: score 'nan' is not a finite number; write a decimal number"),
        ("q Q0 d 1 -inf t", "score '-inf'"),
        ("q Q0 d 1 1e39 t", "score '1e39'"),
        ("q Q0 d 1 1_000 t", "score '1_000'"),
        ("q Q0 d 1 0,5 t", "score '0,5'"),
        ("q Q0 d 0.5 1 t", r"a\.run:3: rank '0.5' is not a whole number; write ranks in the fourth column"),
        ("q1 Q0 d1 7 0.5 t", r"a\.run:3: query 'q1' lists document 'd1' again, after line 1; keep one"),
        ("q Q0 d 1 0.5 other", r"a\.run:3: run tag 'other', after 't' on line 1; write one file a run"),
    ],
)
def test_broken_rows_are_refused_with_file_line_value_and_remedy(tmp_path: Path, row: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_trec_run(put(tmp_path, f"q1 Q0 d1 1 2.5 t\n\n{row}\n"))


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"a\.run:2: not UTF-8: byte 0xe9 at position 5 of the line; re-encode"):
        read_trec_run(put(tmp_path, b"q Q0 d 1 2.5 t\nq Q0 \xe9 2 1 t\n"))


@pytest.mark.parametrize("content", [b"", b"\n \n", gzip.compress(b"", mtime=0)])
def test_files_without_rows(tmp_path: Path, content: bytes) -> None:
    for read in (read_trec_run, read_qrels_file):
        with pytest.raises(DataError, match=r"a\.run: no row in it; check that whatever wrote it"):
            read(put(tmp_path, content))


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing\.run: cannot be read \(No such file"):
        read_trec_run(tmp_path / "nothing.run")
    with pytest.raises(DataError, match="cannot be read"):
        read_qrels_file(tmp_path)
    with pytest.raises(DataError, match="broken gzip file"):
        read_trec_run(put(tmp_path, gzip.compress(RUN.encode())[:-12]))


def test_many_errors_are_counted_and_five_are_shown(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"\.\.\. and 4 more") as caught:
        read_trec_run(put(tmp_path, "q Q0 d\n" * 9))
    assert len(caught.value.problems) == 9
    assert len(str(caught.value).splitlines()) == 6


def test_parts_of_a_file_make_one_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = ranking(read_trec_run(put(tmp_path, RUN)))
    for lines in (1, 2, 3):
        monkeypatch.setattr(trec, "_LINES", lines)
        assert ranking(read_trec_run(put(tmp_path, f"\n{RUN}"))) == whole
        with pytest.raises(DataError, match="a.run:7: query 'q2' lists document 'd1' again, after line 2"):
            read_trec_run(put(tmp_path, f"\n{RUN}\nq2 Q0 d1 9 0 bm25"))


TREC_QRELS = "q2 0 d1 2\nq10 0 d2 -1\nq2 0 d10 0\n"
BEIR_QRELS = "query-id\tcorpus-id\tscore\nq2\td1\t2\nq10\td2\t-1\nq2\td10\t0\n"


@pytest.mark.parametrize(
    "text",
    [
        TREC_QRELS,
        TREC_QRELS.replace(" ", "\t"),
        BEIR_QRELS,
        BEIR_QRELS.partition("\n")[2],
        BEIR_QRELS.replace("2\n", "2.0\r\n"),
        "\ufeff" + BEIR_QRELS,
    ],
)
def test_qrels_are_read_in_every_layout(tmp_path: Path, text: str) -> None:
    named = read_qrels_file(put(tmp_path, text))
    assert labels(named) == {("q2", "d1"): 2, ("q10", "d2"): -1, ("q2", "d10"): 0}
    assert list(named.query_ids) == ["q10", "q2"]


def test_ids_with_spaces_can_be_read_where_tabs_part_the_columns(tmp_path: Path) -> None:
    assert labels(read_qrels_file(put(tmp_path, "a query\ta doc\t1\n"))) == {("a query", "a doc"): 1}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "q 0 d 1\nq 0 e 0.5\n",
            r"a\.run:2: grade '0.5' is not a whole number from -1000 to 1000; multiply all grades by 10,",
        ),
        ("q 0 d high\n", "write 0 for not relevant"),
        ("q\td\t1\nq\te\tyes\n", r"a\.run:2: grade 'yes'"),
        ("q 0 d 1\nq d 1\n", r"a\.run:2: 3 columns where 4 belong: 'q d 1'; write query-id 0 document-id grade, or"),
        ("q\td\t1\nq\t\t1\n", r"a\.run:2: an empty column"),
        ("q 0 d 1\n\nq 0 d 2\n", r"a\.run:3: label 'q d' has grade 2 here and 1 on line 1; keep one of the two"),
        ("query-id\tcorpus-id\tscore\n", "no row in it"),
    ],
)
def test_broken_labels_are_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_qrels_file(put(tmp_path, text))


def test_label_given_twice_with_one_grade_counts_once(tmp_path: Path) -> None:
    named = read_qrels_file(put(tmp_path, "q 0 d 1\nq 0 e 0\nq 0 d 1\nq 0 d 1\n"))
    assert labels(named) == {("q", "d"): 1, ("q", "e"): 0}
    assert str(named.warnings[0]).endswith("repeated with the same grade in 2 rows (lines 3, 4); remove the repetition")


@pytest.mark.parametrize("name", ["b.run", "b.run.gz"])
def test_written_run_is_read_as_the_same_run(tmp_path: Path, name: str) -> None:
    rng = np.random.default_rng(1)
    scores = {
        f"q{q}": {
            f"d{int(d)}": float(np.float32(rng.normal() * 10.0 ** rng.integers(-30, 30))) for d in rng.choice(50, q)
        }
        for q in range(1, 12)
    }
    named = NamedRun.from_dicts("mine", scores)
    write_trec_run(tmp_path / name, named)
    again = read_trec_run(tmp_path / name)
    assert again.tag == "mine"
    assert (again.query_ids, again.doc_ids) == (named.query_ids, named.doc_ids)
    assert np.array_equal(again.run.docs, named.run.docs)
    assert np.array_equal(again.run.scores, named.run.scores)
    assert again.rank_conflicts == 0
    first = (tmp_path / name).read_bytes()
    write_trec_run(tmp_path / name, again)
    assert (tmp_path / name).read_bytes() == first
    assert first.startswith(b"\x1f\x8b") == name.endswith(".gz")


@pytest.mark.parametrize("layout", ["trec", "beir"])
def test_written_labels_are_read_as_the_same_labels(tmp_path: Path, layout: str) -> None:
    named = NamedQrels.from_dicts({"q2": {"d1": 2, "d10": 0}, "q10": {"d2": -1}})
    write_qrels_file(tmp_path / "a.qrels.gz", named, layout=layout)
    assert labels(read_qrels_file(tmp_path / "a.qrels.gz")) == labels(named)


def test_what_a_trec_file_cannot_hold_is_not_written(tmp_path: Path) -> None:
    for query, doc, tag in (("a b", "d", "t"), ("q", "d\u00a0e", "t"), ("q", "", "t"), ("q", "d", "my run")):
        with pytest.raises(DataError, match="empty or holds white space"):
            write_trec_run(tmp_path / "a.run", NamedRun.from_dicts(tag, {query: {doc: 1.0}}))
    with pytest.raises(DataError, match="query id 'a b'"):
        write_qrels_file(tmp_path / "a.run", NamedQrels.from_dicts({"a b": {"d": 1}}))
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        write_trec_run(tmp_path / "file" / "a.run", NamedRun.from_dicts("t", {"q": {"d": 1.0}}))


def test_comments_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "a.run"
    file.write_text("# made by hand\nq Q0 d 1 2.0 t\n#\n#q Q0 d 1 2.0 t\n")
    run = read_trec_run(file)
    assert (run.query_ids, run.doc_ids) == (["#q", "q"], ["d"])
    file.write_text("# query 0 document grade of the pool\nq 0 d 1\n")
    assert read_qrels_file(file).query_ids == ["q"]
