"""A judging job: every pair judged once, kept in a journal as it comes, and written out as labels.

    OUT/journal.jsonl      what was read of each pair, under a hash of its texts
    OUT/pairs.jsonl        the pairs of the job, with the grades of people where there are any
    OUT/judgments.jsonl    grade, distribution, expected grade, or the reason why there is none
    OUT/qrels.txt          the grades as TREC qrels
    OUT/job.json           who judged, under which prompt, how many, how fast, for how much

A job that was killed goes on where it stopped when it is started again: what the journal holds is not asked again.
"""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.judging import TOP_GRADE, UNJUDGED, JudgePairs, joined_pairs, read_pairs, write_pairs
from searchtune.data.judgments import write_judgment_qrels, write_judgments
from searchtune.errors import ConfigError, DataError, SearchtuneError
from searchtune.metrics.grade_calibration import GradeCalibration, plain_calibration
from searchtune.prompts.canaries import CANARIES_VERSION, Planted, plant_all
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import prompt_identity
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import JOURNAL_FILE, Journal, JournalView
from searchtune.storage.shards import merge_journals, shard
from searchtune.types import FloatArray64, IntArray, Judgment
from searchtune.workflows.judge_pairs import fingerprint_of
from searchtune.workflows.open_judge import JudgePrompt, OpenJudge
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import now, versions

JOB_FILE, JUDGMENTS_FILE, QRELS_FILE, PAIRS_FILE = "job.json", "judgments.jsonl", "qrels.txt", "pairs.jsonl"
_WINDOW = 256
"""Pairs that are read together and kept together."""
_DIGITS = 6


class UnreadableError(SearchtuneError):
    """Too many of a judge's replies could not be read."""

    exit_code = 1


@dataclass(frozen=True)
class JobPlan:
    """How a job is done."""

    canaries: int = 0
    """How many pairs that are not relevant are judged with a canary in them too."""
    shard: tuple[int, int] = (0, 1)
    """Which part of how many."""
    max_unreadable: float = 0.05
    """The job fails where the share of pairs without a grade is above this."""
    calibration: GradeCalibration | None = None
    """In place of the judge's own."""
    seed: int = 13


@dataclass(frozen=True, eq=False)
class Job:
    """A finished job, or a finished part of one. Arrays are parallel to `pairs`."""

    folder: Path
    judge: str
    pairs: JudgePairs
    probabilities: FloatArray64
    """As the judge gave them, NaN rows where there is none. Shape: (pairs, grades)."""
    reasons: tuple[str | None, ...]
    calibration: GradeCalibration
    planted: dict[str, FloatArray64]
    """Kind of canary -> expected grade with it in the pair, NaN where it was not tried. Shape: (pairs,)."""
    facts: dict[str, Any]
    """What `job.json` says."""

    @property
    def grades(self) -> IntArray:
        """-1 where there is none. Shape: (pairs,)."""
        return self.calibration.grades(self.probabilities)

    @property
    def calibrated(self) -> FloatArray64:
        """Shape: (pairs, grades)."""
        return self.calibration(self.probabilities)

    @property
    def unreadable(self) -> dict[str, int]:
        """Reason -> pairs."""
        return dict(Counter(reason for reason in self.reasons if reason is not None))

    def judgments(self) -> list[Judgment]:
        """One for each pair, in their order."""
        found = []
        for i, (grade, shares) in enumerate(zip(self.grades.tolist(), self.calibrated, strict=True)):
            query, doc = self.pairs.ids(i)
            if grade < 0:
                found.append(Judgment(query, doc, None, reason=self.reasons[i]))
            else:
                rounded = tuple(round(float(share), _DIGITS) for share in shares)
                found.append(Judgment(query, doc, grade, rounded))
        return found


def run_job(
    judge: OpenJudge, pairs: JudgePairs, out: Path | str, plan: JobPlan | None = None, *, progress: Progress = SILENT
) -> Job:
    """Judge the pairs, or go on judging them, and write the labels.

    Raises:
        ConfigError: `out` holds the journal of another job.
        UnreadableError: too many pairs have no grade; everything that was read is kept and written.
        SearchtuneError: whatever stopped a remote judge, such as a budget; what it said before is kept.
    """
    plan = plan or JobPlan()
    out = Path(out).expanduser()
    header = _header(judge, pairs, plan)
    prompt = JudgePrompt(judge.rubric, judge.style, header["prompt"]["nonce"])
    part = pairs.select(np.array(shard([_key(*pairs.texts(i)) for i in range(len(pairs))], *plan.shard), np.int64))
    if not len(part):
        raise ConfigError(f"shard {plan.shard[0]} of {plan.shard[1]} has no pair: make fewer shards")
    start_price = judge.price() or 0.0
    with Journal(out / JOURNAL_FILE, header) as journal:
        asked = _ask_all(judge, prompt, _texts(part), journal, progress, "judging")
        canaries = _canaries(part, journal, judge, plan)
        asked += _ask_all(judge, prompt, _planted_texts(part, canaries), journal, progress, "judging canaries")
        facts = {
            "judge": judge.name,
            "identity": dict(judge.identity),
            "model": vars(judge.facts),
            "prompt": header["prompt"],
            "fingerprint": header["pairs"],
            "pairs": len(part),
            "shard": list(plan.shard),
            "seed": plan.seed,
            "calibration": (plan.calibration or judge.calibration or _plain(judge)).to_json(),
            "canaries_version": CANARIES_VERSION,
            "canaries": [[one.pair, one.canary, _key(part.texts(one.pair)[0], one.passage)] for one in canaries],
            "cost": None if judge.price() is None else (judge.price() or 0.0) - start_price,
            "asked_now": asked,
            **_effort(journal),
            "versions": versions(),
            "finished": now(),
        }
    write_pairs(out / PAIRS_FILE, part)
    write_json(out / JOB_FILE, facts)
    job = open_job(out)
    _write(job, plan.max_unreadable)
    return job


def merge_jobs(folders: Sequence[Path | str], out: Path | str, *, max_unreadable: float = 0.05) -> Job:
    """Join finished shards of one job in `out`, and write the labels of all of them.

    Raises:
        ConfigError: the shards are of different jobs.
        OutputExistsError: `out` holds a journal.
    """
    out = Path(out).expanduser()
    jobs = [open_job(folder) for folder in folders]
    for job in jobs[1:]:
        for what in ("calibration", "fingerprint", "canaries_version"):
            if job.facts[what] != jobs[0].facts[what]:
                raise ConfigError(
                    f"{job.folder}: another {what} than {jobs[0].folder}; these are not shards of one job"
                )
    merge_journals([job.folder / JOURNAL_FILE for job in jobs], out / JOURNAL_FILE)
    pairs = joined_pairs([job.pairs for job in jobs])
    place = {pairs.ids(i): i for i in range(len(pairs))}
    canaries = [[place[job.pairs.ids(pair)], name, key] for job in jobs for pair, name, key in job.facts["canaries"]]
    costs = [job.facts["cost"] for job in jobs if job.facts["cost"] is not None]
    facts = jobs[0].facts | {
        "pairs": len(pairs),
        "shard": [0, 1],
        "canaries": canaries,
        "cost": sum(costs) if costs else None,
        **_effort(JournalView(out / JOURNAL_FILE)),
        "finished": now(),
    }
    write_pairs(out / PAIRS_FILE, pairs)
    write_json(out / JOB_FILE, facts)
    job = open_job(out)
    _write(job, max_unreadable)
    return job


def _header(judge: OpenJudge, pairs: JudgePairs, plan: JobPlan) -> dict[str, Any]:
    """All that readings depend on; jobs with another one must not share a journal."""
    fingerprint = fingerprint_of(pairs)
    nonce = draw_nonce(sha256_json([dict(judge.identity), fingerprint, plan.seed]))
    prompt: dict[str, Any] = {"nonce": nonce, "rubric": judge.rubric.fields()}
    if judge.style is not None:
        prompt = prompt_identity(judge.rubric, judge.style, nonce)
    return {"judge": dict(judge.identity), "prompt": prompt, "pairs": fingerprint}


def _key(query: str, passage: str) -> str:
    return sha256_json([query, passage])


def _texts(pairs: JudgePairs) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pairs.texts(i) for i in range(len(pairs))))


def _planted_texts(pairs: JudgePairs, canaries: Sequence[Planted]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((pairs.texts(one.pair)[0], one.passage) for one in canaries))


def _ask_all(
    judge: OpenJudge,
    prompt: JudgePrompt,
    texts: Sequence[tuple[str, str]],
    journal: Journal,
    progress: Progress,
    what: str,
) -> int:
    """Ask what the journal does not hold yet; how many that were."""
    waiting = [pair for pair in texts if _key(*pair) not in journal]
    if not waiting:
        return 0
    known = len(texts) - len(waiting)
    progress.stage(what + (f" ({known:,} of {len(texts):,} pairs are in the journal)" if known else ""))
    began = time.monotonic()
    for start in range(0, len(waiting), _WINDOW):
        window = waiting[start : start + _WINDOW]
        _ask(judge, prompt, window, journal)
        done = start + len(window)
        pace = done / (time.monotonic() - began)
        price = judge.price()
        spent = "" if price is None else f", {price:.2f} spent"
        progress.step(
            known + done, len(texts), f"{pace:.1f} pairs/s, {_left((len(waiting) - done) / pace)} left{spent}"
        )
    return len(waiting)


def _ask(judge: OpenJudge, prompt: JudgePrompt, window: Sequence[tuple[str, str]], journal: Journal) -> None:
    began = time.monotonic()
    failed: SearchtuneError | None = None
    try:
        readings = judge.read(prompt, [query for query, _ in window], [passage for _, passage in window])
    except SearchtuneError as error:
        failed, readings = error, getattr(error, "done", None)  # type: ignore[assignment]
        if readings is None:
            raise
    seconds = (time.monotonic() - began) / len(window)
    tokens = (readings.prompt_tokens + readings.completion_tokens) / len(window)
    for pair, shares, outside, reason in zip(
        window, readings.probabilities, readings.outside, readings.reasons, strict=True
    ):
        if failed is not None and reason is not None:
            continue  # not asked, or not answered: the next start asks again
        journal.append(
            _key(*pair),
            {
                "p": None if np.isnan(shares).any() else [round(float(share), _DIGITS + 2) for share in shares],
                "outside": None if math.isnan(outside) else round(float(outside), _DIGITS),
                "reason": reason,
                "seconds": round(seconds, 5),
                "tokens": round(tokens, 1),
            },
        )
    journal.flush()
    if failed is not None:
        raise failed


def _reading(journal: JournalView, key: str, grades: int) -> tuple[FloatArray64, str | None]:
    """The distribution under a key, or a row of NaN and why."""
    value = journal.get(key)
    if value is None or value["p"] is None:
        return np.full(grades, np.nan), "not judged" if value is None else str(value["reason"])
    shares = np.array(value["p"], dtype=np.float64)
    return shares / shares.sum(), None


def _canaries(pairs: JudgePairs, journal: JournalView, judge: OpenJudge, plan: JobPlan) -> list[Planted]:
    """Canaries in pairs that people call grade 0, or, where people graded none, that the judge does."""
    if not plan.canaries:
        return []
    graded = pairs.grades
    if not (graded != UNJUDGED).any():
        size = len(judge.rubric.labels)
        shares = [_reading(journal, _key(*pairs.texts(i)), size)[0] for i in range(len(pairs))]
        graded = _plain(judge).grades(np.stack(shares))
    places = np.flatnonzero(graded == 0)
    chosen = np.sort(np.random.default_rng(plan.seed).permutation(places)[: plan.canaries])
    texts = [pairs.texts(int(place)) for place in chosen]
    planted = plant_all([query for query, _ in texts], [passage for _, passage in texts], judge.rubric, seed=plan.seed)
    return [replace(one, pair=int(chosen[one.pair])) for one in planted]


def _plain(judge: OpenJudge) -> GradeCalibration:
    return plain_calibration(len(judge.rubric.labels), judge.rubric.min_grade)


def _effort(journal: JournalView) -> dict[str, float]:
    """Seconds and tokens of all sittings, as the journal has them."""
    values = [value for _, value in journal.items()]
    seconds = sum(value["seconds"] for value in values)
    return {
        "asked": len(values),
        "seconds": round(seconds, 3),
        "tokens": round(sum(value["tokens"] for value in values)),
        "labels_per_second": round(len(values) / seconds, 2) if seconds else 0.0,
    }


def open_job(folder: Path | str) -> Job:
    """A job that `run_job` finished, from its folder.

    Raises:
        DataError: a file of it is missing or broken.
    """
    folder = Path(folder).expanduser()
    try:
        facts: dict[str, Any] = json.loads((folder / JOB_FILE).read_text(encoding="utf-8"))
        calibration = GradeCalibration.from_json(facts["calibration"])
        planted = [(int(pair), str(name), str(key)) for pair, name, key in facts["canaries"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / JOB_FILE}: cannot be read ({error}); name the folder of a finished `searchtune judge run`"
        ) from error
    pairs, journal = read_pairs(folder / PAIRS_FILE, top=TOP_GRADE), JournalView(folder / JOURNAL_FILE)
    size = len(calibration.shifts)
    found = [_reading(journal, _key(*pairs.texts(i)), size) for i in range(len(pairs))]
    kinds: dict[str, FloatArray64] = {}
    for pair, name, key in planted:
        column = kinds.setdefault(name, np.full(len(pairs), np.nan))
        column[pair] = float(calibration(_reading(journal, key, size)[0][None])[0] @ np.arange(size))
    shares = np.stack([row for row, _ in found])
    return Job(folder, facts["judge"], pairs, shares, tuple(reason for _, reason in found), calibration, kinds, facts)


def _write(job: Job, max_unreadable: float) -> None:
    judgments = job.judgments()
    write_judgments(job.folder / JUDGMENTS_FILE, judgments)
    missing = sum(one.grade is None for one in judgments)
    if missing < len(judgments):
        write_judgment_qrels(job.folder / QRELS_FILE, judgments)
    if missing > max_unreadable * len(judgments):
        why, count = Counter(one.reason for one in judgments if one.grade is None).most_common(1)[0]
        raise UnreadableError(
            f"{job.folder}: {missing:,} of {len(judgments):,} pairs have no grade, more than {max_unreadable:.0%}; "
            f"most often ({count:,}): {why}. What was read is in {JUDGMENTS_FILE}"
        )


def _left(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s" if minutes else f"{rest} s"
