"""People's labels: handed out and read back in every form, half done or broken."""

import csv
import gzip
import io
import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from searchtune.data.human_labels import label_studio_config, read_human_labels, write_for_labelling
from searchtune.data.judging import JudgePairs
from searchtune.errors import ConfigError, DataError
from searchtune.types import Judgment

LABELS = ("0", "1", "2", "3")
FORMS = ("a.jsonl", "a.csv", "a.json", "a.jsonl.gz", "a.csv.gz", "a.json.gz")


def make(query_ids, doc_ids, passages=None):
    query_ids, doc_ids = sorted(query_ids), sorted(doc_ids)
    queries, docs = np.divmod(np.arange(len(query_ids) * len(doc_ids)), len(doc_ids))
    texts = passages or [f"passage {doc}" for doc in doc_ids]
    return JudgePairs(
        query_ids, [f"query {q}" for q in query_ids], doc_ids, texts, queries, docs, np.full(len(queries), -1)
    )


PAIRS = make(
    ["q1", "=2+3"],
    ["0012", "-1", "@a", "'=x"],
    ["", 'a "quoted", text;\nwith lines\n\n', "\u2028 <b>ü</b> \t", "long " * 5000],
)


def raw(path):
    data = path.read_bytes()
    return (gzip.decompress(data) if path.suffix == ".gz" else data).decode("utf-8-sig")


def fill(path, labels):
    """Write labels into a file that was handed out, as people and their tools do."""
    if ".json" in path.suffixes:
        tasks = json.loads(raw(path))
        for task, label in zip(tasks, labels, strict=True):
            choice = {"from_name": "grade", "to_name": "passage", "type": "choices", "value": {"choices": [label]}}
            task["annotations"] = [] if label is None else [{"id": 1, "was_cancelled": False, "result": [choice]}]
        text = json.dumps(tasks)
    elif ".csv" in path.suffixes:
        rows = list(csv.DictReader(io.StringIO(raw(path), newline="")))
        out = io.StringIO(newline="")
        writer = csv.DictWriter(out, rows[0].keys(), delimiter=";")
        writer.writeheader()
        writer.writerows({**row, "grade": label or ""} for row, label in zip(rows, labels, strict=True))
        text = out.getvalue()
    else:
        rows = [json.loads(line) for line in raw(path).split("\n") if line]
        text = "".join(json.dumps({**row, "grade": label}) + "\n" for row, label in zip(rows, labels, strict=True))
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


@pytest.mark.parametrize("name", FORMS)
def test_labels_come_back_to_their_pairs_and_open_ones_are_counted(tmp_path, name):
    path = tmp_path / name
    write_for_labelling(path, PAIRS, LABELS)
    untouched = read_human_labels(path, LABELS, pairs=PAIRS)
    assert (untouched.judgments, untouched.unlabelled, untouched.problems) == ((), 8, ())
    fill(path, ["0", "3", None, None, "2", None, None, "1"])
    found = read_human_labels(path, LABELS, pairs=PAIRS)
    assert found.judgments == tuple(Judgment(*PAIRS.ids(i), grade) for i, grade in [(0, 0), (1, 3), (4, 2), (7, 1)])
    assert (found.unlabelled, found.problems) == (4, ())


@settings(deadline=None, max_examples=40)
@given(
    st.sets(
        st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Zl", "Zp")), min_size=1, max_size=6).filter(
            str.strip
        ),
        min_size=1,
        max_size=4,
    ),
    st.text(st.characters(codec="utf-8"), max_size=20),
    st.sampled_from(FORMS),
    st.lists(st.none() | st.sampled_from(LABELS), min_size=4, max_size=4),
)
def test_any_ids_and_texts_survive_every_form(tmp_path_factory, doc_ids, text, name, labels):
    path = tmp_path_factory.mktemp("labels") / name
    pairs = make(["q"], doc_ids, [text] * len(doc_ids))
    write_for_labelling(path, pairs, LABELS)
    fill(path, labels[: len(doc_ids)])
    found = read_human_labels(path, LABELS, pairs=pairs)
    expected = [Judgment(*pairs.ids(i), int(label)) for i, label in enumerate(labels[: len(doc_ids)]) if label]
    assert sorted(found.judgments, key=str) == sorted(expected, key=str)


def test_a_judges_labels_are_there_to_agree_with(tmp_path):
    said = [
        Judgment(*PAIRS.ids(0), 2, (0.1, 0.1, 0.7, 0.1)),
        Judgment(*PAIRS.ids(1), None, None, "empty reply"),
        Judgment(*PAIRS.ids(2), 0),
    ]
    for name in ("a.jsonl", "a.csv", "a.json"):
        write_for_labelling(tmp_path / name, PAIRS, LABELS, judgments=said, judge="tuned")
    first, second, third = json.loads(raw(tmp_path / "a.json"))[:3]
    choice = {"from_name": "grade", "to_name": "passage", "type": "choices", "value": {"choices": ["2"]}}
    assert first["predictions"] == [{"model_version": "tuned", "score": 0.7, "result": [choice]}]
    assert first["data"] == {"query_id": "=2+3", "doc_id": "'=x", "query": "query =2+3", "passage": ""}
    assert "predictions" not in second
    assert "score" not in third["predictions"][0]
    assert [json.loads(line).get("judge") for line in raw(tmp_path / "a.jsonl").split("\n")[:3]] == ["2", None, "0"]
    rows = list(csv.DictReader(io.StringIO(raw(tmp_path / "a.csv"), newline="")))
    assert [row["judge"] for row in rows[:3]] == ["2", "", "0"]
    assert all(not cell.startswith(("=", "+", "-", "@")) for row in rows for cell in row.values()), "no formula"
    assert (tmp_path / "a.csv").read_bytes().startswith(b"\xef\xbb\xbfquery_id,")
    assert read_human_labels(tmp_path / "a.json", LABELS).judgments == (), "a prediction is no label"
    with pytest.raises(ConfigError, match="grade 2, and the labels are"):
        write_for_labelling(tmp_path / "b.csv", PAIRS, ("no", "yes"), judgments=said)


def test_the_interface_of_a_project_names_every_grade():
    root = ElementTree.fromstring(label_studio_config(("no", "yes"), ('says "no" & <nothing>', "helps")))
    assert [choice.attrib for choice in root.iter("Choice")] == [
        {"value": "no", "hint": 'says "no" & <nothing>'},
        {"value": "yes", "hint": "helps"},
    ]
    assert root.find("Choices").attrib["name"] == "grade"
    assert root.find("Text").attrib["value"] == "$passage"


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ('{"query_id": "q1", "doc_id": "0012", "grade": "4"}', r":2: label \"4\" is not one of 0, 1, 2, 3; correct it"),
        ('{"query_id": "q1", "doc_id": "0012", "grade": 4}', r":2: 'grade' is 4, which is no grade from 0 to 3"),
        ('{"query_id": "q1", "doc_id": "0012", "grade": "2.5"}', "2.5"),
        ('{"query_id": "q1", "doc_id": "0012", "grade": true}', "label true"),
        ('{"query_id": "q1", "doc_id": "0012", "grade": ["2"]}', "is not one of"),
        ('{"query_id": "q1", "doc_id": "0012"}', "key 'grade' is missing"),
        (
            '{"query_id": "q1", "doc_id": "12", "grade": "1"}',
            "not among the pairs that were handed out; .*import these columns as text",
        ),
        (
            '{"query_id": "q1", "doc_id": "-1", "grade": "1"}',
            r"pair 'q1 -1' has label '1' here and '2' at 1; settle it",
        ),
        ('{"query_id": "q1", "doc', ":2: not JSON"),
    ],
)
def test_what_cannot_be_used_is_told_and_all_else_kept(tmp_path, row, message):
    path = tmp_path / "x.jsonl"
    path.write_text(
        f'{{"query_id": "q1", "doc_id": "-1", "grade": 2}}\n{row}\n{{"query_id": "q1", "doc_id": "@a", "grade": "3.0"}}\n'
    )
    with pytest.raises(DataError, match=message):
        read_human_labels(path, LABELS, pairs=PAIRS)
    found = read_human_labels(path, LABELS, pairs=PAIRS, on_problem="skip")
    assert found.judgments == (Judgment("q1", "-1", 2), Judgment("q1", "@a", 3))
    assert len(found.problems) == 1


def test_a_pair_that_is_labelled_later_in_the_file_is_not_open(tmp_path):
    path = tmp_path / "x.jsonl"
    path.write_text(
        '{"query_id": "q", "doc_id": "d", "grade": ""}\n{"query_id": "q", "doc_id": "d", "grade": " YES "}\n' * 2
    )
    found = read_human_labels(path, ("no", "yes"))
    assert (found.judgments, found.unlabelled) == ((Judgment("q", "d", 1),), 0)


def test_csv_of_spreadsheets(tmp_path):
    path = tmp_path / "x.csv"
    for text in (
        '\ufeffquery_id;doc_id;Grade;passage\r\nq;d;2,0;"a;b\nc"\r\n\r\nq;e;;x\r\n',
        'passage\tgrade\tdoc_id\tquery_id\n"x\n\ny"\t2\td\tq\nz\t\te\tq\n',
    ):
        path.write_text(text, newline="")
        found = read_human_labels(path, LABELS)
        assert (found.judgments, found.unlabelled, found.problems) == ((Judgment("q", "d", 2),), 1, ())
    path.write_text('query_id,doc_id,passage,grade\nq,d,"a\n\nb",2\nq,e,x,9\n')
    with pytest.raises(DataError, match=r"x\.csv:5: label \"9\""):
        read_human_labels(path, LABELS)


@pytest.mark.parametrize(
    ("tail", "message"),
    [
        ('q,e,1,"torn text', r"broken CSV \(unexpected end of data\)"),
        ("q,e,1,a,b\n", r"x\.csv:3: 5 cells where the header has 4; put texts that hold the separator in quotes"),
        ("q,e\n", ":3: 2 cells"),
        ("q,,1,a\n", ":3: 'doc_id' is ''"),
    ],
)
def test_broken_csv(tmp_path, tail, message):
    path = tmp_path / "x.csv"
    path.write_text(f"query_id,doc_id,grade,passage\nq,d,2,text\n{tail}")
    with pytest.raises(DataError, match=message):
        read_human_labels(path, LABELS)
    assert read_human_labels(path, LABELS, on_problem="skip").judgments == (Judgment("q", "d", 2),)


def test_csv_without_the_columns(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("query_id,document,grade\nq,d,2\n")
    with pytest.raises(DataError, match=r"x\.csv:1: no column 'doc_id'; did you mean 'document'|known"):
        read_human_labels(path, LABELS)
    path.write_text("")
    assert read_human_labels(path, LABELS).judgments == ()


def test_exports_of_label_studio(tmp_path):
    def annotation(*choices, **more):
        value = {"choices": list(choices)}
        return {
            "result": [
                {"from_name": "grade", "type": "choices", "value": value},
                {"from_name": "note", "value": {"text": ["x"]}},
            ],
            **more,
        }

    def task(doc, *annotations):
        return {"id": 7, "data": {"query_id": "q", "doc_id": doc}, "annotations": list(annotations)}

    path = tmp_path / "x.json"
    path.write_text(
        json.dumps(
            [task("a", annotation("2"), annotation("2")), task("b", annotation("1", was_cancelled=True)), task("c")]
        )
    )
    found = read_human_labels(path, LABELS)
    assert (found.judgments, found.unlabelled) == ((Judgment("q", "a", 2),), 2)
    path.write_text(
        json.dumps(
            [task("a", annotation("2"), annotation("3")), task("b", annotation("9")), task("c", annotation("0"))]
        )
    )
    with pytest.raises(DataError, match=r"pair 'q a' has label '3' here and '2' at 1") as error:
        read_human_labels(path, LABELS)
    assert 'x.json:2: label "9"' in error.value.problems[1]
    assert read_human_labels(path, LABELS, on_problem="skip").judgments == (
        Judgment("q", "a", 2),
        Judgment("q", "c", 0),
    )
    path.write_text(
        json.dumps([{"query_id": "q", "doc_id": "a", "grade": "1", "annotator": 1}, {"query_id": "q", "doc_id": "b"}])
    )
    assert read_human_labels(path, LABELS).judgments == (Judgment("q", "a", 1),)
    for text, message in (
        ("{}", "not a list of tasks"),
        ("[1, null]", "task 1 is no task"),
        ("[", "not JSON"),
        ('[{"data": 3}]', "no task"),
    ):
        path.write_text(text)
        with pytest.raises(DataError, match=message):
            read_human_labels(path, LABELS)
    path.write_text(
        json.dumps([{"data": {"query_id": "q", "doc_id": "a"}, "annotations": 3}, task("b", 3, {"result": 4})])
    )
    assert read_human_labels(path, LABELS).unlabelled == 2


def test_names_that_say_no_form(tmp_path):
    for call in (
        lambda: read_human_labels(tmp_path / "x.xlsx", LABELS),
        lambda: write_for_labelling(tmp_path / "x", PAIRS, LABELS),
    ):
        with pytest.raises(ConfigError, match="end it in .jsonl, .csv or .json"):
            call()
