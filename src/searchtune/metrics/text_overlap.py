"""How much a text says what a reference says: exact match, token F1 and ROUGE-L, on plain strings.

Exact match and token F1 are those of SQuAD (Rajpurkar et al. 2016, arXiv:1606.05250): lower case, without punctuation
and without the articles a, an, the. ROUGE-L is Lin's (2004, ACL W04-1013), the F-measure of the longest common
subsequence of lower-case words, without stemming. In scripts without spaces both count characters, as is usual there
(Cui et al. 2019, arXiv:1810.07366).
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from searchtune.words import find_words, has_unspaced

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalised(text: str) -> str:
    """Lower case without punctuation, articles and repeated space, as SQuAD compares answers."""
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def exact_match(text: str, reference: str) -> float:
    """1.0 where both are the same once normalised, else 0.0."""
    return float(normalised(text) == normalised(reference))


def token_f1(text: str, reference: str) -> float:
    """Harmonic mean of precision and recall of the normalised words, each counted as often as it occurs.

    Two texts without any word are alike (1.0); one without any against one with some has nothing in common (0.0).
    """
    own, wanted = Counter(_tokens(text)), Counter(_tokens(reference))
    if not own or not wanted:
        return float(own == wanted)
    return _f_measure((own & wanted).total(), own.total(), wanted.total())


def rouge_l(text: str, reference: str) -> float:
    """F-measure of the longest common subsequence of words; words are runs of letters and digits in lower case."""
    own, wanted = (find_words(one.lower(), underscore=False) for one in (text, reference))
    if not own or not wanted:
        return float(own == wanted)
    return _f_measure(longest_common_subsequence(own, wanted), len(own), len(wanted))


def longest_common_subsequence(first: Sequence[str], second: Sequence[str]) -> int:
    """How many words, in order, both have. O(len(first) * len(second))."""
    row = [0] * (len(second) + 1)
    for word in first:
        above_left = 0
        for place, other in enumerate(second, start=1):
            above, row[place] = row[place], above_left + 1 if word == other else max(row[place], row[place - 1])
            above_left = above
    return row[-1]


def best_of(measure: Callable[[str, str], float], text: str, references: Sequence[str]) -> float:
    """The measure against the reference that it is highest for, as SQuAD scores several; 0.0 without any."""
    return max((measure(text, reference) for reference in references), default=0.0)


def _tokens(text: str) -> list[str]:
    plain = normalised(text)
    return find_words(plain) if has_unspaced(plain) else plain.split()


def _f_measure(common: int, own: int, wanted: int) -> float:
    return 2 * common / (own + wanted)
