"""Candidate rewrites of a query, the reward of each, and the pairs of a better and a worse one to learn from.

Rewrites can be made from a relevant document, which is doc2query (Nogueira et al. 2019, arXiv:1904.08375) the other
way round: the words that a search would have needed are put into the query. A word that stands in no other document is
left out, because nobody could guess it from the query.

Nothing here knows a model or how rewards come about.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from searchtune.errors import DataError
from searchtune.specs.reward import Mode
from searchtune.types import Turn

_WORD = re.compile(r"\b\w\w+\b")
_GUESSABLE = 2
"""Documents a word must stand in to be put into a rewrite."""
SAME = 1e-9
"""Rewards nearer than this are equal: above rounding, below any metric's smallest step."""


def words(text: str) -> list[str]:
    """The words that BM25 knows a text by: lower case, two letters or more, in order and with repeats.

    >>> words("os.path: Join a path_list")
    ['os', 'path', 'join', 'path_list']
    """
    return _WORD.findall(text.lower())


def searched_text(utterance: str, rewrite: str, mode: Mode) -> str:
    """The text that is searched for a rewrite; a rewrite that is empty or the utterance itself changes nothing.

    Under `fuse` this is the text of the second ranking.
    """
    if not rewrite.strip() or rewrite.strip() == utterance.strip():
        return utterance
    return f"{utterance} {rewrite}" if mode == "append" else rewrite


@dataclass(frozen=True)
class WordWeights:
    """How telling words are in a corpus."""

    idf: Mapping[str, float]
    """ln(1 + (N - n + .5) / (n + .5)) for a word that n of N documents hold, as in Lucene's BM25."""
    documents: Mapping[str, int]
    """n, by word."""
    length: float
    """Mean number of words of a document."""

    @classmethod
    def of(cls, documents: Sequence[str]) -> WordWeights:
        """Count the words of a corpus."""
        counts: Counter[str] = Counter()
        total = 0
        for document in documents:
            found = words(document)
            total += len(found)
            counts.update(set(found))
        n = np.fromiter(counts.values(), dtype=np.float64, count=len(counts))
        idf = np.log1p((len(documents) - n + 0.5) / (n + 0.5)).tolist()
        return cls(dict(zip(counts, idf, strict=True)), counts, total / max(1, len(documents)))

    def weightiest(self, text: str, count: int, leave_out: Iterable[str] = ()) -> list[str]:
        """The `count` words of a text with the highest BM25 weight (k1 1.5, b .75), the highest first.

        Words that fewer than two documents hold and those to leave out are not taken. Ties go by the alphabet.
        """
        found = words(text)
        scale = 1.5 * (0.25 + 0.75 * len(found) / self.length) if self.length else 1.0
        weight = {
            word: self.idf[word] * often * 2.5 / (often + scale)
            for word, often in Counter(found).items()
            if self.documents.get(word, 0) >= _GUESSABLE
        }
        for word in leave_out:
            weight.pop(word, None)
        return sorted(weight, key=lambda word: (-weight[word], word))[:count]


def document_candidates(
    utterance: str, title: str, text: str, weights: WordWeights, *, count: int, mode: Mode
) -> list[str]:
    """Rewrites made from a document that is relevant to the utterance: with its title, its weightiest words, or both.

    Under `append` they are what is added alone; otherwise the utterance stands before it. Words of the utterance are
    not repeated, and whatever has no new word is left out.
    """
    known = set(words(utterance))
    from_title = _guessable(title, weights, known)
    from_text = weights.weightiest(text, count, [*known, *from_title])
    found = []
    for added in ([*from_title], [*from_text], [*from_title, *from_text]):
        line = " ".join(added)
        found.append(line if mode == "append" else f"{utterance.strip()} {line}")
        if not added:
            found.pop()
    return list(dict.fromkeys(found))


def _guessable(title: str, weights: WordWeights, known: set[str]) -> list[str]:
    """A title's new words, each once and in its order; snake_case also by its parts, as people say them."""
    spelled = [
        part for word in words(title) for part in (word, *(words(word.replace("_", " ")) if "_" in word else ()))
    ]
    return [
        word for word in dict.fromkeys(spelled) if word not in known and weights.documents.get(word, 0) >= _GUESSABLE
    ]


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
