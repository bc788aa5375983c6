"""Relevance from query likelihood: how much of what a query says the passage has told already.

A language model finds a query likelier after a passage that answers it (Ponte and Croft 1998; with neural models
Sachan et al. 2022, arXiv:2204.07496). Long and rare queries are unlikely after any passage, so the likelihood is taken
relative to that after no passage at all: the share of the query's information that the passage tells.
"""

from __future__ import annotations

import numpy as np

from searchtune.types import FloatArray64

SLOPE = 10.0
"""How steeply the probability of a grade rises with the share that is told."""
_MIDDLE, _STEP = 0.2, 0.1
"""The share from which on a pair is rather relevant than not, and how far the cuts of neighbouring grades are apart."""


def told_shares(given: FloatArray64, bare: FloatArray64) -> FloatArray64:
    """1 - log p(query | passage) / log p(query): 0 where the passage tells nothing, 1 all, below 0 where it misleads.

    Shape: given, bare (pairs,), natural logarithms below 0 -> (pairs,).
    """
    return 1.0 - given / bare


def grade_cuts(grades: int, min_grade: int) -> FloatArray64:
    """The share at which each grade but the lowest is as likely as a lower one. Shape: (grades - 1,)."""
    return np.asarray(_MIDDLE + _STEP * (np.arange(1, grades) - min_grade), dtype=np.float64)


def grade_shares(told: FloatArray64, grades: int, min_grade: int) -> FloatArray64:
    """Distributions over grades by proportional odds (McCullagh 1980); NaN gives a row of NaN.

    P(grade >= k) is the logistic function of `SLOPE` times the distance from the grade's cut.

    Shape: (pairs,) -> (pairs, grades).
    """
    above = 1 / (1 + np.exp(-SLOPE * (told[:, None] - grade_cuts(grades, min_grade))))  # (pairs, grades - 1)
    ones, zeros = np.ones((len(told), 1)), np.zeros((len(told), 1))
    return np.asarray(np.hstack([ones, above]) - np.hstack([above, zeros]), dtype=np.float64)
