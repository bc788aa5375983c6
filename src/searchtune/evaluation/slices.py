"""Kinds of queries: by length, by number of relevant documents, by words shared with them, and by the user's own tags.

A gain that all queries share and a gain that a few give look the same in a mean. The bins of a kind show which it is.
This module only says which query lies in which bin; `evaluation.figures` scores them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from searchtune.errors import DataError, did_you_mean
from searchtune.types import Collection, FloatArray64, IntArray, Qrels
from searchtune.words import find_terms, find_words

BoolArray = npt.NDArray[np.bool_]
Bins = dict[str, BoolArray]
"""Readable name of a bin -> whether each judged query lies in it. Shape of each: (judged,)."""

LENGTH = "query length"
RELEVANT = "relevant documents"
OVERLAP = "words shared with the answer"
TAGS = "tag"
MOST_TAGS = 12
"""Tags that are shown: those of most judged queries."""
MANY = 200
"""Judged queries from which lengths are cut into four bins instead of three."""

_STOP_WORDS = frozenset(
    find_words(
        "a about an and any are as at be been but by can could did do does for from had has have he her his how i if "
        "in into is it its me my no not of on or our she should so some such than that the their them then there these "
        "they this to us was we were what when where which who whom whose why will with would you your"
    )
)


def query_bins(
    collection: Collection, qrels: Qrels, tags: Mapping[str, Sequence[str]] | None = None
) -> dict[str, Bins]:
    """Every kind of slice of the judged queries, each with its bins that hold any query.

    `tags` maps query ids to the user's tags. Raises `DataError` where it names a query that is not in the collection.
    """
    texts = [collection.query_texts[int(query)] for query in qrels.queries]
    kinds = {
        LENGTH: length_bins(np.array([len(find_words(text)) for text in texts], dtype=np.int64)),
        RELEVANT: relevant_bins(relevant_counts(qrels, collection.min_grade)),
        OVERLAP: overlap_bins(word_overlap(collection, qrels)),
        TAGS: tag_bins(collection, qrels, tags or {}),
    }
    return {kind: bins for kind, bins in kinds.items() if bins}


def length_bins(words: IntArray) -> Bins:
    """Three bins of about equal size, four from `MANY` queries on; fewer where lengths repeat. Shape: words (judged,).

    >>> list(length_bins(np.array([2, 3, 3, 5, 6, 9])))
    ['2–3 words', '4–5 words', '6–9 words']
    """
    if not len(words):
        return {}
    count = 4 if len(words) >= MANY else 3
    inner = np.quantile(words, np.arange(1, count) / count, method="inverted_cdf").astype(np.int64)
    tops = np.unique([*inner.tolist(), int(words.max())])  # last length of each bin
    lows = [int(words.min()), *(int(top) + 1 for top in tops[:-1])]
    return {
        f"{_span(low, int(top))} {'word' if top == 1 else 'words'}": (words >= low) & (words <= top)
        for low, top in zip(lows, tops, strict=True)
    }


def relevant_counts(qrels: Qrels, min_grade: int = 1) -> IntArray:
    """How many documents are relevant to each judged query. Shape: (judged,)."""
    rows = np.repeat(np.arange(len(qrels)), np.diff(qrels.offsets))
    return np.bincount(rows[qrels.grades >= min_grade], minlength=len(qrels)).astype(np.int64)


def relevant_bins(counts: IntArray) -> Bins:
    """One, two to five, six and more; none where the labels hold no relevant document. Shape: counts (judged,)."""
    bins = {
        "none relevant": counts == 0,
        "1 relevant": counts == 1,
        "2–5 relevant": (counts >= 2) & (counts <= 5),
        "6+ relevant": counts >= 6,
    }
    return _filled(bins)


def word_overlap(collection: Collection, qrels: Qrels) -> FloatArray64:
    """Share of a query's words that its best matching relevant document holds; NaN without a relevant document.

    Words are compared with case folded and as they stand, without stemming. Stop words do not count, unless the query
    has no others. Shape: (judged,).
    """
    known: dict[int, frozenset[str]] = {}

    def words_of(doc: int) -> frozenset[str]:
        if doc not in known:
            known[doc] = _words(f"{collection.titles[doc]} {collection.texts[doc]}")
        return known[doc]

    shares = np.full(len(qrels), np.nan)
    for i, query in enumerate(qrels.queries.tolist()):
        docs, grades = qrels.row(i)
        relevant = docs[grades >= collection.min_grade].tolist()
        words = _words(collection.query_texts[query])
        asked = words - _STOP_WORDS or words
        if relevant and asked:
            shares[i] = max(len(asked & words_of(doc)) for doc in relevant) / len(asked)
    return shares


def overlap_bins(shares: FloatArray64) -> Bins:
    """Three bins, cut at a third and at two thirds; queries without a share are in none. Shape: shares (judged,)."""
    third = 1 / 3
    bins = {
        "below a third": shares < third,
        "a third to two thirds": (shares >= third) & (shares <= 2 * third),
        "over two thirds": shares > 2 * third,
    }
    return _filled(bins)


def tag_bins(collection: Collection, qrels: Qrels, tags: Mapping[str, Sequence[str]]) -> Bins:
    """The judged queries that carry each of the most common tags, and those without any where there are some."""
    known = collection.query_index
    for query_id in tags:
        if query_id not in known:
            near = did_you_mean(query_id, known) if len(known) <= 1000 else ""
            raise DataError(f"{collection.name}: tags name query {query_id!r}, which is not in the collection{near}")
    given = [frozenset(tags.get(collection.query_ids[int(query)], ())) for query in qrels.queries]
    counts = Counter(tag for tagged in given for tag in tagged)
    common = sorted(counts, key=lambda tag: (-counts[tag], tag))[:MOST_TAGS]
    bins = {tag: np.array([tag in tagged for tagged in given], dtype=np.bool_) for tag in common}
    return (
        _filled({**bins, "without a tag": np.array([not tagged for tagged in given], dtype=np.bool_)}) if bins else {}
    )


def _filled(bins: Bins) -> Bins:
    return {name: inside for name, inside in bins.items() if inside.any()}


def _words(text: str) -> frozenset[str]:
    return frozenset(find_terms(text.casefold()))


def _span(low: int, top: int) -> str:
    return str(low) if low == top else f"{low}–{top}"
