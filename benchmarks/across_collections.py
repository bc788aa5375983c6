"""Claim: what an adapter gains holds beyond one collection, and beyond the documents that training saw.

Trains each recipe on each collection into `--out`/TASK-RECIPE and prints a markdown row for each pair of systems:
nDCG@10 before and after, the difference with its 95% interval and its p-value, over all test queries, over those
whose relevant documents training never saw (unseen), the rest (seen), and the collection without what training saw
(residual). A folder with a report is not trained again; an interrupted one goes on. The collections are no part of
the project: they are read from $SEARCHTUNE_DATA, or from ../shared/data where that is there, and one that is missing
is skipped.
"""

from __future__ import annotations

import argparse
import math
import os
from pathlib import Path
from typing import TYPE_CHECKING

from searchtune.errors import SearchtuneError
from searchtune.evaluation.report import HEADLINE, Comparison, Report, Slice, read_report

if TYPE_CHECKING:
    from searchtune.specs.recipe import EmbedRecipe

TASKS = ["scifact", "stackfaq", "cranfield", "nfcorpus", "cisi"]
RECIPES = ["embed/minilm-pystdlib", "embed/minilm-pystdlib-query-only"]
NEARBY = Path(__file__).resolve().parents[2] / "shared" / "data"
SLICES = ("unseen", "seen", "residual")


def train(recipe: EmbedRecipe, folder: Path) -> None:
    """Train and measure into `folder`, from where an interrupted run stopped."""
    from searchtune.workflows.embed import train_embedding

    train_embedding(recipe, folder, policy="resume" if folder.is_dir() else "fail", leaks="drop")


def rows(task: str, recipe: str, report: Report) -> list[str]:
    """A markdown row for each pair of systems."""
    seconds = report.training["seconds"] + sum(report.training["preparation_seconds"].values())
    return [
        f"| {task} | {recipe} | {pair.a} → {pair.b} | {cell(report, pair)} | "
        + " | ".join(cell(report.slices[name], pair) for name in SLICES)
        + f" | {seconds:.0f} |"
        for pair in report.comparisons
        if pair.metric == HEADLINE
    ]


def cell(part: Slice, pair: Comparison) -> str:
    """One set of queries: how many, before, after, and the difference."""
    here = part.comparison(pair.a, pair.b)
    if here is None or not here.n:
        return "none"
    before, after = part.estimate(pair.a).mean, part.estimate(pair.b).mean
    interval = f"[{here.low:+.3f}, {here.high:+.3f}]" if math.isfinite(here.low) else "[?]"
    return f"n {here.n}: {before:.3f} → {after:.3f}, {here.delta:+.3f} {interval}, p {here.p_value:.3f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", nargs="+", default=TASKS, help="task names or BEIR folders")
    parser.add_argument("--recipes", nargs="+", default=RECIPES, help="recipe files or names")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="change a key of every recipe")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/collections"))
    parser.add_argument("--report", action="store_true", help="train nothing, print what is there")
    options = parser.parse_args()
    if "SEARCHTUNE_DATA" not in os.environ and NEARBY.is_dir():
        os.environ["SEARCHTUNE_DATA"] = str(NEARBY)
    from searchtune.workflows.recipes import load_recipe

    lines, skipped = [], []
    for task in options.tasks:
        for recipe in options.recipes:
            label = f"{Path(task).name}-{Path(recipe).stem}"
            folder = options.out / label
            try:
                if not options.report and not (folder / "report.json").is_file():
                    print(f"== {label}", flush=True)
                    train(load_recipe(recipe, task=task, overrides=options.set), folder)
                lines += rows(Path(task).name, Path(recipe).stem, read_report(folder / "report.json"))
            except SearchtuneError as error:
                skipped.append(f"skipped {label}: {error}")
    print("\n| task | recipe | systems | all | unseen | seen | residual | training s |")
    print("| --- " * 8 + "|", *lines, sep="\n")
    print(*skipped, sep="\n")


if __name__ == "__main__":
    main()
