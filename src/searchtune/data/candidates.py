"""Candidate rewrites of a query, the reward of each, and the pairs of a better and a worse one to learn from.

Rewrites can be made from documents, which is doc2query (Nogueira et al. 2019, arXiv:1904.08375) the other way round:
words that a search would have needed are put into the query. A relevant document has plenty of them, but most can be
guessed by nobody; only those are taken that go with the query's words in other training pairs too, as in translation
models of retrieval (Berger and Lafferty 1999).

Nothing here knows a model or how rewards come about.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy import sparse

from searchtune.data.near import normalise
from searchtune.errors import DataError
from searchtune.specs.reward import Mode
from searchtune.types import FloatArray64, Turn
from searchtune.words import search_words

_PAIRS = 2
"""Other training documents in which two words must go together before one is guessed from the other."""
_LIFT = 1.5
"""How much likelier than in any training document a word must be in those of a query's word."""
_CAUTION = 5.0
"""Documents without the word that are added to what was counted."""
_TELLING = 0.25
"""Share of the highest idf that a guessed word must have: others change no ranking."""
SAME = 1e-9
"""Rewards nearer than this are equal: above rounding, below any metric's smallest step."""


def says_new(utterance: str, rewrite: str) -> bool:
    """Whether a rewrite has other words than the utterance (see `normalise`); an empty one has not."""
    return bool(rewrite.strip()) and normalise(rewrite) != normalise(utterance)


def searched_text(utterance: str, rewrite: str, mode: Mode) -> str:
    """The text that is searched for a rewrite: the utterance as it is where the rewrite says nothing new.

    Under `fuse` this is the text of the second ranking.
    """
    if not says_new(utterance, rewrite):
        return utterance
    return f"{utterance} {rewrite}" if mode == "append" else rewrite


def word_idf(documents: Sequence[str]) -> dict[str, float]:
    """ln(1 + (N - n + .5) / (n + .5)) of every word that n of N documents hold, as in Lucene's BM25."""
    counts = Counter(word for document in documents for word in set(search_words(document)))
    n = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
    idf = np.log1p((len(documents) - n + 0.5) / (n + 0.5)).tolist()
    return dict(zip(counts, idf, strict=True))


class WordAssociations:
    """Which words of documents go with which words of queries in training pairs.

    A pair is a query with one relevant document. For a query's words, a document word's strength is the chance that at
    least one of them brings it along, 1 - product of (1 - n(q, d) / (n(q) + 5)) over the query's words q, times its idf
    as a share of the highest. Counts are of documents, each with the words of all its queries: several queries with one
    document prove nothing about others.
    """

    def __init__(self, queries: Sequence[str], documents: Sequence[str], idf: Mapping[str, float]) -> None:
        """Count over pairs: `queries[i]` with `documents[i]`; `idf` is the whole corpus's."""
        places: dict[str, int] = {}
        self._document_of = [places.setdefault(document, len(places)) for document in documents]
        asked: list[list[str]] = [[] for _ in places]
        for query, place in zip(queries, self._document_of, strict=True):
            asked[place].append(query)
        self._queries, self._query_rows = _presence([" ".join(texts) for texts in asked])
        vocabulary, self._document_rows = _presence(list(places))
        self._words = np.array(list(vocabulary), dtype=object)
        self._together = (self._query_rows.T @ self._document_rows).tocsr()
        self._with_query = np.asarray(self._query_rows.sum(axis=0), dtype=np.float64).ravel()
        self._with_document = np.asarray(self._document_rows.sum(axis=0), dtype=np.float64).ravel()
        highest = max(idf.values(), default=0.0) or 1.0
        self._idf = np.array([idf.get(word, 0.0) / highest for word in vocabulary], dtype=np.float64)

    def guesses(self, query: str, count: int, *, least: float = 0.25, pair: int | None = None) -> list[str]:
        """The strongest words for a query, at most `count` and none below `least`; its own words are left out.

        With `pair`, that training pair's document is left out of the counts, as if it had never been seen.
        """
        own = None if pair is None else self._document_rows[[self._document_of[pair]]].indices
        return self._strongest(query, self._strengths(query, own), np.arange(len(self._words)), count, least)

    def found(self, query: str, pair: int, count: int, *, least: float = 0.1) -> list[str]:
        """The same, of the words of that pair's document alone."""
        own = self._document_rows[[self._document_of[pair]]].indices
        return self._strongest(query, self._strengths(query, own), own, count, least)

    def _strengths(self, query: str, own: npt.NDArray[Any] | None) -> FloatArray64:
        """The strength of every document word; `own` are those of a document that does not count."""
        missed = np.ones(len(self._words))
        left_out = 0 if own is None else 1
        for word in set(search_words(query)):
            row = self._queries.get(word)
            if row is None or self._with_query[row] - left_out < _PAIRS:
                continue
            start, stop = self._together.indptr[row : row + 2]
            columns = self._together.indices[start:stop]
            hidden = np.zeros(len(columns)) if own is None else np.isin(columns, own).astype(np.float64)
            together = self._together.data[start:stop] - hidden
            total = self._with_query[row] - left_out
            usual = (self._with_document[columns] - hidden) / max(1, self._query_rows.shape[0] - left_out)
            sure = (together >= _PAIRS) & (together / total > _LIFT * usual)
            missed[columns] *= 1 - np.where(sure, together / (total + _CAUTION), 0.0)
        return np.where(self._idf >= _TELLING, self._idf * (1 - missed), 0.0)

    def _strongest(
        self, query: str, strengths: FloatArray64, among: npt.NDArray[Any], count: int, least: float
    ) -> list[str]:
        known = set(search_words(query))
        likely = among[strengths[among] >= least]
        order = sorted(likely.tolist(), key=lambda place: (-strengths[place], self._words[place]))
        return [str(self._words[place]) for place in order if self._words[place] not in known][:count]


def document_candidates(
    utterance: str, pair: int, associations: WordAssociations, *, count: int, mode: Mode
) -> list[str]:
    """Rewrites made from a training pair: with the words of its document that other pairs let one guess, all or the
    strongest alone, and with the strongest guesses whether the document has them or not.

    The pair itself is left out of the counts. Under `append` a rewrite is what is added alone; otherwise the utterance
    stands before it. Whatever adds no word is left out.
    """
    own = associations.found(utterance, pair, count)
    lines = [" ".join(added) for added in (own, own[:1], associations.guesses(utterance, count, pair=pair)) if added]
    return list(dict.fromkeys(line if mode == "append" else f"{utterance.strip()} {line}" for line in lines))


def _presence(texts: Sequence[str]) -> tuple[dict[str, int], sparse.csr_matrix]:
    """Words with their columns, and which text holds which. Shape: (texts, words), 0 or 1."""
    places: dict[str, int] = {}
    columns: list[int] = []
    offsets = [0]
    for text in texts:
        columns += [places.setdefault(word, len(places)) for word in dict.fromkeys(search_words(text))]
        offsets.append(len(columns))
    ones = np.ones(len(columns), dtype=np.int64)
    return places, sparse.csr_matrix((ones, columns, offsets), shape=(len(texts), len(places)))


@dataclass(frozen=True)
class RewardedTurn:
    """A turn with its candidate rewrites and what each is worth."""

    query_id: str
    turn: Turn
    original: float
    """Reward of the utterance as it is."""
    candidates: tuple[str, ...]
    """Each once; the likeliest rewrite of the model first, if there is one."""
    rewards: tuple[float, ...]
    """One a candidate."""

    def __post_init__(self) -> None:
        if len(self.candidates) != len(self.rewards):
            raise DataError(
                f"query {self.query_id!r}: {len(self.candidates)} candidates and {len(self.rewards)} rewards; "
                "give one each"
            )
        if not np.isfinite([self.original, *self.rewards]).all():
            raise DataError(f"query {self.query_id!r}: rewards {self.rewards} are not all finite numbers")

    @property
    def best(self) -> tuple[str, float] | None:
        """The candidate with the highest reward, the shortest of equals; None without any."""
        ranked = self.ranked(highest_first=True)
        return ranked[0] if ranked else None

    def ranked(self, *, highest_first: bool) -> list[tuple[str, float]]:
        """Candidates and rewards by reward; among equals the shorter first, then by the alphabet."""
        sign = -1 if highest_first else 1
        both = zip(self.candidates, self.rewards, strict=True)
        return sorted(both, key=lambda pair: (sign * pair[1], len(pair[0]), pair[0]))


@dataclass(frozen=True)
class Preference:
    """A better and a worse rewrite of one turn."""

    query_id: str
    turn: Turn
    chosen: str
    rejected: str
    margin: float
    """How much more the better one is worth."""


def preferences(rewarded: Sequence[RewardedTurn], *, min_margin: float, per_query: int) -> list[Preference]:
    """Each turn's best candidate against its worst, its second best against its second worst, and so on.

    A pair needs a margin of at least `min_margin`, and a candidate is in one pair at most. Among candidates of equal
    reward the shorter comes first on both sides, so that length is not what is learned; then the alphabet decides.
    """
    found = []
    for one in rewarded:
        best, worst = one.ranked(highest_first=True), one.ranked(highest_first=False)
        used: set[str] = set()
        for (chosen, high), (rejected, low) in list(zip(best, worst, strict=True))[:per_query]:
            if high - low < max(min_margin - SAME, SAME) or {chosen, rejected} & used:
                break
            used |= {chosen, rejected}
            found.append(Preference(one.query_id, one.turn, chosen, rejected, high - low))
    return found


def best_rewrites(rewarded: Sequence[RewardedTurn]) -> list[tuple[Turn, str]]:
    """Each turn with its best candidate, where that is worth more than the utterance; else with the utterance itself.

    A turn whose utterance is no candidate is left out where no candidate is worth more.
    """
    found = []
    for one in rewarded:
        best = one.best
        if best is not None and best[1] > one.original + SAME:
            found.append((one.turn, best[0]))
        elif one.turn.utterance in one.candidates:
            found.append((one.turn, one.turn.utterance))
    return found
