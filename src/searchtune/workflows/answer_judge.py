"""A relevance judge as the second opinion on whether passages support the sentences of answers.

Each sentence is put to the judge as a query, with one passage; how sure it is that the passage is relevant stands for
how surely it supports the sentence. A judge was made for relevance, not for entailment, so this is a figure beside the
one by words, not in its place.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from searchtune.data.judging import UNJUDGED, JudgePairs
from searchtune.metrics.answer_support import Supporter
from searchtune.metrics.answers import AnswerCase
from searchtune.types import IntArray
from searchtune.workflows.judge_job import JobPlan, run_job
from searchtune.workflows.judge_pairs import fingerprint_of
from searchtune.workflows.open_judge import OpenJudge
from searchtune.workflows.progress import SILENT, Progress


def judge_support(
    judge: OpenJudge, cases: Iterable[AnswerCase], out: Path, *, seed: int = 13, progress: Progress = SILENT
) -> Supporter:
    """What the judge says of every sentence of these answers with every passage that was shown.

    The judging is a job of its own in a folder of `out` that is named after the pairs, so that a killed one goes on. Of
    several passages the surest counts; NaN where the judge could not be read for any; 0 without passages.

    Raises:
        SearchtuneError: whatever stopped the judge; what it said before is kept.
    """
    wanted = dict.fromkeys(
        (sentence.text, passage)
        for case in cases
        for sentence in case.sentences
        for passage in case.passages
        if passage.strip()
    )
    known: dict[tuple[str, str], float] = {}
    if wanted:
        pairs = _pairs(list(wanted))
        folder = out / f"support-{fingerprint_of(pairs)[:12]}"
        job = run_job(judge, pairs, folder, JobPlan(max_unreadable=1.0, seed=seed), progress=progress)
        chances = job.relevance
        known = {job.pairs.texts(i): float(chances[i]) for i in range(len(job.pairs))}

    def support(sentence: str, passages: Sequence[str]) -> float:
        if not passages:
            return 0.0
        given = [known.get((sentence, passage), math.nan) for passage in passages]
        sure = [chance for chance in given if not math.isnan(chance)]
        return max(sure) if sure else math.nan

    return support


def _pairs(wanted: Sequence[tuple[str, str]]) -> JudgePairs:
    """Sentences as queries and passages as documents, with made-up ids in the order of their first mention."""
    sentences = {text: place for place, text in enumerate(dict.fromkeys(sentence for sentence, _ in wanted))}
    passages = {text: place for place, text in enumerate(dict.fromkeys(passage for _, passage in wanted))}
    queries: IntArray = np.array([sentences[sentence] for sentence, _ in wanted], dtype=np.int64)
    docs: IntArray = np.array([passages[passage] for _, passage in wanted], dtype=np.int64)
    order = np.lexsort((docs, queries))
    return JudgePairs(
        query_ids=[f"s{place:07d}" for place in range(len(sentences))],
        query_texts=list(sentences),
        doc_ids=[f"p{place:07d}" for place in range(len(passages))],
        passages=list(passages),
        queries=queries[order],
        docs=docs[order],
        grades=np.full(len(wanted), UNJUDGED, dtype=np.int64),
    )
