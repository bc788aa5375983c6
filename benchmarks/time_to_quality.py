"""Claim: searchtune reaches the quality of sentence-transformers' trainer in a fraction of its training time.

The collection is pystdlib. Every run is a process of its own, one after another; a row of JSON a run is appended to
`--out`, so that runs may be made at different times, and `--report` prints the table. Runs:

    prefix, query-only    the recipes minilm-pystdlib and minilm-pystdlib-query-only
    full                  the recipe minilm-pystdlib-all-layers: nothing cached
    st-fp32, st-bf16      SentenceTransformerTrainer with the LoRA, batches, epochs and warm-up of `full`:
                          MultipleNegativesRankingLoss at scale 20, batches without duplicates, all else at its defaults
    st-bf16-best          the same with eager attention and without dropout, which is faster on a CPU

Training time of searchtune is the log's (evaluation left out) plus what training needs before: tokenising, the
cached states of the training texts, and for query-only the vectors of the training documents. Of the peer it is the
time inside `trainer.train()`, which evaluates nothing. searchtune keeps its best weights by dev figures, the peer its
last ones. Quality is that of the test split, with searchtune's exact search and metrics in every case.

Every run also keeps its adapter every few steps (not timed), and the first one that has `--target` on test gives the
time *to* that quality. `--no-curve` leaves that search out: a further run of the same seed only adds a timing, and the
step at which the target falls is taken from the run that looked for it.
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

from curve import Mark, TestSplit, first_to_reach, marks_of, seconds_for_vectors

SEARCHTUNE = {
    "prefix": "embed/minilm-pystdlib",
    "query-only": "embed/minilm-pystdlib-query-only",
    "full": "embed/minilm-pystdlib-all-layers",
}
PEERS = ("st-fp32", "st-bf16", "st-bf16-best")
METRICS = ("ndcg@10", "recall@100")


def run_searchtune(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of searchtune's runs, through its main workflow."""
    from searchtune.workflows.bank import OTHER_STATES
    from searchtune.workflows.embed import train_embedding

    recipe = _recipe(name, options)
    result = train_embedding(recipe, folder / "run")
    if result is None or result.report is None:
        raise SystemExit(f"{options.task} has no test split")
    report = result.report
    ready: dict[str, float] = dict(report.training["preparation_seconds"])
    ready.pop(OTHER_STATES, None)
    if name == "query-only":
        ready["vectors of training documents"] = seconds_for_vectors(TestSplit(recipe))
    return {
        **{metric: report.systems["tuned"].metrics[metric].mean for metric in METRICS},
        "base": {metric: report.systems["base"].metrics[metric].mean for metric in METRICS},
        "steps": len(result.log.steps),
        "best_step": result.log.best_step,
        "preparation": ready,
        "training_seconds": result.log.seconds + sum(ready.values()),
        **_along_the_way(recipe, marks_of(folder / "run"), options),
    }


def run_peer(name: str, options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """One of sentence-transformers' runs, through its trainer."""
    import numpy as np
    from peer import KeepAdapters, lora_sentence_transformer

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
    keep = KeepAdapters(model, options.mark_every)
    trainer = SentenceTransformerTrainer(model=model, args=arguments, train_dataset=rows, loss=loss, callbacks=[keep])
    trainer.train()
    return {
        **_score(model, collection),
        "steps": trainer.state.global_step,
        "preparation": {},
        "training_seconds": keep.seconds,
        **_along_the_way(recipe, keep.marks, options),
    }


def _along_the_way(recipe: Any, marks: list[Mark], options: argparse.Namespace) -> dict[str, Any]:
    seconds = {mark.step: mark.seconds for mark in marks}
    if options.no_curve:
        return {"marks": seconds}
    return {"marks": seconds, "curve": first_to_reach(options.target, marks, TestSplit(recipe).score)}


def _recipe(name: str, options: argparse.Namespace) -> Any:
    from searchtune.workflows.recipes import load_recipe

    changes = [f"optim.lr={options.lr}"] if name == "full" else []
    marks = [f"optim.checkpoint_every={options.mark_every}", "optim.keep_checkpoints=100000"]
    return load_recipe(SEARCHTUNE[name], task=options.task, overrides=[*changes, *options.set, *marks])


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
    row["threads"] = torch.get_num_threads()
    row["versions"] = {package: version(package) for package in ("torch", "transformers", "sentence-transformers")}
    options.out.parent.mkdir(parents=True, exist_ok=True)
    with options.out.open("a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")


def report(file: Path) -> None:
    """Print one line a run from the rows of a file: the median of its timings, and their range."""
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    runs = {name: [row for row in rows if row["run"] == name] for name in (*SEARCHTUNE, *PEERS)}
    runs = {name: found for name, found in runs.items() if found}
    whole = {name: [row["training_seconds"] for row in found] for name, found in runs.items()}
    reach = {name: seconds_to_target(found) for name, found in runs.items()}
    peers = [name for name in PEERS if name in runs]
    targets = {row["curve"]["target"] for row in rows if "curve" in row}
    target = ", ".join(f"{value:g}" for value in sorted(targets)) or "the target"
    head = ["run", "rows", "nDCG@10", "Recall@100", "seconds", f"seconds to {target}", "at step"]
    head += [f"{peer}: whole / to {target}" for peer in peers]
    print("| " + " | ".join(head) + " |\n" + "| --- " * len(head) + "|")
    base = next((row["base"] for row in rows if "base" in row), None)
    if base:
        print(f"| base | | {base['ndcg@10']:.4f} | {base['recall@100']:.4f} |" + " |" * (len(head) - 4))
    for name, found in runs.items():
        step = reached_at(found)
        cells = [name, str(len(found)), f"{found[-1]['ndcg@10']:.4f}", f"{found[-1]['recall@100']:.4f}"]
        cells += [
            spread(whole[name]),
            spread(reach[name]),
            "never" if step is None else f"{step} of {found[0]['steps']}",
        ]
        cells += [f"{ratio(whole[peer], whole[name])} / {ratio(reach[peer], reach[name])}" for peer in peers]
        print("| " + " | ".join(cells) + " |")
    if len({(row["task"], row["threads"], *row["set"]) for row in rows}) > 1 or len(targets) > 1:
        print("\nThe rows differ in task, threads, settings or target: they cannot be compared.")


def reached_at(rows: list[dict[str, Any]]) -> int | None:
    """The step at which a run had the target, from the row that looked for it."""
    return next((row["curve"]["step"] for row in rows if "curve" in row), None)


def seconds_to_target(rows: list[dict[str, Any]]) -> list[float]:
    """Preparation and steps until the target, in every row of one run."""
    step = reached_at(rows)
    return [] if step is None else [sum(row["preparation"].values()) + row["marks"][str(step)] for row in rows]


def spread(values: list[float]) -> str:
    """Median and range."""
    if not values:
        return "-"
    middle = f"{statistics.median(values):.1f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.1f}-{max(values):.1f})"


def ratio(slow: list[float], fast: list[float]) -> str:
    """Ratio of the medians, with the least and the greatest ratio that the rows allow."""
    if not slow or not fast:
        return "-"
    middle = f"{statistics.median(slow) / statistics.median(fast):.2f}x"
    if len(slow) == len(fast) == 1:
        return middle
    return f"{middle} ({min(slow) / max(fast):.2f}-{max(slow) / min(fast):.2f})"


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
    parser.add_argument("--target", type=float, default=0.617, help="the nDCG@10 on test whose time is looked for")
    parser.add_argument("--mark-every", type=int, default=4, metavar="STEPS", help="keep the adapter so often")
    parser.add_argument("--no-curve", action="store_true", help="time the run only; do not look for the target")
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
