"""Cutting queries into splits by hash, so that a split never depends on order or on a random state."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from searchtune.data.collection import with_qrels
from searchtune.data.near import components, near_groups
from searchtune.types import Collection, Qrels

_LARGEST_GROUP = 0.05
"""Groups joined by shared documents are used as long as none holds more than this share of the queries."""


def hash_share(text: str) -> float:
    """The md5 of `text` as a number in [0, 1): spreads ids evenly and for ever the same."""
    digest = hashlib.md5(text.encode("utf-8"), usedforsecurity=False).digest()
    return int.from_bytes(digest[:6], "big") / 2**48


def hash_splits(ids: Sequence[str], groups: Sequence[int], shares: Sequence[float]) -> list[int]:
    """For each row the number of its split. A whole group goes where the hash of its first row's id falls.

    `shares` sum to 1 and hold on average, not exactly: a row that is added later moves no other group.
    """
    edges = np.cumsum(shares)[:-1]
    return [int(np.searchsorted(edges, hash_share(ids[group]), side="right")) for group in groups]


def cut_dev(collection: Collection, share: float) -> Collection:
    """Move about `share` of the judged train queries, at least one, into a new split `dev`.

    Near-duplicate queries stay on one side. So do queries with a common relevant document, unless that would tie more
    than a twentieth of the queries into one group, as it does where labels are dense. Groups go in the order of the
    md5 of their first query's id. A train split of one query stays as it is.
    """
    train = collection.split("train")
    quota = max(1, round(share * len(train)))
    if quota >= len(train):
        return collection
    members: dict[int, list[int]] = defaultdict(list)
    for row, group in enumerate(_groups(collection, train)):
        members[group].append(row)
    chosen = np.zeros(len(train), dtype=np.bool_)
    for group in sorted(members, key=lambda group: hash_share(collection.query_ids[int(train.queries[group])])):
        if chosen.sum() + len(members[group]) <= quota:
            chosen[members[group]] = True
    if not chosen.any():
        return collection
    qrels = {**collection.qrels, "train": train.select(~chosen), "dev": train.select(chosen)}
    return with_qrels(collection, qrels)


def _groups(collection: Collection, train: Qrels) -> list[int]:
    near = near_groups([[collection.query_texts[int(query)] for query in train.queries]])
    rows_of: dict[int, list[int]] = defaultdict(list)
    for row in range(len(train)):
        docs, grades = train.row(row)
        for doc in docs[grades >= collection.min_grade].tolist():
            rows_of[doc].append(row)
    links = [pair for rows in rows_of.values() for pair in pairwise(rows)]
    both = components(len(train), [*enumerate(near), *links])
    largest = max(np.bincount(both))
    return both if largest <= max(2, _LARGEST_GROUP * len(train)) else near
