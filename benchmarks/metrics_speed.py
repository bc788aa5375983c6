"""Claim: searchtune scores a run many times faster than beir and ranx, to the same values.

648 queries (as many as FiQA's test split has) with 1,000 hits each out of 57,638 documents, graded labels, no tied
scores (ranx ranks ties by insertion order, so values could differ). Everybody computes what beir's `evaluate` does:
nDCG, MAP, recall and precision at 10, 100 and 1,000. Every round gives each system its turn, so that a busy machine
slows all of them, and a ratio is taken within a round.

    searchtune              `score` on arrays, which is what its searches hand on
    searchtune, from dicts  the same from query -> document -> score, conversion counted
    beir                    `EvaluateRetrieval.evaluate` on dicts, which it takes as they are
    pytrec_eval             the C extension that beir calls, alone
    ranx                    `evaluate` on its own `Qrels` and `Run`, compiled; making those two is not counted
    ranx, from dicts        the same on dicts, which it converts in each call
    ranx, cold              its first call in a fresh process, compilation counted, imports not; once, not by rounds

The values are compared first: with beir to the five digits that it rounds to, with ranx by query to 1e-6.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import numpy as np
import ranx

from searchtune.data.named import NamedQrels, NamedRun, align
from searchtune.metrics.ranking import score

CUTOFFS = (10, 100, 1000)
METRICS = [f"{name}@{k}" for name in ("ndcg", "map", "recall", "precision") for k in CUTOFFS]
OURS = ("searchtune", "searchtune, from dicts")
COLD = "ranx, cold"

Labels = dict[str, dict[str, int]]
Hits = dict[str, dict[str, float]]


def made_up(options: argparse.Namespace) -> tuple[Labels, Hits]:
    """Labels and hits as dicts: a third of the labelled documents is among the hits; other hits have no label."""
    rng = np.random.default_rng(options.seed)
    labels: Labels = {}
    hits: Hits = {}
    for query in range(options.queries):
        docs = rng.choice(options.documents, options.depth + options.labels, replace=False)
        labelled = docs[: options.labels]
        ranked = rng.permutation(docs[2 * options.labels // 3 :][: options.depth])
        grades = rng.integers(0, 4, options.labels)
        labels[f"q{query}"] = {f"d{doc}": int(grade) for doc, grade in zip(labelled, grades, strict=True)}
        hits[f"q{query}"] = {f"d{doc}": 1 - rank / 4096 for rank, doc in enumerate(ranked)}
    return labels, hits


def systems(labels: Labels, hits: Hits) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    import pytrec_eval
    from beir.retrieval.evaluation import EvaluateRetrieval

    aligned = align(NamedQrels.from_dicts(labels), {"run": NamedRun.from_dicts("run", hits)})
    run, qrels = aligned.runs["run"], aligned.qrels
    ranx_qrels, ranx_run = ranx.Qrels(labels), ranx.Run(hits)
    names = {f"{name}.{','.join(map(str, CUTOFFS))}" for name in ("ndcg_cut", "map_cut", "recall", "P")}

    def from_dicts() -> object:
        again = align(NamedQrels.from_dicts(labels), {"run": NamedRun.from_dicts("run", hits)})
        return score(again.runs["run"], again.qrels, METRICS)

    return {
        OURS[0]: lambda: score(run, qrels, METRICS),
        OURS[1]: from_dicts,
        "beir": lambda: EvaluateRetrieval.evaluate(labels, hits, list(CUTOFFS)),
        "pytrec_eval": lambda: pytrec_eval.RelevanceEvaluator(labels, names).evaluate(hits),
        "ranx": lambda: ranx.evaluate(ranx_qrels, ranx_run, METRICS),
        "ranx, from dicts": lambda: ranx.evaluate(labels, hits, METRICS),
    }


def check_values(chosen: dict[str, Callable[[], object]], labels: Labels, hits: Hits) -> None:
    """Stop where anybody's values differ from ours."""
    ours = chosen[OURS[0]]()
    means = {name: float(values.mean()) for name, values in ours.items()}
    order = sorted(labels)
    by_query = ranx.evaluate(
        ranx.Qrels({query: labels[query] for query in order}),
        ranx.Run({query: hits[query] for query in order}),
        METRICS,
        return_mean=False,
    )
    for name, values in ours.items():
        if not np.allclose(values, by_query[name], atol=1e-6):
            raise SystemExit(f"ranx has other values of {name}")
    for figures in chosen["beir"]():
        for name, mean in figures.items():
            own = name.lower().replace("p@", "precision@") if name.startswith("P@") else name.lower()
            if abs(means[own] - mean) > 1e-5:
                raise SystemExit(f"beir has {name} {mean}, not {means[own]}")


def cold_ranx(options: argparse.Namespace) -> float:
    """Seconds of ranx's first `evaluate` in a fresh process with an empty compilation cache."""
    with tempfile.TemporaryDirectory() as cache:
        command = [sys.executable, *sys.argv, "--cold"]
        environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
        done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    return float(done.stdout.split()[-1])


def report(seconds: dict[str, list[float]], options: argparse.Namespace) -> dict[str, object]:
    """Print both tables and return what they say."""
    print("\n| system | seconds, median | min..max |\n| --- | --- | --- |")
    for name, each in seconds.items():
        print(f"| {name} | {statistics.median(each):.4f} | {min(each):.4f}..{max(each):.4f} |")
    ratios: dict[str, list[float]] = {}
    print("\n| speed of | over | times, median of rounds | min..max |\n| --- | --- | --- | --- |")
    for ours in OURS:
        for peer in (name for name in seconds if name not in OURS):
            theirs = seconds[peer] * len(seconds[ours]) if peer == COLD else seconds[peer]
            each = [b / a for a, b in zip(seconds[ours], theirs, strict=True)]
            ratios[f"{ours} / {peer}"] = each
            print(f"| {ours} | {peer} | {statistics.median(each):.1f} | {min(each):.1f}..{max(each):.1f} |")
    return {
        "claim": "metrics speed",
        "seconds": seconds,
        "ratios": ratios,
        "queries": options.queries,
        "depth": options.depth,
        "metrics": METRICS,
        "machine": platform.machine(),
        "processors": os.cpu_count(),
        "versions": {name: version(name) for name in ("numpy", "beir", "pytrec_eval-terrier", "ranx", "numba")},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="rounds that count; one more warms up")
    parser.add_argument("--queries", type=int, default=648)
    parser.add_argument("--depth", type=int, default=1000, help="hits of a query")
    parser.add_argument("--labels", type=int, default=45, help="labels of a query")
    parser.add_argument("--documents", type=int, default=57_638)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--no-cold", action="store_true", help="leave out ranx's first call, which takes a minute")
    parser.add_argument("--cold", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the figures there")
    options = parser.parse_args()
    labels, hits = made_up(options)
    if options.cold:
        qrels, run = ranx.Qrels(labels), ranx.Run(hits)
        start = time.perf_counter()
        ranx.evaluate(qrels, run, METRICS)
        print(time.perf_counter() - start)
        return
    logging.disable(logging.INFO)
    chosen = systems(labels, hits)
    check_values(chosen, labels, hits)
    seconds: dict[str, list[float]] = {name: [] for name in chosen}
    for number in range(options.rounds + 1):
        for name, call in chosen.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
        taken = ", ".join(f"{name} {each[-1]:.4f}" for name, each in seconds.items())
        print(f"round {number} of {options.rounds}: {taken} s", flush=True)
    seconds = {name: each[1:] for name, each in seconds.items()}
    if not options.no_cold:
        seconds[COLD] = [cold_ranx(options)]
    result = report(seconds, options)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
