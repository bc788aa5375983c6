"""Training groups of a reranker: one query with relevant documents and negatives, drawn anew for every epoch.

Negatives come from a first-stage run, so that training sees what a reranker will be asked to order. This module knows
no texts and no models.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchtune.data.examples import KnownRelevance, epoch_pairs
from searchtune.data.mining import mine_hard_negatives
from searchtune.errors import ConfigError, DataError
from searchtune.specs.recipe import HardNegatives
from searchtune.types import FloatArray, IntArray, Qrels, Run

_SHOWN = 5


def mine_ranking_negatives(
    run: Run, train_labels: Qrels, relevant: Qrels, known: KnownRelevance, window: HardNegatives
) -> dict[int, IntArray]:
    """For each query of the run, the documents that may stand in its groups as not relevant, best first.

    They are those of `mine_hard_negatives`, and those that `train_labels` grade from 0 on without their being known to
    be relevant: at any rank of the run and with any score, since somebody looked at them. A negative grade says that
    nobody did (trec_eval). A query may end up with none.
    """
    mined = mine_hard_negatives(run, relevant, known, window)
    pools: dict[int, IntArray] = {}
    for row, query in enumerate(run.queries):
        docs, judged = run.docs[row], _judged(train_labels, int(query))
        judged = judged[~known.mask(np.array([query]), judged)[0]]
        pools[int(query)] = docs[np.isin(docs, np.concatenate([mined[int(query)], judged]))]
    return pools


def _judged(labels: Qrels, query: int) -> IntArray:
    """The documents of a query that somebody graded."""
    row = int(np.searchsorted(labels.queries, query))
    if row == len(labels) or labels.queries[row] != query:
        return np.zeros(0, dtype=np.int64)
    docs, grades = labels.row(row)
    return docs[grades >= 0]


class PairScores:
    """One score for each of some query-document pairs, such as those of a teacher."""

    def __init__(self, queries: IntArray, docs: IntArray, scores: FloatArray) -> None:
        """Pairs may come in any order, and repeatedly with the same score. Scores that are not finite are none.

        Shape: (pairs,) each.

        Raises:
            DataError: two scores for one pair.
        """
        there = np.isfinite(scores)
        queries, docs, scores = queries[there], docs[there], scores[there]
        self._stride = int(docs.max(initial=0)) + 1
        keys = self._key(queries, docs)
        order = np.argsort(keys, kind="stable")
        self._keys, self._scores = keys[order], np.asarray(scores, np.float32)[order]
        clash = np.flatnonzero((np.diff(self._keys) == 0) & (np.diff(self._scores) != 0))
        if len(clash):
            at = int(clash[0])
            query, doc = divmod(int(self._keys[at]), self._stride)
            raise DataError(
                f"query {query} and document {doc} (positions) have two scores, {self._scores[at]:g} and "
                f"{self._scores[at + 1]:g}: keep one of them"
            )

    def extended(self, queries: IntArray, docs: IntArray, scores: FloatArray) -> PairScores:
        """These scores and more; errors as at the beginning. Shape: (pairs,) each."""
        old_queries, old_docs = np.divmod(self._keys, self._stride)
        return PairScores(
            np.concatenate([old_queries, queries]),
            np.concatenate([old_docs, docs]),
            np.concatenate([self._scores, scores]),
        )

    def at(self, queries: IntArray, docs: IntArray) -> FloatArray:
        """The scores of pairs, NaN where there is none. Shape: (pairs,) each."""
        if not len(self._keys):
            return np.full(len(docs), np.nan, dtype=np.float32)
        keys = self._key(queries, docs)
        places = np.searchsorted(self._keys, keys).clip(max=len(self._keys) - 1)
        found = (self._keys[places] == keys) & (docs < self._stride)
        return np.where(found, self._scores[places], np.float32(np.nan))

    def _key(self, queries: IntArray, docs: IntArray) -> IntArray:
        return np.asarray(queries, np.int64) * self._stride + docs


@dataclass(frozen=True)
class GroupShape:
    """What goes into one group.

    Raises:
        ConfigError: a number below 1, or more positives in a group than an epoch draws.
    """

    positives_per_query: int = 4
    """How many of a query's positives one epoch draws at most."""
    positives_per_group: int = 1
    """How many of these share a group at most; the last group of a query may hold fewer."""
    negatives: int = 7
    """How many negatives a group holds at most, drawn without replacement."""
    graded: bool = False
    """Labels are grade / highest grade of the train labels; otherwise 1 for the group's positives, else 0."""

    def __post_init__(self) -> None:
        smallest = min(self.positives_per_query, self.positives_per_group, self.negatives)
        if smallest < 1 or self.positives_per_group > self.positives_per_query:
            raise ConfigError(
                f"a group of {self.positives_per_group} out of {self.positives_per_query} positives and "
                f"{self.negatives} negatives: each is at least 1, and a group holds no more positives than are drawn"
            )


@dataclass(frozen=True, eq=False)
class Groups:
    """Groups one behind the other: group `i` is query `queries[i]` with rows `offsets[i]` to `offsets[i + 1]`.

    Positives come first in a group, then negatives.

    Shape: queries (groups,), offsets (groups + 1,), docs (rows,), labels (rows,) in [0, 1], teacher (rows,) or None.
    """

    queries: IntArray
    offsets: IntArray
    docs: IntArray
    labels: FloatArray
    teacher: FloatArray | None = None

    def __len__(self) -> int:
        return len(self.queries)

    @property
    def row_queries(self) -> IntArray:
        """The query of every row. Shape: (rows,)."""
        return np.repeat(self.queries, np.diff(self.offsets))

    def part(self, first: int, last: int) -> Groups:
        """The groups from `first` up to, without it, `last`."""
        offsets = self.offsets[first : last + 1]
        rows = slice(int(offsets[0]), int(offsets[-1]))
        teacher = None if self.teacher is None else self.teacher[rows]
        return Groups(self.queries[first:last], offsets - offsets[0], self.docs[rows], self.labels[rows], teacher)


def batches(groups: Groups, batch_size: int) -> Iterator[Groups]:
    """Consecutive slices of `batch_size` groups; the last one may be smaller."""
    if batch_size < 1:
        raise ConfigError(f"batch_size {batch_size}: a batch holds at least 1 group")
    for first in range(0, len(groups), batch_size):
        yield groups.part(first, min(first + batch_size, len(groups)))


class GroupSampler:
    """Draws the same groups for the same (seed, epoch), in any process, at any time."""

    def __init__(
        self,
        train_labels: Qrels,
        pools: Mapping[int, IntArray],
        shape: GroupShape,
        *,
        min_grade: int = 1,
        seed: int,
        teacher: PairScores | None = None,
    ) -> None:
        """`pools` are the negatives of each query, as from `mine_ranking_negatives`; positives in them are left out.

        Raises:
            DataError: no query has both a positive and a negative.
        """
        relevant = train_labels.relevant(min_grade)
        rows = range(len(relevant))
        found = [np.setdiff1d(pools.get(int(relevant.queries[i]), ()), relevant.row(i)[0]) for i in rows]
        usable = np.array([len(pool) > 0 for pool in found], dtype=np.bool_)
        if not usable.any():
            raise DataError(_nothing(len(train_labels), len(relevant), min_grade))
        self.left_out = int((~usable).sum())
        """Queries with positives that have no negative: no group is drawn for them."""
        self._pools = {
            int(query): pool.astype(np.int64) for query, pool in zip(relevant.queries, found, strict=True) if len(pool)
        }
        self._relevant = relevant.select(usable)
        self._shape, self._seed, self._teacher = shape, seed, teacher
        gains = np.maximum(train_labels.grades, 0) / train_labels.grades.max()
        self._gains = PairScores(train_labels.label_queries, train_labels.docs, gains.astype(np.float32))

    def __len__(self) -> int:
        """Groups in one epoch; the same for every epoch."""
        drawn = np.minimum(np.diff(self._relevant.offsets), self._shape.positives_per_query)
        return int(np.ceil(drawn / self._shape.positives_per_group).sum())

    def epoch(self, number: int) -> Groups:
        """The groups of one epoch, in the order in which they are trained on."""
        rng = np.random.default_rng((self._seed, number))
        queries, positives = self._positives(rng)
        pools = [self._pools[int(query)] for query in queries]
        negatives = [rng.choice(pool, min(self._shape.negatives, len(pool)), replace=False) for pool in pools]
        docs = np.concatenate([part for pair in zip(positives, negatives, strict=True) for part in pair])
        ends = np.cumsum([len(a) + len(b) for a, b in zip(positives, negatives, strict=True)])
        offsets = np.concatenate(([0], ends)).astype(np.int64)
        rows = np.repeat(queries, np.diff(offsets))
        labels = np.nan_to_num(self._gains.at(rows, docs))
        if not self._shape.graded:
            place = np.arange(len(docs)) - np.repeat(offsets[:-1], np.diff(offsets))
            labels = (place < np.repeat([len(part) for part in positives], np.diff(offsets))).astype(np.float32)
        return Groups(queries, offsets, docs, labels, None if self._teacher is None else self._teacher.at(rows, docs))

    def check_teacher(self, query_ids: Sequence[str], doc_ids: Sequence[str]) -> None:
        """Raise `DataError` unless the teacher scores every pair that an epoch may draw; ids are for the message."""
        pools = list(self._pools.items())
        negatives = np.repeat([query for query, _ in pools], [len(pool) for _, pool in pools])
        queries = np.concatenate([self._relevant.label_queries, negatives])
        docs = np.concatenate([self._relevant.docs, *(pool for _, pool in pools)])
        scores = np.full(len(docs), np.nan) if self._teacher is None else self._teacher.at(queries, docs)
        missing = np.flatnonzero(np.isnan(scores))
        if len(missing):
            named = [
                f"query {query_ids[q]!r} document {doc_ids[d]!r}"
                for q, d in zip(queries[missing], docs[missing], strict=True)
            ]
            shown = "; ".join(named[:_SHOWN]) + ("; ..." if len(named) > _SHOWN else "")
            raise DataError(
                f"the teacher has no score for {len(named):,} of {len(docs):,} training pairs: {shown}. Let it score "
                "these too, or mine negatives from the run that it scored",
                tuple(named),
            )

    def _positives(self, rng: np.random.Generator) -> tuple[IntArray, list[IntArray]]:
        """Each group's query and its positives, both in an order that `rng` shuffled. Shape: queries (groups,)."""
        queries, docs = epoch_pairs(self._relevant, self._shape.positives_per_query, rng)
        order = np.argsort(queries, kind="stable")
        rank = np.empty(len(queries), dtype=np.int64)  # of a positive among those of its query
        rank[order] = np.arange(len(queries)) - np.searchsorted(queries[order], queries[order])
        chunk = rank // self._shape.positives_per_group
        by_group = np.lexsort((rank, chunk, queries))
        first = rank[by_group] % self._shape.positives_per_group == 0
        parts = np.split(docs[by_group], np.flatnonzero(first)[1:])
        shuffled = np.argsort(by_group[first], kind="stable")  # groups in the order of their first positive
        return queries[by_group[first]][shuffled], [parts[i] for i in shuffled]


def _nothing(judged: int, with_positives: int, min_grade: int) -> str:
    if not with_positives:
        return (
            f"no training group: none of {judged:,} judged queries has a document of grade {min_grade} or more; look "
            "at the train split's labels and at min_grade"
        )
    return (
        f"no training group: none of {with_positives:,} queries with a relevant document has a negative; mine deeper "
        "(a greater last_rank, a smaller margin), or label documents that are not relevant"
    )
