"""An answering job: every question answered once, kept in a journal as it comes, and written out.

    OUT/journal.jsonl      what was replied to each question, under a hash of question and passages
    OUT/questions.jsonl    the questions with their passages
    OUT/answers.jsonl      id, question, answer, citations, abstained, or the reason why there is no answer
    OUT/job.json           who answered, under which prompt, how many, how fast, for how much

A job that was killed goes on where it stopped when it is started again: what the journal holds is not asked again.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from searchtune.clean_text import clean
from searchtune.data.answering import (
    AnswerExample,
    AnswerSet,
    answers_of_run,
    read_answers,
    sampled_answers,
    write_questions,
)
from searchtune.data.named import run_in_collection
from searchtune.data.packed import created
from searchtune.data.tasks import load_task, open_collection
from searchtune.data.trec import read_trec_run
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.prompts.fences import draw_nonce
from searchtune.reading import read_json_object, user_path
from searchtune.retrieval.bm25 import kept_bm25
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import JOURNAL_FILE, Journal, JournalView
from searchtune.storage.lock import sole_writer
from searchtune.storage.places import cache_root
from searchtune.types import Answer
from searchtune.workflows.open_answerer import OpenAnswerer
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import now, versions
from searchtune.workflows.refused import RefusedRows

if TYPE_CHECKING:
    from searchtune.pipeline.answering import AnswerRow

JOB_FILE, ANSWERS_FILE, QUESTIONS_FILE = "job.json", "answers.jsonl", "questions.jsonl"
_FIRST, _MOST, _SECONDS = 8, 256, 20.0
"""Questions that are put to a model together: first so many, then as many as take so long, up to a limit. A model in
this process answers them at once, so a kill takes their answers with it."""
_DIGITS = 6
_UNANSWERED = "no reply came; run the job again to ask it again"
Price = Callable[[int, int], float]
"""Prompt and completion tokens -> what they cost."""


@dataclass(frozen=True)
class AnswerJob:
    """A finished job. `answers` and `reasons` are parallel to the questions; one of the two is None for each."""

    folder: Path
    questions: AnswerSet
    answers: tuple[Answer | None, ...]
    likelihood: tuple[float, ...]
    """How likely each question was answerable from its passages; NaN where that is not read, or no reply was had."""
    reasons: tuple[str | None, ...]
    """Why there is no answer: none came, or what came is none."""
    facts: dict[str, Any]
    """What `job.json` says."""

    @property
    def missing(self) -> int:
        """Questions without an answer."""
        return sum(answer is None for answer in self.answers)


def questions_of_task(
    task: str,
    *,
    split: str = "test",
    run: Path | None = None,
    depth: int = 5,
    max_questions: int | None = None,
    doc_template: str | None = None,
) -> AnswerSet:
    """The queries of a task with the passages that a TREC run has for them, or BM25 where none is given.

    `doc_template` writes the passages as an answerer was trained to read them; None writes them as the task says.

    Raises:
        ConfigError: no such task, or no such split.
        DataError: the run is broken.
    """
    collection = open_collection(load_task(task))
    labels = collection.qrels.get(split)
    if labels is None and run is None:
        raise ConfigError(f"{collection.name} has no split {split!r}{did_you_mean(split, collection.qrels)}")
    if run is not None:
        ranked = run_in_collection(collection, read_trec_run(run))[0]
    else:
        assert labels is not None
        texts = [collection.query_texts[int(query)] for query in labels.queries]
        ranked = kept_bm25(collection.documents, cache_root() / "bm25").search(labels.queries, texts, depth)
    found = answers_of_run(collection.read_as(doc_template), ranked, depth, labels)
    return found if max_questions is None else sampled_answers(found, max_questions)


def run_answers(
    answerer: OpenAnswerer,
    questions: AnswerSet,
    out: Path | str,
    *,
    price: Price | None = None,
    seed: int = 13,
    progress: Progress = SILENT,
) -> AnswerJob:
    """Answer the questions, or go on answering them, and write the answers.

    `seed` draws the mark around passages. A question that comes twice with the same passages is asked once.

    Raises:
        ConfigError: `out` holds the journal of another job.
        OutputBusyError: another process is at this job.
        DataError: there is no question.
        ModelError: no question was ever answered.
        SearchtuneError: whatever stopped a remote model, such as a budget; what it said before is kept.
    """
    if not len(questions):
        raise DataError("there is no question to answer: give at least one")
    out = user_path(out)
    with sole_writer(out):
        return _run(answerer, questions, out, price=price, seed=seed, progress=progress)


def _run(
    answerer: OpenAnswerer, questions: AnswerSet, out: Path, *, price: Price | None, seed: int, progress: Progress
) -> AnswerJob:
    header = _header(answerer, questions, seed)
    marked = answerer.under(answerer.prompt.under(header["prompt"]["nonce"]), answerer.rule)
    with Journal(out / JOURNAL_FILE, header) as journal:
        asked, rows = _ask(marked, questions.examples, journal, price, progress)
        facts = {
            "answerer": answerer.name,
            **header,
            "questions": len(questions),
            "fingerprint": questions.fingerprint,
            "asked_now": asked,
            **_effort(journal),
            "versions": versions(),
            "finished": now(),
        }
    if rows.unanswered:
        progress.note(
            f"{len(rows.unanswered):,} questions had no answer (the last: {rows.unanswered[-1]}); run the job again to "
            "ask them again"
        )
    write_questions(out / QUESTIONS_FILE, questions)
    write_json(out / JOB_FILE, facts)
    job = open_answers_job(out)
    _write(job)
    return job


def open_answers_job(folder: Path | str) -> AnswerJob:
    """A job that `run_answers` finished, from its folder.

    Raises:
        DataError: a file of it is missing or broken.
    """
    folder = user_path(folder)
    if not (folder / JOB_FILE).is_file():
        raise DataError(
            f"{folder / JOB_FILE}: cannot be read (no such file); name the folder of a finished `searchtune answer run`"
        )
    facts = read_json_object(folder / JOB_FILE)
    questions = read_answers(folder / QUESTIONS_FILE)
    journal = JournalView(folder / JOURNAL_FILE)
    values = [journal.get(_key(one)) for one in questions.examples]
    reasons = tuple(_UNANSWERED if value is None else _text(value.get("reason")) for value in values)
    answers = tuple(
        None if value is None or reason else Answer(clean(value["text"]), tuple(value["citations"]), value["abstained"])
        for value, reason in zip(values, reasons, strict=True)
    )
    likely = tuple(math.nan if value is None or value["p"] is None else float(value["p"]) for value in values)
    return AnswerJob(folder, questions, answers, likely, reasons, facts)


def _text(reason: object) -> str | None:
    return clean(str(reason)) if reason else None


def _ask(
    answerer: OpenAnswerer,
    examples: Sequence[AnswerExample],
    journal: Journal,
    price: Price | None,
    progress: Progress,
) -> tuple[int, RefusedRows]:
    """Ask what the journal does not hold; how many questions were put, and which had no answer."""
    waiting = list({_key(one): one for one in examples if _key(one) not in journal}.values())
    known = len({_key(one) for one in examples}) - len(waiting)
    rows = RefusedRows(journal, answerer.name)
    if not waiting:
        return 0, rows
    progress.stage("answering" + (f" ({known:,} questions are in the journal)" if known else ""))
    began, done, spent = time.monotonic(), 0, 0.0
    for window in _windows(waiting):
        for key, value, row in _answered(answerer, window, price):
            spent += value["cost"] or 0.0
            if row.answer is None and not (row.settled or row.refused):
                rows.unanswered.append(str(value["reason"]))
            elif row.refused:
                rows.add(key, value, str(value["reason"]))
            else:
                rows.answered()
                journal.append(key, value)
        journal.flush()
        done += len(window)
        pace = done / max(time.monotonic() - began, 1e-3)
        told = "" if price is None else f", {spent:.2f} spent"
        progress.step(known + done, known + len(waiting), f"{pace:.2f} questions/s{told}")
    rows.settle()
    return done, rows


def _windows(waiting: Sequence[AnswerExample]) -> Iterator[Sequence[AnswerExample]]:
    """As many questions together as take some seconds, measured on those before."""
    done, size = 0, _FIRST
    while done < len(waiting):
        window, started = waiting[done : done + size], time.monotonic()
        yield window
        done += len(window)
        took = max(time.monotonic() - started, 1e-3)
        size = min(_MOST, max(_FIRST, round(len(window) * _SECONDS / took)))


def _answered(
    answerer: OpenAnswerer, window: Sequence[AnswerExample], price: Price | None
) -> Iterator[tuple[str, dict[str, Any], AnswerRow]]:
    """Key, what the journal keeps, and what was read, of each question as soon as it is there."""
    for row in answerer.stream([one.question for one in window], [one.passages for one in window]):
        answer = row.answer or Answer("")
        value = {
            "text": answer.text,
            "citations": list(answer.citations),
            "abstained": answer.abstained,
            "p": None if math.isnan(row.answerable) else round(row.answerable, _DIGITS),
            "outside": row.outside,
            "cut": row.cut,
            "seconds": round(row.seconds, 5),
            "tokens": [row.prompt_tokens, row.completion_tokens],
            "cost": None if price is None else price(row.prompt_tokens, row.completion_tokens),
        }
        if row.answer is None:
            value["reason"] = row.reason or "no reason was given"
        yield _key(window[row.question]), value, row


def _header(answerer: OpenAnswerer, questions: AnswerSet, seed: int) -> dict[str, Any]:
    """All that answers depend on; jobs with another one must not share a journal."""
    nonce = draw_nonce(sha256_json([dict(answerer.identity), questions.fingerprint, seed]))
    return {
        "identity": dict(answerer.identity),
        "prompt": answerer.prompt.under(nonce).identity(),
        "rule": answerer.rule.to_json() if answerer.prompt.abstain == "read" else None,
        "max_new_tokens": answerer.max_new_tokens,
        "set": questions.fingerprint,
    }


def _key(example: AnswerExample) -> str:
    return sha256_json([example.question, *example.passages])


def _effort(journal: JournalView) -> dict[str, Any]:
    """Seconds, tokens and cost of all sessions, as the journal has them, and what replies were like."""
    values = [value for _, value in journal.items()]
    tokens = np.array([value["tokens"] for value in values], dtype=np.int64).reshape(-1, 2).sum(axis=0)
    costs = [value["cost"] for value in values if value["cost"] is not None]
    return {
        "answered": sum(not value.get("reason") for value in values),
        "unusable": sum(bool(value.get("reason")) for value in values),
        "abstained": sum(value["abstained"] for value in values),
        "cut": sum(value["cut"] for value in values),
        "citations_outside": sum(value["outside"] for value in values),
        "seconds": round(sum(value["seconds"] for value in values), 3),
        "prompt_tokens": int(tokens[0]),
        "completion_tokens": int(tokens[1]),
        "cost": round(sum(costs), _DIGITS) if costs else None,
    }


def _write(job: AnswerJob) -> None:
    """One line for each question, in their order."""
    with created(job.folder / ANSWERS_FILE) as file:
        for one, answer, reason in zip(job.questions.examples, job.answers, job.reasons, strict=True):
            row: dict[str, Any] = {"id": one.id, "question": one.question}
            if answer is None:
                row |= {"answer": None, "reason": reason}
            else:
                cited = [one.passage_ids[number - 1] for number in answer.citations]
                row |= {"answer": answer.text, "citations": list(answer.citations), "cited": cited}
                row["abstained"] = answer.abstained
            file.write((json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8"))
