"""One process's work at a judging job: what the journal does not hold is asked, and each reading kept as it comes."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

from searchtune.prompts.judge import JudgePrompt
from searchtune.prompts.replies import MIN_LABEL_SHARE
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import Journal, JournalView
from searchtune.workflows.open_judge import OpenJudge
from searchtune.workflows.progress import Progress
from searchtune.workflows.refused import RefusedRows, listed_reasons

_FIRST, _MOST, _SECONDS = 32, 256, 10.0
"""Pairs that are put to a judge together: first so many, then as many as take so long, up to a limit. A model in this
process reads them at once, so a kill takes their readings with it."""
_DIGITS = 6


def pair_key(query: str, passage: str) -> str:
    """The key of a pair in a job's journal."""
    return sha256_json([query, passage])


class JudgeSession:
    """Asks a judge about pairs, each once, and keeps what is read of them."""

    def __init__(self, judge: OpenJudge, prompt: JudgePrompt, journal: Journal, progress: Progress) -> None:
        self.judge, self.prompt, self.journal, self.progress = judge, prompt, journal, progress
        self.asked = 0
        self.spent = 0.0
        self.rows = RefusedRows(journal, judge.name)

    def ask(self, texts: Sequence[tuple[str, str]], what: str) -> None:
        """Ask about the pairs of query and passage that the journal does not hold yet.

        Raises:
            ModelError: no pair was ever answered.
        """
        waiting = [pair for pair in texts if pair_key(*pair) not in self.journal]
        if not waiting:
            return
        known = len(texts) - len(waiting)
        self.progress.stage(what + (f" ({known:,} of {len(texts):,} pairs are in the journal)" if known else ""))
        began, done, size = time.monotonic(), 0, _FIRST
        while done < len(waiting):
            window, started = waiting[done : done + size], time.monotonic()
            self._keep(window)
            done += len(window)
            ended = time.monotonic()
            size = min(_MOST, max(_FIRST, round(len(window) * _SECONDS / max(ended - started, 1e-3))))
            pace = done / max(ended - began, 1e-3)
            spent = "" if self.judge.price is None else f", {self.spent:.2f} spent"
            self.progress.step(known + done, len(texts), f"{pace:.1f} pairs/s{spent}")
        self.rows.settle()

    def _keep(self, window: Sequence[tuple[str, str]]) -> None:
        queries, passages = [query for query, _ in window], [passage for _, passage in window]
        for row in self.judge.read(self.prompt, queries, passages):
            self.asked += 1
            cost = self.judge.price and self.judge.price(row.prompt_tokens, row.completion_tokens)
            self.spent += cost or 0.0
            if not row.answered:
                self.rows.unanswered.append(str(row.reason))
                continue
            value = {
                "p": None if row.shares is None else [round(float(share), _DIGITS + 2) for share in row.shares],
                "outside": None if math.isnan(row.outside) else round(float(row.outside), _DIGITS),
                "source": row.source,
                "reason": row.reason,
                "seconds": round(row.seconds, 5),
                "tokens": row.prompt_tokens + row.completion_tokens,
                "cost": cost,
            }
            key = pair_key(*window[row.conversation])
            if row.refused:
                self.rows.add(key, value, str(row.reason))
                continue
            self.rows.answered()
            self.journal.append(key, value)
        self.journal.flush()

    def tell(self) -> None:
        """Say how many pairs are without an answer, and whether grades stand on little."""
        rows = self.rows
        if rows.unanswered:
            self.progress.note(
                f"{len(rows.unanswered):,} pairs had no answer (the last: {rows.unanswered[-1]}); run the job again to "
                "ask them again"
            )
        if rows.reasons:
            self.progress.note(
                f"{len(rows.reasons):,} pairs were turned down and have no grade: {listed_reasons(rows.reasons)}; they "
                "are not asked again"
            )
        facts = reading_facts(self.journal)
        if thin := facts["thin"]:
            self.progress.note(
                f"{thin:,} of {facts['grades']:,} grades are read from labels that hold less than "
                f"{MIN_LABEL_SHARE:.0%} of the model's probability: it would rather say something else; a judge that "
                "was trained to say them is surer"
            )


def reading_facts(journal: JournalView) -> dict[str, Any]:
    """How many readings there are of each source, and how many rest on labels that hold too little (`thin`)."""
    values = [value for _, value in journal.items() if value["p"] is not None]
    thin = [value for value in values if (value["outside"] or 0.0) > 1 - MIN_LABEL_SHARE]
    sources = Counter(str(value["source"]) for value in values if value.get("source"))
    return {"grades": len(values), "read_from": dict(sorted(sources.items())), "thin": len(thin)}
