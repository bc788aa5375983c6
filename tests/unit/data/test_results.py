"""Result files in MTEB's form."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from searchtune.data.results import RetrievalResult, mteb_name, read_result, write_result
from searchtune.errors import ConfigError, DataError

RESULT = RetrievalResult(
    task_name="SciFact",
    scores={"test": {"ndcg@10": 0.64508123, "map@100": 0.6, "recall@100": 0.9, "hit@1": 0.5}},
    dataset_revision="abc",
    evaluation_time=1.5,
)


def test_written_as_mteb_has_it(tmp_path: Path) -> None:
    path = write_result(RESULT, tmp_path / "model" / "revision")
    assert path.name == "SciFact.json"
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "dataset_revision": "abc",
        "task_name": "SciFact",
        "mteb_version": None,
        "scores": {
            "test": [
                {
                    "ndcg_at_10": 0.645081,
                    "map_at_100": 0.6,
                    "recall_at_100": 0.9,
                    "hit_rate_at_1": 0.5,
                    "main_score": 0.645081,
                    "hf_subset": "default",
                    "languages": ["eng-Latn"],
                }
            ]
        },
        "evaluation_time": 1.5,
        "kg_co2_emissions": None,
    }


def test_read_back(tmp_path: Path) -> None:
    again = read_result(write_result(RESULT, tmp_path))
    assert again.scores["test"] == pytest.approx(RESULT.scores["test"], abs=1e-6)
    assert replace(again, scores=RESULT.scores) == RESULT
    other = replace(RESULT, main_metric="map@100")
    assert read_result(write_result(other, tmp_path)).main_metric == "map@100"


def test_file_of_mteb_itself(tmp_path: Path) -> None:
    row = {"ndcg_at_10": 0.5, "ndcg_at_1": 0.4, "nauc_ndcg_at_10_max": 0.1, "main_score": 0.5}
    subsets = [{**row, "hf_subset": name, "languages": [f"{name}-Latn"]} for name in ("eng", "deu")]
    path = tmp_path / "Task.json"
    path.write_text(
        json.dumps({"task_name": "Task", "dataset_revision": "r", "mteb_version": "2.1.0", "scores": {"dev": subsets}})
    )
    result = read_result(path, hf_subset="deu")
    assert (result.scores, result.mteb_version) == ({"dev": {"ndcg@10": 0.5, "ndcg@1": 0.4}}, "2.1.0")
    assert list(result.languages) == ["deu-Latn"]
    with pytest.raises(DataError, match="split 'dev' has 2 subsets; name one of: eng, deu"):
        read_result(path)
    with pytest.raises(DataError, match="no subset 'fra'; name one of: eng, deu"):
        read_result(path, hf_subset="fra")


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"scores": {}, "task_name": "t"}', '{"scores": {"test": [3]}}'])
def test_other_files_are_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"x\.json: (not|cannot be read as JSON)"):
        read_result(path)
    with pytest.raises(DataError, match=r"y\.json: cannot be read"):
        read_result(tmp_path / "y.json")


def test_what_the_form_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="metric 'rbp@10' has no name in MTEB's format; it knows ndcg@K"):
        mteb_name("rbp@10")
    with pytest.raises(ConfigError, match="metric 'map'"):
        write_result(replace(RESULT, scores={"test": {"ndcg@10": 0.5, "map": 0.5}}), tmp_path)
    with pytest.raises(ConfigError, match="split 'test' lacks the main metric ndcg@10"):
        write_result(replace(RESULT, scores={"test": {"ndcg@1": 0.5}}), tmp_path)
    with pytest.raises(ConfigError, match="ndcg@10 is nan"):
        write_result(replace(RESULT, scores={"test": {"ndcg@10": float("nan")}}), tmp_path)
    for name in ("", "a/b", ".."):
        with pytest.raises(ConfigError, match="cannot name a file"):
            write_result(replace(RESULT, task_name=name), tmp_path)
    assert list(tmp_path.iterdir()) == []
