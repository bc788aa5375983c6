"""Files and folders of other shapes: which ones are taken is said, and the way there works."""

import json
import re

import pytest

from searchtune.data.beir import read_beir
from searchtune.data.check import check_folder
from searchtune.data.tasks import load_task
from searchtune.errors import ConfigError

ROWS = [{"query": f"question {i}", "positive": f"answer number {i}, of course"} for i in range(20)]
TABLES = {
    "pairs.csv": "query,positive\n" + "".join(f'{row["query"]},"{row["positive"]}"\n' for row in ROWS),
    "pairs.tsv": "query\tpositive\n" + "".join(f"{row['query']}\t{row['positive']}\n" for row in ROWS),
    "pairs.jsonl": "".join(json.dumps(row) + "\n" for row in ROWS),
    "pairs.json": json.dumps(ROWS),
}


@pytest.mark.parametrize("name", TABLES)
def test_a_table_is_named_and_the_way_from_it_works(tmp_path, name):
    file = tmp_path / name
    file.write_text(TABLES[name], encoding="utf-8")
    with pytest.raises(ConfigError, match=r"corpus\.jsonl") as caught:
        load_task(str(file))
    with pytest.raises(ConfigError, match="fields query, positive"):
        check_folder(file)
    lines = re.findall(r"^  (.*)$", str(caught.value), re.MULTILINE)
    exec("\n".join(lines), {})
    made = read_beir(tmp_path / "pairs-beir")
    assert (len(made.doc_ids), len(made.query_ids)) == (20, 20)
    assert {split: len(labels) for split, labels in made.qrels.items()} == {"train": 16, "test": 4}


@pytest.mark.parametrize("name", ["x.parquet", "x.xlsx", "x.csv.gz", "x.txt", "x.zip"])
def test_other_files_are_told_what_is_wanted(tmp_path, name):
    (tmp_path / name).write_bytes(b"PAR1\x00\xff")
    for look in (check_folder, lambda path: load_task(str(path))):
        with pytest.raises(ConfigError, match=r"file.*, where a task is wanted.*corpus\.jsonl"):
            look(tmp_path / name)


def test_a_folder_of_something_else_is_told_what_it_holds(tmp_path):
    (tmp_path / "train.jsonl").write_text(TABLES["pairs.jsonl"])
    for look in (check_folder, lambda path: load_task(str(path))):
        with pytest.raises(ConfigError, match=r"it holds train\.jsonl[\s\S]*write_beir"):
            look(tmp_path)


def test_a_folder_around_a_collection_names_it(tmp_path):
    inner = tmp_path / "scifact"
    inner.mkdir()
    (inner / "corpus.jsonl").write_text("{}")
    with pytest.raises(ConfigError, match=r"but .*scifact is one: name that"):
        check_folder(tmp_path)


def test_a_table_with_the_line_ends_of_old_macs_is_named(tmp_path):
    file = tmp_path / "pairs.csv"
    file.write_bytes(b"query,positive\ra,b\rc,d\r")
    with pytest.raises(ConfigError, match="fields query, positive"):
        check_folder(file)
