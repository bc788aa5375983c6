"""Hard negatives taken from a run: documents ranked high for a query that are not known to be relevant."""

from __future__ import annotations

import numpy as np

from searchtune.data.examples import KnownRelevance
from searchtune.specs.recipe import HardNegatives
from searchtune.types import NO_DOC, IntArray, Qrels, Run


def mine_hard_negatives(run: Run, relevant: Qrels, known: KnownRelevance, window: HardNegatives) -> dict[int, IntArray]:
    """For each query, the documents between the window's ranks that look wrong but not unlabelled.

    Known positives (by label or by equal text) are taken out before ranks are counted. A document is skipped as a
    likely unlabelled positive unless its score is at least the share `margin` below the lowest of its own ranked
    positives (de Souza P. Moreira et al. 2024, arXiv:2407.15831). A query may end up with none.

    Returns:
        Query -> document positions, best first.
    """
    mined: dict[int, IntArray] = {}
    positives = {int(query): set(relevant.row(i)[0].tolist()) for i, query in enumerate(relevant.queries)}
    for row, query in enumerate(run.queries):
        docs, scores = run.docs[row], run.scores[row]
        docs, scores = docs[docs != NO_DOC], scores[: int((docs != NO_DOC).sum())]
        is_relevant = known.mask(np.array([query]), docs)[0]
        own = np.isin(docs, list(positives.get(int(query), ())))
        ceiling = np.inf
        if own.any():
            lowest = float(scores[own].min())
            ceiling = lowest - window.margin * abs(lowest)
        docs, scores = docs[~is_relevant], scores[~is_relevant]
        place = np.arange(1, len(docs) + 1)
        keep = (place >= window.first_rank) & (place <= window.last_rank) & (scores <= ceiling)
        mined[int(query)] = docs[keep]
    return mined
