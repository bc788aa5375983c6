"""Training examples of grounded answers: gold passages among distractors, and answers that cite them.

The mix follows RAFT (Zhang et al. 2024, arXiv:2403.10131): passages that answer stand among others that do not, in an
order that says nothing, and in some examples the gold ones are left out, so that a model learns to abstain.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from searchtune.data.answering import AnswerExample
from searchtune.errors import ConfigError
from searchtune.words import find_terms

_SENTENCE = re.compile(r"[.!?]+[\"')\]]*(?=\s+[\"'(\[]?[A-Z0-9`])|[。！？｡।؟۔]+[」』”\"')\]]*(?=\s*\S)")
"""The end of a sentence: its mark, and whatever closes behind it, before a capital or a digit; behind a
mark such as `。` before anything."""
_SHORT = re.compile(r"\b(?:[A-Z]|Dr|Mr|Mrs|Ms|Prof|St|Jr|Sr|vs|cf|approx|No|Fig|e\.g|i\.e|U\.S)\.$")
"""What ends in a full stop without ending a sentence."""
_END = re.compile(r"[.!?。！？｡।؟۔]+[\"')\]]*$")
Passages = Sequence[tuple[str, str]]
"""Id and text of each."""


def sentences(text: str) -> list[str]:
    """The sentences of a text, trimmed, none empty; abbreviations such as `Dr.` and initials end none.

    >>> sentences("Dr. No met J. Bond. He left!")
    ['Dr. No met J. Bond.', 'He left!']
    """
    found, start = [], 0
    for end in _SENTENCE.finditer(text):
        if not _SHORT.search(text[start : end.end()]):
            found.append(text[start : end.end()].strip())
            start = end.end()
    return [part for part in (*found, text[start:].strip()) if part]


def cited(text: str, passages: Sequence[str], gold: Sequence[int], selected: Sequence[str] = ()) -> str:
    """An answer with `[n]` in each sentence, before the mark that ends it; n counts the passages from 1.

    A sentence cites the gold passage that shares most words with it. Sentences that people `selected` count first: the
    one that is most alike decides by the passage that holds it. Without gold nothing is cited.

    >>> cited("It is blue. It is big.", ["big and red", "a blue one"], [0, 1])
    'It is blue [2]. It is big [1].'
    """
    if not gold:
        return text.strip()
    return " ".join(_with_citation(one, 1 + _source(one, passages, gold, selected)) for one in sentences(text))


def mixed(
    example: AnswerExample, others: Passages, *, distractors: int, drop_gold: bool, seed: Sequence[int]
) -> AnswerExample:
    """The question with some of `others` among its passages, in an order drawn from `seed`.

    As many as are drawn, each number from 0 to `distractors` being as likely, are taken from the front of `others`,
    where the most misleading ones stand. With `drop_gold` the gold passages are left out, and as many of `others` more
    take their places; the question is then to be left unanswered.

    Raises:
        ConfigError: fewer than 0 distractors.
    """
    if distractors < 0:
        raise ConfigError(f"{distractors} distractors: take 0 or more")
    rng = np.random.default_rng(list(seed))
    own = [(name, text, place in example.gold) for place, (name, text) in enumerate(_own(example))]
    kept = [one for one in own if not (drop_gold and one[2])]
    known = {text for _, text, _ in own}
    fresh = [(name, text, False) for name, text in others if text not in known]
    count = int(rng.integers(0, distractors + 1)) + len(own) - len(kept)
    whole = [*kept, *fresh[:count]]
    shuffled = [whole[int(i)] for i in rng.permutation(len(whole))]
    return replace(
        example,
        passages=tuple(text for _, text, _ in shuffled),
        passage_ids=tuple(name for name, _, _ in shuffled),
        gold=tuple(place for place, (_, _, gold) in enumerate(shuffled) if gold),
    )


def pool(examples: Sequence[AnswerExample]) -> list[tuple[str, str]]:
    """Every passage of these questions once, by text, in their order, with its id."""
    found: dict[str, str] = {}
    for example in examples:
        for name, text in _own(example):
            found.setdefault(text, name)
    return [(name, text) for text, name in found.items() if text]


def markdown(text: str) -> str:
    """An answer as Markdown: a sentence stays as it is, several become a list."""
    parts = sentences(text)
    return text.strip() if len(parts) < 2 else "\n".join(f"- {part}" for part in parts)


def drops_gold(examples: Sequence[AnswerExample], share: float, *, seed: Sequence[int]) -> Mapping[str, bool]:
    """By id, which questions lose their gold passages: this share of the answerable ones, drawn from `seed`."""
    ids = [one.id for one in examples if one.answerable]
    chosen = np.random.default_rng(list(seed)).permutation(len(ids))[: round(share * len(ids))]
    lost = {ids[int(i)] for i in chosen}
    return {one.id: one.id in lost for one in examples}


def _own(example: AnswerExample) -> list[tuple[str, str]]:
    ids = example.passage_ids or tuple(f"{example.id}#{place}" for place in range(len(example.passages)))
    return list(zip(ids, example.passages, strict=True))


def _source(sentence: str, passages: Sequence[str], gold: Sequence[int], selected: Sequence[str]) -> int:
    """The gold passage that a sentence is taken from."""
    if len(gold) == 1:
        return gold[0]
    nearest = max(selected, key=lambda one: _shared(sentence, one), default="")
    holders = [place for place in gold if nearest and nearest.strip() in passages[place]]
    return max(holders or gold, key=lambda place: (_shared(sentence, passages[place]), -place))


def _shared(sentence: str, text: str) -> float:
    """The share of a sentence's distinct words that a text has."""
    words = set(find_terms(sentence.lower(), underscore=False))
    return len(words & set(find_terms(text.lower(), underscore=False))) / max(1, len(words))


def _with_citation(sentence: str, number: int) -> str:
    end = _END.search(sentence)
    place = end.start() if end else len(sentence)
    return f"{sentence[:place].rstrip()} [{number}]{sentence[place:]}"
