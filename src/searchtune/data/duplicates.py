"""Documents that stand in a corpus more than once: found by their text, reported, and scored as one where wanted.

A copy of a relevant document is rarely judged, so a system that ranks the copy first is punished for a right answer,
and two copies in a ranking push others down. Folding gives every group one representative, in rankings and labels alike
(Bernstein & Zobel 2005, CIKM, on redundant documents in test collections).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from searchtune.data.near import NEAR_THRESHOLD, near_groups, normalise
from searchtune.types import NO_DOC, Collection, IntArray, Qrels, Run

_SHOWN = 5
_SHOWN_IDS = 4
_SHOWN_TEXT = 80


@dataclass(frozen=True)
class DuplicateGroup:
    """Documents with the same text, or nearly the same."""

    docs: tuple[int, ...]
    """Positions in the collection's documents, ascending; the first one is the representative."""
    exact: bool
    """Whether all of them are equal once normalised."""


@dataclass(frozen=True)
class DuplicateReport:
    """All duplicate groups of a corpus, the largest first. `representatives` maps every document to its group's first.

    Shape: representatives (documents,).
    """

    groups: tuple[DuplicateGroup, ...]
    representatives: IntArray
    collection: Collection

    @property
    def superfluous(self) -> int:
        """Documents beyond the first of each group."""
        return sum(len(group.docs) - 1 for group in self.groups)

    def describe(self) -> list[str]:
        """How many there are, and the first groups with ids and text; nothing where there is none."""
        if not self.groups:
            return []
        exact = sum(group.exact for group in self.groups)
        total = len(self.representatives)
        head = (
            f"{self.superfluous:,} of {total:,} documents repeat another one ({len(self.groups):,} groups, {exact:,} "
            f"of them equal but for case and punctuation)"
        )
        more = [f"... and {len(self.groups) - _SHOWN:,} more groups"] if len(self.groups) > _SHOWN else []
        return [head, *(self._line(group) for group in self.groups[:_SHOWN]), *more]

    def _line(self, group: DuplicateGroup) -> str:
        ids = ", ".join(repr(self.collection.doc_ids[doc]) for doc in group.docs[:_SHOWN_IDS])
        rest = f" and {len(group.docs) - _SHOWN_IDS:,} more" if len(group.docs) > _SHOWN_IDS else ""
        text = " ".join(self.collection.documents[group.docs[0]].split())[:_SHOWN_TEXT]
        return f"{'equal' if group.exact else 'nearly equal'}: {ids}{rest}: {text!r}"


def find_duplicates(collection: Collection, *, threshold: float = NEAR_THRESHOLD) -> DuplicateReport:
    """Groups of documents with at least this similarity of words and word pairs; 1 finds equal sets of them only.

    Groups are connected components, so two documents of one group may be less similar. Empty documents are no
    duplicates of each other.
    """
    texts = collection.documents
    names = near_groups([texts], threshold)
    members: dict[int, list[int]] = {}
    for doc, name in enumerate(names):
        members.setdefault(name, []).append(doc)
    groups = [
        DuplicateGroup(tuple(docs), exact=len({normalise(texts[doc]) for doc in docs}) == 1)
        for docs in members.values()
        if len(docs) > 1
    ]
    groups.sort(key=lambda group: (-len(group.docs), group.docs))
    return DuplicateReport(tuple(groups), np.array(names, dtype=np.int64), collection)


def fold_run(run: Run, representatives: IntArray) -> Run:
    """The run with every document replaced by its representative, which keeps the best of its group's ranks.

    Rows grow shorter by what falls together. Equal scores are ordered anew by document id, as trec_eval does.
    Shape: representatives (documents,).
    """
    docs = np.where(run.docs == NO_DOC, NO_DOC, representatives[run.docs])  # (judged, depth)
    later = np.zeros_like(docs, dtype=np.bool_)
    for row, place in zip(docs, later, strict=True):
        _, first = np.unique(row, return_index=True)
        place[:] = True
        place[first] = False
    return Run.ranked(run.queries, np.where(later, NO_DOC, docs), run.scores)


def fold_qrels(qrels: Qrels, representatives: IntArray) -> Qrels:
    """The labels by representative, each with the highest grade that its group has for the query.

    Shape: representatives (documents,).
    """
    queries, docs = qrels.label_queries, representatives[qrels.docs]
    order = np.lexsort((-qrels.grades, docs, queries))
    queries, docs, grades = queries[order], docs[order], qrels.grades[order]
    first = np.ones(len(order), dtype=np.bool_)
    first[1:] = (queries[1:] != queries[:-1]) | (docs[1:] != docs[:-1])
    return Qrels.from_triples(queries[first], docs[first], grades[first])
