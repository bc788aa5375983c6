"""Claim: searchtune reaches the quality of sentence-transformers' trainer in a fraction of its training time.

The collection is pystdlib. Every run is a process of its own, one after another; a row of JSON a run is appended to
`--out`, so that runs may be made at different times, and `--report` prints the table. Runs:

    prefix, query-only    the recipes under configs/embed as they are
    full                  the recipe of `prefix` with every layer adapted and nothing cached
    st-fp32, st-bf16      SentenceTransformerTrainer with the LoRA, batches, epochs and warm-up of `full`:
                          MultipleNegativesRankingLoss at scale 20, batches without duplicates, all else at its defaults
    st-bf16-best          the same with eager attention and without dropout, which is faster on a CPU

Training time of searchtune is the log's (evaluation left out) plus what must be ready before: tokenising, the cache
of the frozen prefix, and for query-only the documents' vectors. Of the peer it is the `train_runtime` of
`trainer.train()`, which evaluates and saves nothing. searchtune keeps its best weights by dev figures, the peer its
last ones. Quality is that of the test split, with searchtune's exact search and metrics in every case.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

SEARCHTUNE = {
    "prefix": "embed/minilm-pystdlib",
    "query-only": "embed/minilm-pystdlib-query-only",
    "full": "embed/minilm-pystdlib",
}
PEERS = ("st-fp32", "st-bf16", "st-bf16-best")
METRICS = ("ndcg@10", "recall@100")


def run_searchtune(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of searchtune's runs, through its main workflow."""
    from searchtune.workflows.embed import train_embedding

    result = train_embedding(_recipe(name, options), folder / "run")
    if result is None or result.report is None:
        raise SystemExit(f"{options.task} has no test split")
    report = result.report
    ready: dict[str, float] = dict(report.training["preparation_seconds"])
    if name == "query-only":
        ready["document vectors"] = report.costs["base"]["index_seconds"]
    return {
        **{metric: report.systems["tuned"].metrics[metric].mean for metric in METRICS},
        "base": {metric: report.systems["base"].metrics[metric].mean for metric in METRICS},
        "steps": len(result.log.steps),
        "best_step": result.log.best_step,
        "step_seconds": result.log.seconds,
        "preparation": ready,
        "training_seconds": result.log.seconds + sum(ready.values()),
    }


def run_peer(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of sentence-transformers' runs, through its trainer."""
    import numpy as np
    from peer import lora_sentence_transformer

    try:
        from datasets import Dataset
    except ImportError:
        raise SystemExit("the peer's trainer needs one more package: pip install datasets") from None
    from sentence_transformers import SentenceTransformerTrainer, SentenceTransformerTrainingArguments
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss
    from sentence_transformers.sentence_transformer.training_args import BatchSamplers

    from searchtune.data.examples import epoch_pairs
    from searchtune.workflows.progress import SILENT
    from searchtune.workflows.training_set import open_training_set

    recipe = _recipe("full", options)
    training = open_training_set(recipe, "fail", SILENT)
    collection, optim, best = training.collection, recipe.optim, name.endswith("best")
    queries, docs = epoch_pairs(
        training.relevant, recipe.objective.positives_per_query, np.random.default_rng(recipe.seed)
    )
    rows = Dataset.from_dict(
        {
            "anchor": [collection.query_texts[query] for query in queries.tolist()],
            "positive": [collection.documents[doc] for doc in docs.tolist()],
        }
    )
    model = lora_sentence_transformer(
        recipe.method,
        max_tokens=recipe.max_tokens,
        seed=recipe.seed,
        attention="eager" if best else "sdpa",
        dropout=not best,
    )
    arguments = SentenceTransformerTrainingArguments(
        output_dir=str(folder),
        num_train_epochs=optim.epochs,
        max_steps=options.peer_steps,
        per_device_train_batch_size=optim.batch_size,
        learning_rate=optim.lr,
        warmup_steps=optim.warmup,
        batch_sampler=BatchSamplers.NO_DUPLICATES,
        bf16="bf16" in name,
        use_cpu=True,
        seed=recipe.seed,
        save_strategy="no",
        logging_strategy="no",
        report_to="none",
        disable_tqdm=True,
    )
    loss = MultipleNegativesRankingLoss(model, scale=20.0)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss)
    seconds = trainer.train().metrics["train_runtime"]
    return {
        **_score(model, collection),
        "steps": trainer.state.global_step,
        "step_seconds": seconds,
        "preparation": {},
        "training_seconds": seconds,
    }


def _recipe(name: str, options: argparse.Namespace) -> Any:
    from searchtune.workflows.recipes import load_recipe

    changes = ["frozen_prefix=false", "method.top_layers=null", f"optim.lr={options.lr}"] if name == "full" else []
    return load_recipe(SEARCHTUNE[name], task=options.task, overrides=[*changes, *options.set])


def _score(model: Any, collection: Any) -> dict[str, float]:
    """Test figures of the peer's model, its own encoding under searchtune's search and metrics."""
    from searchtune.metrics.ranking import score
    from searchtune.retrieval.dense import DenseIndex

    qrels = collection.qrels["test"]
    documents = model.encode(list(collection.documents), batch_size=64)
    queries = model.encode([collection.query_texts[query] for query in qrels.queries.tolist()], batch_size=64)
    run = DenseIndex(documents).search(qrels.queries, queries, 100)
    values = score(run, qrels, METRICS, min_grade=collection.min_grade)
    return {metric: float(values[metric].mean()) for metric in METRICS}


def work(name: str, options: argparse.Namespace) -> None:
    """Inside a process of its own: train, score, append the row."""
    import torch

    if options.threads:
        torch.set_num_threads(options.threads)
    with tempfile.TemporaryDirectory() as folder:
        run = run_searchtune if name in SEARCHTUNE else run_peer
        row = {"run": name, "task": options.task, "set": options.set, **run(name, options, Path(folder))}
    row["seconds_per_step"] = row["step_seconds"] / row["steps"]
    row["threads"] = torch.get_num_threads()
    row["versions"] = {package: version(package) for package in ("torch", "transformers", "sentence-transformers")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def report(file: Path) -> None:
    """Print one line a run from the rows of a file; several rows of one run give their median."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    runs = {name: [row for row in rows if row["run"] == name] for name in (*SEARCHTUNE, *PEERS)}
    runs = {name: found for name, found in runs.items() if found}

    def middle(name: str, key: str) -> float:
        return statistics.median(row[key] for row in runs[name])

    peers = [name for name in PEERS if name in runs]
    head = ["run", "rows", "nDCG@10", "Recall@100", "training s", "of it preparation s", "steps", "s/step"]
    head += [f"{peer} takes" for peer in peers]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    base = next((row["base"] for row in rows if "base" in row), None)
    if base:
        print(f"| base | | {base['ndcg@10']:.4f} | {base['recall@100']:.4f} |" + " |" * (len(head) - 4))
    for name, found in runs.items():
        seconds = middle(name, "training_seconds")
        ready = statistics.median(sum(row["preparation"].values()) for row in found)
        cells = [name, str(len(found)), f"{middle(name, 'ndcg@10'):.4f}", f"{middle(name, 'recall@100'):.4f}"]
        cells += [
            f"{seconds:.1f}",
            f"{ready:.1f}",
            f"{middle(name, 'steps'):.0f}",
            f"{middle(name, 'seconds_per_step'):.2f}",
        ]
        cells += [f"{middle(peer, 'training_seconds') / seconds:.2f}x" for peer in peers]
        print("| " + " | ".join(cells) + " |")
    if len({(row["task"], row["threads"], *row["set"]) for row in rows}) > 1:
        print("\nThe rows differ in task, threads or settings: they cannot be compared.")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=[*SEARCHTUNE, *PEERS], default=[*SEARCHTUNE, *PEERS], metavar="NAME"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("runs/bench/time_to_quality.jsonl"), help="rows are appended here"
    )
    parser.add_argument("--report", type=Path, metavar="FILE", help="only print the table of such a file")
    parser.add_argument("--lr", type=float, default=1e-3, help="of full and of the peer")
    parser.add_argument("--threads", type=int, help="torch threads (default: torch's own choice)")
    parser.add_argument("--task", default="pystdlib", help="another task or BEIR folder, to try the script out")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every recipe")
    parser.add_argument("--peer-steps", type=int, default=-1, help="stop the peer early, to try the script out")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.report:
        report(options.report)
        return
    if options.worker:
        work(options.worker, options)
        return
    environment = os.environ | ({"OMP_NUM_THREADS": str(options.threads)} if options.threads else {})
    for name in options.only:
        print(f"== {name}", flush=True)
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--worker", name], check=True, env=environment)
    report(options.out)


if __name__ == "__main__":
    main()
