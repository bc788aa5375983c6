"""From a recipe to what there is to learn from: collection, training pairs, and leaks between the splits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np

from searchtune.data.advice import rules
from searchtune.data.collection import with_qrels
from searchtune.data.examples import KnownRelevance, pairs_in_epoch, text_groups
from searchtune.data.leakage import find_leaks, positives, raise_leaks
from searchtune.data.tasks import load_task, open_collection
from searchtune.errors import DataError
from searchtune.specs.recipe import EmbedRecipe
from searchtune.specs.rerank import RerankRecipe
from searchtune.storage.fingerprint import sha256_text
from searchtune.types import Collection, IntArray, Qrels
from searchtune.workflows.progress import Progress

Leaks = Literal["fail", "drop", "allow"]
FEW_PAIRS = 1000
"""Below so many pairs, contrastive adapters often learn little; the run goes on with a warning."""


@dataclass(frozen=True)
class TrainingSet:
    """A collection and the part of it that is trained on."""

    collection: Collection
    train: Qrels
    """Train labels, leaking queries left out."""
    relevant: Qrels
    """Of these, the labels of at least the task's `min_grade`."""
    known: KnownRelevance
    pairs: int
    """Pairs drawn in one epoch."""
    leaks: int
    """Train queries that are also, or nearly, test or dev queries."""

    @property
    def positives(self) -> IntArray:
        """The documents that training sees as positives."""
        return positives(self.train, self.collection.min_grade)


def open_training_set(recipe: EmbedRecipe | RerankRecipe, leaks: Leaks, progress: Progress) -> TrainingSet:
    """Open the recipe's task, check its splits against each other, and gather its training pairs.

    Raises:
        DataError: no train split, or no relevant document in it.
        LeakError: a train query is also a test or dev query, and `leaks` is "fail".
    """
    collection = open_collection(load_task(recipe.task))
    if "train" not in collection.qrels:
        have = ", ".join(sorted(collection.qrels)) or "none"
        raise DataError(f"{collection.name} has no train split (it has: {have}); add qrels/train.tsv")
    if recipe.train_on == "train+dev":
        collection = _dev_in_train(collection)
    if isinstance(recipe, RerankRecipe):
        collection = _limited(collection, {"train": recipe.max_train_queries, "test": recipe.max_test_queries})
    train = collection.qrels["train"]
    for rule in rules(collection):
        progress.warn(str(rule))
    leaking = copies = 0
    reports = [
        find_leaks(collection, train, collection.qrels[split], splits=("train", split))
        for split in sorted(set(collection.qrels) & {"test", "dev"})
    ]
    if leaks == "fail":
        raise_leaks(reports)
    for report in reports:
        if leaks == "drop":
            train = report.without_leaks(train)
        leaking += len(report.train_queries)
        copies += len(report.documents)
    if copies:
        progress.note(
            f"{copies} train documents are copies of test or dev answers ({'left out' if leaks == 'drop' else 'kept'})"
        )
    if leaking:
        progress.note(
            f"{leaking} train queries are also test or dev queries ({'left out' if leaks == 'drop' else 'kept'})"
        )
    relevant = train.relevant(collection.min_grade)
    pairs = pairs_in_epoch(relevant, recipe.objective.positives_per_query)
    if not pairs:
        raise DataError(f"{collection.name}: no document of grade {collection.min_grade} or more in the train split")
    if pairs < FEW_PAIRS:
        progress.warn(f"{pairs} training pairs, fewer than {FEW_PAIRS:,}: from so few an adapter often learns little")
    # Only train labels may mask a negative: training never looks at another split's labels.
    known = KnownRelevance(text_groups(collection.query_texts), text_groups(collection.documents), relevant)
    return TrainingSet(collection, train, relevant, known, pairs, leaking)


def at_most(collection: Collection, qrels: Qrels, most: int | None) -> Qrels:
    """The labels of at most `most` queries, chosen by the hash of their id; None keeps all."""
    if most is None or len(qrels) <= most:
        return qrels
    keys = [sha256_text(collection.query_ids[int(query)]) for query in qrels.queries]
    keep = np.zeros(len(qrels), dtype=np.bool_)
    keep[np.argsort(keys)[:most]] = True
    return qrels.select(keep)


def _limited(collection: Collection, limits: Mapping[str, int | None]) -> Collection:
    """The same collection with at most so many queries in some splits."""
    if all(limit is None for limit in limits.values()):
        return collection
    return with_qrels(
        collection, {split: at_most(collection, qrels, limits.get(split)) for split, qrels in collection.qrels.items()}
    )


def _dev_in_train(collection: Collection) -> Collection:
    """The same collection with the queries of dev in train, and no dev."""
    rest = {split: qrels for split, qrels in collection.qrels.items() if split not in ("train", "dev")}
    both = [collection.qrels[split] for split in ("train", "dev") if split in collection.qrels]
    return with_qrels(collection, {**rest, "train": Qrels.joined(both)})
