"""Stages without models for tests of pipelines: they count what they are asked."""

from __future__ import annotations

from collections import Counter

import numpy as np

from searchtune.pipeline.chain import Chain, Switch
from searchtune.pipeline.stages import Graded, Quoting, Words
from searchtune.retrieval.bm25 import BM25Index
from searchtune.retrieval.reorder import reordered
from searchtune.types import NO_DOC, Answer, Run


class Adds:
    """A rewriter that puts a word before what was said."""

    def __init__(self, word):
        self.word, self.asked = word, Counter()

    def rewrite(self, turns):
        self.asked.update(turn.utterance for turn in turns)
        return [f"{self.word} {turn.utterance}" if turn.history else turn.utterance for turn in turns]


class Says:
    """A rewriter that says what it was told to, and otherwise what was said."""

    def __init__(self, says):
        self.says = says

    def rewrite(self, turns):
        return [self.says.get(turn.utterance, turn.utterance) for turn in turns]


class Decides:
    """Uses the rewrites of some utterances."""

    def __init__(self, *wanted, use="predicted"):
        self.wanted, self.use, self.asked = wanted, use, []

    def decide(self, utterances, rewrites, original, rewritten):
        assert len(utterances) == len(rewrites) == len(original.docs) == len(rewritten.docs)
        self.asked += zip(utterances, rewrites, strict=True)
        return np.array([self.use == "always" or text in self.wanted for text in utterances], dtype=np.bool_)


class CountingWords:
    """BM25, or its ranking turned around."""

    def __init__(self, documents, backwards=False):
        self.inner, self.backwards, self.asked = Words(BM25Index(documents)), backwards, Counter()

    def retrieve(self, queries, depth):
        self.asked.update(queries)
        run = self.inner.retrieve(queries, depth)
        if not self.backwards:
            return run
        scores = np.where(run.docs == NO_DOC, -np.inf, -run.scores)
        return Run.ranked(run.queries, run.docs, scores)


class ByLength:
    """Puts the longest document first."""

    def __init__(self, documents, depth=4):
        self.documents, self.depth, self.asked = documents, depth, Counter()

    def places(self, run):
        return (run.docs != NO_DOC) & (np.arange(run.depth) < self.depth)

    def scores(self, queries, rows, docs):
        self.asked.update((queries[row], doc) for row, doc in zip(rows.tolist(), docs.tolist(), strict=True))
        return np.array([len(self.documents[doc]) for doc in docs], dtype=np.float32)

    def ordered(self, run, scores):
        grid = np.full(run.docs.shape, np.nan, dtype=np.float32)
        grid[self.places(run)] = scores
        return reordered(run, grid, self.depth)

    def rerank(self, queries, run):
        rows, _ = np.nonzero(self.places(run))
        return self.ordered(run, self.scores(queries, rows, run.docs[self.places(run)]))


class CitesWord:
    """Answers from the first passage that holds the question's last word; abstains where none does."""

    def __init__(self):
        self.asked, self.tokens = Counter(), 0

    def answer(self, questions, passages):
        found = []
        for question, own in zip(questions, passages, strict=True):
            self.asked[question, tuple(own)] += 1
            self.tokens += 10
            number = next((i for i, text in enumerate(own, 1) if question.split()[-1] in text.split()), 0)
            found.append(Answer(f"so it is [{number}]", (number,)) if number else Answer("no", (), abstained=True))
        return found


class GradesLength:
    def judge(self, queries, passages):
        return [Graded(int(len(text) > 20), (0.5, 0.5)) for text in passages]


def fake_chain(ids, documents, **changes):
    """All five stages over a few documents."""
    words, backwards, answerer = CountingWords(documents), CountingWords(documents, backwards=True), CitesWord()
    return Chain(
        doc_ids=ids,
        documents=documents,
        **{
            "retriever": Switch(words, backwards),
            "rewriter": Switch(Adds("sea")),
            "reranker": Switch(ByLength(documents)),
            "answerer": Switch(answerer, Quoting()),
            "judge": Switch(GradesLength()),
            "depth": 12,
            "passages": 2,
            "judged": 2,
            "meters": {"answer": lambda: answerer.tokens},
            **changes,
        },
    )
