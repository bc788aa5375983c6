"""Agreement of public LLM judges with TREC's assessors, as others have measured it.

Labels of several judges for the passages of TREC Deep Learning 2019 and 2020, looked for in `$SEARCHTUNE_DATA`, then in
`../shared/data` beside the repository; absent ones are skipped. All these figures call a passage relevant from grade 2
on, both by the person and by the judge (UMBRELA: Upadhyay et al. 2024, arXiv:2406.06519).
"""

import gzip
import json
import os
from pathlib import Path

import numpy as np
import pytest

from searchtune.metrics.agreement import agreement, confusion

HOME = Path(os.environ.get("SEARCHTUNE_DATA") or Path(__file__).parents[3] / "shared" / "data")
KAPPAS = {
    ("dl19", "umbrela_gpt4o"): 0.524,
    ("dl20", "umbrela_gpt4o"): 0.450,
    ("dl19", "criteria4_llama3_70b"): 0.388,
    ("dl20", "criteria4_llama3_70b"): 0.303,
}


@pytest.mark.parametrize(("year", "judge"), KAPPAS)
def test_kappa_is_the_published_one(year: str, judge: str) -> None:
    path = HOME / "jsonl" / "judge" / f"{year}_human_vs_llm.jsonl.gz"
    if not path.is_file():
        pytest.skip(f"no {path.name}: set SEARCHTUNE_DATA to a folder that holds jsonl/judge/{path.name}")
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = [json.loads(line) for line in file]
    human = np.array([row["human"] for row in rows])
    grades = np.array([-1 if row["llm"][judge] is None else row["llm"][judge] for row in rows])
    found = confusion(human, grades, np.unique([row["query_id"] for row in rows], return_inverse=True)[1])
    it = agreement(found, human_from=2, judge_from=2, rounds=1000)["kappa"]
    assert round(it.mean, 3) == KAPPAS[year, judge]
    assert it.low < it.mean < it.high
    assert it.high - it.low > 0.04  # pairs drawn alone would claim half of that
