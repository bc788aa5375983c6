"""When did a run first reach a quality? Adapters kept along the way, scored on the test split after the run.

Both sides of a comparison are scored by the same code: searchtune's encoder, in the type that is faster here, with the
kept weights put in, exact search over all documents, trec_eval's metric. Scoring happens after training, so it costs
neither side any time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

METRIC = "ndcg@10"
_LAYERS = ".layer."


@dataclass(frozen=True)
class Mark:
    """Adapter weights at one step, and the training seconds until then."""

    step: int
    seconds: float
    weights: Mapping[str, Tensor]


def marks_of(folder: Path) -> list[Mark]:
    """The checkpoints of one of searchtune's runs, by step."""
    from searchtune.training.checkpoint import load_checkpoint

    found = [load_checkpoint(path) for path in sorted((folder / "checkpoints").glob("step-*"))]
    kept = [{n: t for n, t in checkpoint.weights.items() if not n.startswith("best/")} for checkpoint in found]
    return [Mark(c.step, float(c.state["seconds"]), weights) for c, weights in zip(found, kept, strict=True)]


class TestSplit:
    """Scores adapter weights on the test split of a recipe's collection."""

    __test__ = False

    def __init__(self, recipe: Any) -> None:
        from searchtune.models.adapters import add_lora
        from searchtune.models.encoder import load_encoder
        from searchtune.models.precision import compute_dtype, pick_device
        from searchtune.models.sources import resolve_model
        from searchtune.workflows.bank import build_bank
        from searchtune.workflows.progress import SILENT
        from searchtune.workflows.training_set import open_training_set

        self.recipe = recipe.model_copy(update={"frozen_prefix": False})
        training = open_training_set(self.recipe, "fail", SILENT)
        self.collection, self.positives = training.collection, training.positives
        device = pick_device()
        self.encoder = load_encoder(resolve_model(recipe.base), dtype=compute_dtype("auto", device), device=device)
        self.adapter = add_lora(self.encoder, recipe.method, seed=recipe.seed)
        self.bank = build_bank(self.collection, self.encoder, self.recipe, Path(), positives=training.relevant)
        self.base_documents = self.bank.encode_documents(self.encoder) if recipe.side == "query" else None

    def score(self, weights: Mapping[str, Tensor]) -> float:
        """Mean nDCG@10 with these weights."""
        from searchtune.metrics.ranking import score
        from searchtune.retrieval.dense import DenseIndex

        names, given = sorted(self.adapter.parameters, key=_place), sorted(weights, key=_place)
        if [_place(name)[1] for name in names] != [_place(name)[1] for name in given]:
            raise ValueError("these weights belong to other modules than the recipe's adapter has")
        self.adapter.load_state({name: weights[other] for name, other in zip(names, given, strict=True)})
        documents = self.base_documents
        if documents is None:
            documents = self.bank.encode_documents(self.encoder)
        qrels = self.collection.qrels["test"]
        queries = self.bank.encode_queries(self.encoder, qrels.queries)
        run = DenseIndex(documents).search(qrels.queries, queries, 10)
        return float(score(run, qrels, [METRIC], min_grade=self.collection.min_grade)[METRIC].mean())


def first_to_reach(target: float, marks: list[Mark], scores: Callable[[Mapping[str, Tensor]], float]) -> dict[str, Any]:
    """The first mark at or above `target`, found by halving, so that few marks are scored.

    Halving takes the score to rise along the run; every score that was taken is in the result, by step.
    """
    scored: dict[int, float] = {}
    low, high = 0, len(marks)  # the first good mark is in [low, high]
    while low < high:
        middle = (low + high) // 2
        scored[marks[middle].step] = scores(marks[middle].weights)
        low, high = (low, middle) if scored[marks[middle].step] >= target else (middle + 1, high)
    reached = marks[low].step if low < len(marks) else None
    return {"target": target, "step": reached, "scored": dict(sorted(scored.items()))}


def seconds_for_vectors(test: TestSplit) -> float:
    """Seconds to encode the documents that query-only training ranks: what a team with an index already has."""
    import time

    start = time.perf_counter()
    test.bank.encode_some(test.encoder, np.asarray(test.positives))
    return time.perf_counter() - start


def _place(name: str) -> tuple[int, str]:
    """A parameter's layer and its name inside the layer.

    Libraries disagree about what comes before the layer, and a run with a frozen prefix counts layers from its cut.
    """
    layer, _, rest = name[name.index(_LAYERS) + len(_LAYERS) :].partition(".")
    return int(layer), rest
