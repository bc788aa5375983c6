"""One of two rankings for each query."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from searchtune.errors import ConfigError
from searchtune.types import NO_DOC, Run

BoolArray = npt.NDArray[np.bool_]


def choose(original: Run, rewritten: Run, use: BoolArray) -> Run:
    """The rewrite's ranking where `use` is true, the utterance's elsewhere. Shape: runs of (queries, any depth).

    Raises:
        ConfigError: runs of different queries, or not one decision a query.
    """
    if not np.array_equal(original.queries, rewritten.queries) or use.shape != original.queries.shape:
        raise ConfigError(
            f"{len(original.queries)} utterances, {len(rewritten.queries)} rewrites and {use.size} decisions do not "
            "belong to the same queries"
        )
    return with_rows(original, use, rewritten.select(use))


def with_rows(run: Run, where: BoolArray, rows: Run) -> Run:
    """The run with other rows where `where` is true. Shape: rows (places that are true, any depth)."""
    depth = max(run.depth, rows.depth)
    result, fresh = _deep(run, depth), _deep(rows, depth)
    result.docs[where], result.scores[where] = fresh.docs, fresh.scores
    return result


def _deep(run: Run, depth: int) -> Run:
    """A copy of the run with rows of `depth` places, the last of them empty."""
    missing = ((0, 0), (0, depth - run.depth))
    docs = np.pad(run.docs, missing, constant_values=NO_DOC)
    return Run(run.queries, docs, np.pad(run.scores, missing, constant_values=-np.inf))
