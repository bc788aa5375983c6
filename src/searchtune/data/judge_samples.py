"""Drawing the pairs that a judge is trained on, so that grades are even over all pairs or within each query."""

from __future__ import annotations

import numpy as np

from searchtune.data.judging import UNJUDGED, JudgePairs
from searchtune.errors import ConfigError
from searchtune.types import IntArray


def balanced_sample(pairs: JudgePairs, per_grade: int, *, seed: int) -> JudgePairs:
    """Up to `per_grade` pairs of each grade that people gave, spread over as many queries as possible.

    The same seed draws the same pairs; a grade with fewer gives all it has. Pairs without a grade are left out.

    Raises:
        ConfigError: `per_grade` below 1.
    """
    if per_grade < 1:
        raise ConfigError(f"{per_grade} pairs a grade: draw at least 1")
    rng = np.random.default_rng(seed)
    chosen = []
    for grade in np.unique(pairs.grades[pairs.grades != UNJUDGED]):
        places = rng.permutation(np.flatnonzero(pairs.grades == grade))
        chosen.append(_by_turns(pairs.queries[places], places)[:per_grade])
    return pairs.select(np.concatenate([np.zeros(0, dtype=np.int64), *chosen]))


def even_sample(pairs: JudgePairs, per_query: int, min_grade: int, *, seed: int) -> JudgePairs:
    """Up to `per_query` pairs of each query, as many relevant (`min_grade` or more) as not, even over grades.

    Where some queries have more relevant passages than others, a judge can guess from the query alone, and learns that
    before anything else; here it cannot. The same seed draws the same pairs. Queries with one side alone give nothing.

    Raises:
        ConfigError: `per_query` below 2.
    """
    if per_query < 2:
        raise ConfigError(f"{per_query} pairs a query: draw at least 2, one relevant and one not")
    rng = np.random.default_rng(seed)
    chosen = [np.zeros(0, dtype=np.int64)]
    for query in np.unique(pairs.queries):
        own = rng.permutation(np.flatnonzero((pairs.queries == query) & (pairs.grades != UNJUDGED)))
        sides = [own[pairs.grades[own] >= min_grade], own[pairs.grades[own] < min_grade]]
        count = min(*map(len, sides), per_query // 2)
        chosen.extend(_by_turns(pairs.grades[side], side)[:count] for side in sides)
    return pairs.select(np.concatenate(chosen))


def _by_turns(kinds: IntArray, places: IntArray) -> IntArray:
    """Places so that each kind's first comes before any kind's second. Shape: (places,) all."""
    by_kind = np.argsort(kinds, kind="stable")
    turn = np.empty(len(places), dtype=np.int64)
    turn[by_kind] = np.arange(len(places)) - np.searchsorted(kinds[by_kind], kinds[by_kind])
    return places[np.argsort(turn, kind="stable")]
