"""Human and LLM labels of TREC Deep Learning as they are: counts, and that what is handed out comes back.

The files are looked for in `$SEARCHTUNE_DATA`, then in `../shared/data` beside the repository; absent ones are skipped.
"""

import os
from pathlib import Path

import numpy as np
import pytest

from searchtune.data.beir import read_beir
from searchtune.data.human_labels import read_human_labels, write_for_labelling
from searchtune.data.judge_samples import balanced_sample
from searchtune.data.judging import (
    UNJUDGED,
    PairFields,
    pairs_of_labels,
    read_pairs,
    split_by_query,
)
from searchtune.data.judgments import read_judgments, with_grades, write_judgment_qrels, write_judgments
from searchtune.data.trec import read_qrels_file
from searchtune.types import Judgment

HOME = Path(os.environ.get("SEARCHTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")
GRADES = {"dl19": (43, [5158, 1601, 1804, 697]), "dl20": (54, [7780, 1940, 1020, 646])}


def labelled(name):
    path = HOME / "jsonl" / "judge" / f"{name}_human_vs_llm.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name}: set SEARCHTUNE_DATA to a folder that holds jsonl/judge/")
    return read_pairs(path, PairFields(others="llm"))


@pytest.mark.parametrize("name", GRADES)
def test_pairs_are_read_whole_and_split_without_common_queries(name):
    pairs = labelled(name)
    queries, counts = GRADES[name]
    assert (len(pairs.query_ids), np.bincount(pairs.grades).tolist(), pairs.warnings) == (queries, counts, ())
    assert {len(grades) for grades in pairs.others.values()} == {len(pairs)}
    assert not (pairs.others["umbrela_gpt4o"] == UNJUDGED).any()
    parts = split_by_query(pairs, {"train": 0.6, "dev": 0.1, "test": 0.3})
    assert sum(len(part.query_ids) for part in parts.values()) == queries
    sample = balanced_sample(pairs, 100, seed=1)
    assert np.bincount(sample.grades).tolist() == [100] * 4
    assert len(sample.query_ids) == queries


@pytest.mark.slow
@pytest.mark.parametrize("form", ["labels.csv", "labels.json", "labels.jsonl.gz"])
def test_labels_survive_every_file(tmp_path, form):
    pairs = balanced_sample(labelled("dl19"), 50, seed=1)
    said = [Judgment(*pairs.ids(i), int(pairs.others["umbrela_gpt4o"][i])) for i in range(len(pairs))]
    write_judgments(tmp_path / "said.jsonl", said)
    assert read_judgments(tmp_path / "said.jsonl") == said
    assert write_judgment_qrels(tmp_path / "qrels.txt", said) == 0
    assert len(read_qrels_file(tmp_path / "qrels.txt").qrels.docs) == len(said)
    assert with_grades(pairs, said).grades.tolist() == pairs.others["umbrela_gpt4o"].tolist()
    write_for_labelling(tmp_path / form, pairs, ("0", "1", "2", "3"), judgments=said)
    assert read_human_labels(tmp_path / form, ("0", "1", "2", "3"), pairs=pairs).unlabelled == len(pairs)


def test_a_collections_labels_are_the_same_pairs():
    folder = HOME / "beir" / "trec-dl19"
    if not folder.is_dir():
        pytest.skip("no trec-dl19: set SEARCHTUNE_DATA to a folder that holds beir/trec-dl19")
    collection = read_beir(folder)
    pairs = pairs_of_labels(collection, collection.split("test"))
    assert len(pairs.query_ids) == 43
    assert np.bincount(pairs.grades).tolist() == GRADES["dl19"][1]
