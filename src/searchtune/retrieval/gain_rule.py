"""Deciding at run time which rewrites are used, from both rankings and both texts of each query."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from searchtune.data.candidates import says_new, word_idf
from searchtune.metrics.gain_features import GainFeatures, run_features, text_features
from searchtune.metrics.gain_prediction import GainPredictor, Use
from searchtune.types import Run
from searchtune.words import search_words

BoolArray = npt.NDArray[np.bool_]


class Deciding(Protocol):
    """Says which rewrites are used."""

    @property
    def use(self) -> Use:
        """Whether anything must be looked at: where it is "never", nobody needs to rewrite or to search for rewrites,
        and where it is "always", nobody needs to search for utterances.
        """

    def decide(
        self, utterances: Sequence[str], rewrites: Sequence[str], original: Run, rewritten: Run
    ) -> npt.NDArray[np.bool_]:
        """For which queries the rewrite is used. Row `i` of all is one query. Shape: (queries,)."""


@dataclass(frozen=True, eq=False)
class GainRule:
    """Uses a rewrite where a predictor expects a gain, and never one that says what the utterance says."""

    predictor: GainPredictor
    idf: Mapping[str, float]
    """Of the corpus's words (see `word_idf`)."""

    @classmethod
    def over(cls, predictor: GainPredictor, documents: Sequence[str]) -> GainRule:
        """The rule over a corpus, whose words are counted where it is going to look at them."""
        return cls(predictor, word_idf(documents) if predictor.use == "predicted" else {})

    @property
    def use(self) -> Use:
        return self.predictor.use

    def decide(self, utterances: Sequence[str], rewrites: Sequence[str], original: Run, rewritten: Run) -> BoolArray:
        """See `Deciding`.

        Raises:
            ConfigError: the predictor was fitted on a feature that is not had here.
            DataError: rankings of different queries, or scores that are not finite.
        """
        changed = changed_rows(utterances, rewrites)
        if self.use != "predicted":
            return changed & (self.use == "always")
        return changed & self.predictor.decide(rewrite_features(utterances, rewrites, original, rewritten, self.idf))


def changed_rows(utterances: Sequence[str], rewrites: Sequence[str]) -> BoolArray:
    """Where the rewrite says something else than the utterance. Shape: (queries,)."""
    pairs = zip(utterances, rewrites, strict=True)
    return np.array([says_new(old, new) for old, new in pairs], dtype=np.bool_)


def rewrite_features(
    utterances: Sequence[str], rewrites: Sequence[str], original: Run, rewritten: Run, idf: Mapping[str, float]
) -> GainFeatures:
    """What is known of rewrites without labels, when both have been searched; `idf` is that of the corpus's words."""
    texts = text_features([*map(search_words, utterances)], [*map(search_words, rewrites)], idf)
    return run_features(original, rewritten).beside(texts)
