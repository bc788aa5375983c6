"""A judge without a model, and pairs for it: what a job does with readings, quickly."""

from __future__ import annotations

import hashlib
import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np

from searchtune.data.judging import JudgePairs, read_pairs
from searchtune.models.backends import LabelRow
from searchtune.prompts.rubrics import UMBRELA
from searchtune.specs.circularity import ModelFacts
from searchtune.workflows.open_judge import OpenJudge


class Oracle:
    """Reads a distribution off the hash of a pair; keeps what it was asked, and may fail or leave pairs out."""

    def __init__(self, rubric=UMBRELA, name="oracle", *, fail_after=None, error=None, unreadable="", unanswered=""):
        self.rubric, self.name = rubric, name
        self.fail_after, self.error = fail_after, error
        self.unreadable, self.unanswered = unreadable, unanswered
        self.asked = []

    def shares(self, query, passage):
        digest = hashlib.sha256(f"{query} {passage}".encode()).digest()
        raw = np.array([1 + digest[i] for i in range(len(self.rubric.labels))], dtype=float) ** 2
        return raw / raw.sum()

    def read(self, prompt, queries, passages):
        for place, (query, passage) in enumerate(zip(queries, passages, strict=True)):
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise self.error
            self.asked.append((query, passage))
            if self.unanswered and self.unanswered in passage:
                yield LabelRow(place, None, math.nan, "no answer in 6 attempts", False, 0, 0, 0.0)
            elif self.unreadable and self.unreadable in passage:
                yield LabelRow(place, None, math.nan, "no label in the reply 'hm'", True, 10, 2, 0.01)
            else:
                yield LabelRow(place, self.shares(query, passage), 0.1, None, True, 10, 1, 0.01)

    def opened(self, **changes):
        facts = ModelFacts(self.name, "base of " + self.name)
        opened = OpenJudge(self.name, self.rubric, "short", {"what": self.name}, facts, self.read)
        return replace(opened, **changes)


def write_rows(path: Path, *, queries=6, docs=8, top=3, graded=True, others=False) -> Path:
    """Pairs as JSON lines; every query has every grade."""
    rows = []
    for query in range(queries):
        for doc in range(docs):
            row = {"query_id": f"q{query}", "query": f"question {query}", "doc_id": f"d{query}-{doc}"}
            row["passage"] = f"passage {doc} of {query}"
            row["human"] = (doc + query) % (top + 1) if graded else None
            if others:
                row["judges"] = {"llm": doc % (top + 1)}
            rows.append(row)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def some_pairs(folder: Path, **options) -> JudgePairs:
    """The same, read."""
    return read_pairs(write_rows(folder / "pairs.jsonl", **options))
