"""A made-up help-desk collection and runs with known gains, from which the tests build reports."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from searchtune.evaluation import CostedRun, Evidence
from searchtune.types import Collection, Qrels, Run

SUBJECTS = ("invoice", "password", "printer", "holiday request", "travel card", "laptop", "shared calendar", "badge",
            "expense report", "parking permit", "mail filter", "backup", "video call", "pay slip", "software licence")  # fmt: skip
PROBLEMS = ("was rejected twice", "does not open on the phone", "shows last year's figures", "has to be cancelled",
            "is missing after the move", "needs a second signature", "stopped working on Monday", "costs more than agreed")  # fmt: skip
PLACES = ("in the Lisbon office", "for contractors", "while working from home", "after a name change", "for a new team")
REMEDY = (
    "Open the self-service page, choose the entry and check that the person in charge is right. If the entry is greyed "
    "out, the period is already closed and accounting has to reopen it, which usually takes one working day."
)


def made_up_collection(docs: int = 600, queries: int = 300) -> Collection:
    """Every query asks for the document of the same number; some titles are missing, one text is very long."""
    rng = np.random.default_rng(1)

    def subject(i: int) -> tuple[str, str, str]:
        return SUBJECTS[i % 15], PROBLEMS[(i // 15) % 8], PLACES[(i // 120) % 5]

    titles = [f"{subject(i)[0].capitalize()} {subject(i)[1]}" if i % 11 else "" for i in range(docs)]
    texts = [
        f"What to do when the {' '.join(subject(i))}. {REMEDY} See also article {rng.integers(docs)}."
        for i in range(docs)
    ]
    texts[docs // 2] = "An endless policy. " * 264  # 5,016 characters
    asked = [f"my {subject(i)[0]} {subject(i)[1]} {subject(i)[2]}, what now?" for i in range(queries)]
    return Collection(
        name="help-desk",
        doc_ids=[f"doc-{i:04}" for i in range(docs)],
        titles=titles,
        texts=texts,
        query_ids=[f"q{i:04}" for i in range(queries)],
        query_texts=asked,
        qrels={"test": Qrels.from_triples(np.arange(queries), np.arange(queries) % docs, np.ones(queries, np.int64))},
        fingerprint="0" * 64,
    )


def made_up_run(
    collection: Collection, qrels: Qrels, ability: float | npt.NDArray[np.float64], *, seed: int, depth: int = 100
) -> Run:
    """Random scores, with `ability` added to relevant documents: 3 finds almost all of them first, 0 none."""
    docs = len(collection.doc_ids)
    noise = np.random.default_rng(9).normal(size=(len(qrels), docs)) + 0.5 * np.random.default_rng(seed).normal(
        size=(len(qrels), docs)
    )
    rows = np.repeat(np.arange(len(qrels)), np.diff(qrels.offsets))
    noise[rows, qrels.docs] += np.broadcast_to(ability, len(qrels))[rows]
    top = np.argsort(-noise, axis=1)[:, :depth]
    return Run.ranked(qrels.queries, top, np.take_along_axis(noise, top, axis=1).astype(np.float32))


def made_up_evidence(
    *,
    queries: int = 300,
    docs: int = 600,
    unseen_gain: float = 0.5,
    seen_gain: float = 0.9,
    seen_share: float = 0.6,
    **changes: Any,
) -> Evidence:
    """Systems bm25, base, hybrid, tuned and tuned+bm25; `unseen_gain` and `seen_gain` are what tuning adds to ability."""
    collection = made_up_collection(docs, queries)
    qrels = collection.qrels["test"]
    seen = np.arange(queries) % 10 < round(10 * seen_share)
    gain = np.where(seen, seen_gain, unseen_gain)
    abilities = {
        "bm25": (2.4, 2),
        "base": (2.6, 3),
        "hybrid": (3.0, 4),
        "tuned": (2.6 + gain, 5),
        "tuned+bm25": (3.0 + gain, 6),
    }
    runs = {name: made_up_run(collection, qrels, ability, seed=seed) for name, (ability, seed) in abilities.items()}
    rest = ~seen
    steps = np.arange(1, 121)
    curve: list[dict[str, Any]] = [
        {"step": int(s), "loss": float(1.9 * np.exp(-s / 40) + 0.4 + 0.05 * np.sin(s)), "lr": 1e-3 * (1 - s / 121)}
        for s in steps
    ]
    for step, dev in ((30, 0.71), (60, 0.742), (90, 0.756), (120, 0.753)):
        curve[step - 1]["dev"] = {"ndcg@10": dev, "recall@10": dev + 0.1}
    evidence = Evidence(
        collection=collection,
        split="test",
        qrels=qrels,
        runs=runs,
        tuned=("tuned",),
        pairs=(("hybrid", "tuned+bm25"),),
        seen=seen,
        residual=(qrels.select(rest), {name: run.select(rest) for name, run in runs.items()}),
        training={
            "curve": curve,
            "dev_metric": "ndcg@10",
            "seconds": 52.3,
            "trainable_parameters": 589_824,
            "best_step": 90,
        },
        costs={
            "bm25": {"seconds": 0.41, "queries_per_second": 731.7, "index_mb": 1.2},
            "base": {"seconds": 3.9, "queries_per_second": 76.9, "index_mb": 0.92},
            "tuned": {"seconds": 4.0, "queries_per_second": 75.0, "index_mb": 0.92},
        },
        provenance={
            "searchtune": "0.1.0",
            "created": "2026-01-31T09:30:00Z",
            "recipe": {
                "kind": "embed",
                "task": "help-desk",
                "base": "a-small-encoder",
                "optim": {"lr": 1e-3, "epochs": 2, "batch_size": 64},
                "seed": 13,
            },
            "recipe_sha256": "4f1c" * 16,
            "data_fingerprint": collection.fingerprint,
            "base_weights_sha256": "9ab0" * 16,
            "versions": {"python": "3.11.2", "torch": "2.9.0", "transformers": "5.0.1"},
            "hardware": "2 CPU cores",
        },
    )
    return replace(evidence, **changes)


def reranked(run: Run, qrels: Qrels, ability: float, *, depth: int, seed: int = 7) -> Run:
    """The first `depth` documents of every row in an order that a reranker of this ability gives them."""
    noise = np.random.default_rng(seed).normal(size=run.docs.shape)
    labels = [set(qrels.row(i)[0].tolist()) for i in range(len(qrels))]
    hit = np.array([[doc in labels[i] for doc in row] for i, row in enumerate(run.docs.tolist())])
    scores = np.where(np.arange(run.depth) < depth, noise + ability * hit, -100.0 - np.arange(run.depth))
    return Run.ranked(run.queries, run.docs, scores.astype(np.float32))


def with_reranking(evidence: Evidence, *, ability: float = 4.0, chosen: int = 20) -> Evidence:
    """The evidence with two rerankers of `base` at four depths, one of them tuned, and their probabilities."""
    base, qrels = evidence.runs["base"], evidence.qrels
    depths = (5, 10, 20, 50)

    def points(ability: float, ms: float) -> list[CostedRun]:
        return [
            CostedRun(reranked(base, qrels, ability, depth=depth), depth, ms * depth, chosen=depth == chosen)
            for depth in depths
        ]

    rng = np.random.default_rng(3)
    chance = rng.beta(0.6, 1.2, size=2000)
    relevant = rng.random(2000) < chance
    return replace(
        evidence,
        runs={**evidence.runs, "tuned-ce": reranked(base, qrels, ability, depth=chosen)},
        tuned=("tuned-ce", "tuned"),
        residual=None,
        trade_offs={"plain-ce": points(1.5, 0.8), "tuned-ce": points(ability, 0.8)},
        calibration={"before": (chance**0.4, relevant), "after": (chance, relevant)},
    )


def with_two_relevant(evidence: Evidence) -> Evidence:
    """The evidence with a second relevant document for every third query, so that precision falls with recall."""
    rows = np.arange(len(evidence.qrels))
    some = rows[::3]
    docs = np.concatenate([rows, (some + 7)]) % len(evidence.collection.doc_ids)
    queries = np.concatenate([rows, some])
    qrels = Qrels.from_triples(queries, docs, np.ones(len(queries), np.int64))
    return replace(evidence, qrels=qrels, residual=None)
