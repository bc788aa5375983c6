"""A judging job: every pair judged once, kept in a journal as it comes, and written out as labels.

    OUT/journal.jsonl      what was read of each pair, under a hash of its texts
    OUT/pairs.jsonl        the pairs of the job, with the grades of people where there are any
    OUT/judgments.jsonl    grade, distribution, expected grade, or the reason why there is none
    OUT/qrels.txt          the grades as TREC qrels
    OUT/job.json           who judged, under which prompt, how many, how fast, for how much

A job that was killed goes on where it stopped when it is started again: what the journal holds is not asked again.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.clean_text import clean
from searchtune.data.judging import TOP_GRADE, UNJUDGED, JudgePairs, PairFields, joined_pairs, read_pairs, write_pairs
from searchtune.data.judgments import write_judgment_qrels, write_judgments
from searchtune.data.trec import check_ids
from searchtune.errors import ConfigError, DataError, SearchtuneError
from searchtune.metrics.grade_calibration import GradeCalibration, plain_calibration
from searchtune.prompts.canaries import CANARIES_VERSION, Planted, plant_all
from searchtune.prompts.fences import draw_nonce
from searchtune.prompts.judge import JudgePrompt, prompt_identity
from searchtune.reading import read_json_object, user_path
from searchtune.storage.atomic import write_json
from searchtune.storage.fingerprint import sha256_json
from searchtune.storage.journal import JOURNAL_FILE, Journal, JournalView
from searchtune.storage.lock import sole_writer
from searchtune.storage.shards import merge_journals, shard
from searchtune.types import FloatArray64, IntArray, Judgment
from searchtune.workflows.judge_pairs import fingerprint_of
from searchtune.workflows.judge_session import JudgeSession, pair_key, reading_facts
from searchtune.workflows.open_judge import OpenJudge
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.provenance import now, versions

JOB_FILE, JUDGMENTS_FILE, QRELS_FILE, PAIRS_FILE = "job.json", "judgments.jsonl", "qrels.txt", "pairs.jsonl"
_DIGITS = 6
_FACTS = {
    *("judge", "identity", "model", "prompt", "fingerprint", "shard", "of", "canaries_version"),
    *("seconds", "cost", "labels_per_second"),
}
"""What a job's file tells to whoever opens it."""
_UNANSWERED = "no answer came; run the job again to ask it again"


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
        return self.calibration.grades(self.probabilities, self._offsets)

    @property
    def calibrated(self) -> FloatArray64:
        """Shape: (pairs, grades)."""
        return self.calibration(self.probabilities, self._offsets)

    @property
    def relevance(self) -> FloatArray64:
        """Calibrated probability of the relevant grades. Shape: (pairs,)."""
        return self.calibration.relevance(self.probabilities, self._offsets)

    @property
    def _offsets(self) -> FloatArray64:
        return self.calibration.offsets(self.probabilities, self.pairs.queries)

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
        ConfigError, OutputBusyError: `out` holds another job, or another process is at it.
        DataError: an id that the labels' file cannot hold.
        ModelError: no pair was ever answered.
        UnreadableError: too many pairs have no grade; everything that was read is kept and written.
        SearchtuneError: whatever stopped a remote judge, such as a budget; what it said before is kept.
    """
    out = user_path(out)
    with sole_writer(out):
        return _run_job(judge, pairs, out, plan or JobPlan(), progress)


def _run_job(judge: OpenJudge, pairs: JudgePairs, out: Path, plan: JobPlan, progress: Progress) -> Job:
    _check_calibration(judge, plan.calibration)
    check_ids("query id", pairs.query_ids)
    check_ids("document id", pairs.doc_ids)
    header = _header(judge, pairs, plan)
    prompt = JudgePrompt(judge.rubric, judge.style, header["prompt"]["nonce"])
    places = np.array(shard([pair_key(*pairs.texts(i)) for i in range(len(pairs))], *plan.shard), np.int64)
    part = pairs.select(places)
    if not len(part):
        raise ConfigError(f"part {plan.shard[0] + 1} of {plan.shard[1]} has no pair: leave it out")
    with Journal(out / JOURNAL_FILE, header) as journal:
        session = JudgeSession(judge, prompt, journal, progress)
        session.ask(_texts(part), "judging")
        canaries = _canaries(pairs, places, journal, judge, plan)
        session.ask(_planted_texts(part, canaries), "judging canaries")
        facts = {
            "judge": judge.name,
            "identity": dict(judge.identity),
            "model": vars(judge.facts),
            "prompt": header["prompt"],
            "fingerprint": header["pairs"],
            "pairs": len(part),
            "of": len(pairs),
            "shard": list(plan.shard),
            "seed": plan.seed,
            "calibration": (plan.calibration or judge.calibration or _plain(judge)).to_json(),
            "canaries_version": CANARIES_VERSION,
            "canaries": [[one.pair, one.canary, pair_key(part.texts(one.pair)[0], one.passage)] for one in canaries],
            "asked_now": session.asked,
            **_effort(journal),
            **reading_facts(journal),
            "versions": versions(),
            "finished": now(),
        }
        session.tell()
    return _finish(out, part, facts, plan.max_unreadable)


def merge_jobs(folders: Sequence[Path | str], out: Path | str, *, max_unreadable: float = 0.05) -> Job:
    """Join finished shards of one job in `out`, and write the labels of all of them.

    Raises:
        ConfigError: the shards are of different jobs.
        OutputExistsError, OutputBusyError: `out` holds a journal, or another process writes there.
    """
    out = user_path(out)
    with sole_writer(out):
        return _merge_jobs([open_job(folder) for folder in folders], out, max_unreadable)


def _merge_jobs(jobs: Sequence[Job], out: Path, max_unreadable: float) -> Job:
    for job in jobs[1:]:
        for what in ("calibration", "fingerprint", "canaries_version"):
            if job.facts[what] != jobs[0].facts[what]:
                raise ConfigError(
                    f"{job.folder}: another {what} than {jobs[0].folder}; these are not shards of one job"
                )
    pairs = joined_pairs([job.pairs for job in jobs])
    if len(pairs) < jobs[0].facts["of"]:
        there = ", ".join("{}/{}".format(job.facts["shard"][0] + 1, job.facts["shard"][1]) for job in jobs)
        raise ConfigError(
            f"the shards {there} have {len(pairs):,} of the job's {jobs[0].facts['of']:,} pairs; name the others too"
        )
    merge_journals([job.folder / JOURNAL_FILE for job in jobs], out / JOURNAL_FILE)
    place = {pairs.ids(i): i for i in range(len(pairs))}
    canaries = [[place[job.pairs.ids(pair)], name, key] for job in jobs for pair, name, key in job.facts["canaries"]]
    facts = jobs[0].facts | {
        "pairs": len(pairs),
        "shard": [0, 1],
        "canaries": sorted(canaries),
        "asked_now": 0,
        **_effort(view := JournalView(out / JOURNAL_FILE)),
        **reading_facts(view),
        "finished": now(),
    }
    return _finish(out, pairs, facts, max_unreadable)


def _finish(out: Path, pairs: JudgePairs, facts: Mapping[str, Any], max_unreadable: float) -> Job:
    """Write what a job's folder holds beside its journal."""
    write_pairs(out / PAIRS_FILE, pairs)
    write_json(out / JOB_FILE, facts)
    job = open_job(out)
    _write(job, max_unreadable)
    return job


def _check_calibration(judge: OpenJudge, calibration: GradeCalibration | None) -> None:
    """See, before anything is asked, that a calibration is for the judge's grades."""
    if calibration is None:
        return
    given = (len(calibration.shifts), calibration.min_grade)
    wanted = (len(judge.rubric.labels), judge.rubric.min_grade)
    if given != wanted:
        raise ConfigError(
            f"a calibration of {given[0]} grades, relevant from {given[1]} on, for the rubric {judge.rubric.name!r} of "
            f"{wanted[0]}, relevant from {wanted[1]} on; fit one on a job of this judge (`searchtune judge calibrate`)"
        )


def _header(judge: OpenJudge, pairs: JudgePairs, plan: JobPlan) -> dict[str, Any]:
    """All that readings depend on; jobs with another one must not share a journal."""
    fingerprint = fingerprint_of(pairs)
    nonce = draw_nonce(sha256_json([dict(judge.identity), fingerprint, plan.seed]))
    prompt: dict[str, Any] = {"nonce": nonce, "rubric": judge.rubric.fields()}
    if judge.style is not None:
        prompt = prompt_identity(judge.rubric, judge.style, nonce)
    return {"judge": dict(judge.identity), "prompt": prompt, "pairs": fingerprint}


def _texts(pairs: JudgePairs) -> list[tuple[str, str]]:
    return list(dict.fromkeys(pairs.texts(i) for i in range(len(pairs))))


def _planted_texts(pairs: JudgePairs, canaries: Sequence[Planted]) -> list[tuple[str, str]]:
    return list(dict.fromkeys((pairs.texts(one.pair)[0], one.passage) for one in canaries))


def _reading(journal: JournalView, key: str, grades: int) -> tuple[FloatArray64, str | None]:
    """The distribution under a key, or a row of NaN and why."""
    value = journal.get(key)
    if value is None or value["p"] is None:
        return np.full(grades, np.nan), _UNANSWERED if value is None else clean(str(value["reason"]))
    shares = np.array(value["p"], dtype=np.float64)
    return shares / shares.sum(), None


def _canaries(
    pairs: JudgePairs, places: IntArray, journal: JournalView, judge: OpenJudge, plan: JobPlan
) -> list[Planted]:
    """Canaries in those pairs of the part at `places` that people call grade 0, by their positions in the part.

    They are drawn from the whole job, so that its shards together have the same. Where people graded none they are
    drawn from what the judge itself calls grade 0, in each shard by itself.
    """
    count, graded = plan.canaries, pairs.grades
    if not (graded != UNJUDGED).any():
        shares = [_reading(journal, pair_key(*pairs.texts(int(i))), len(judge.rubric.labels))[0] for i in places]
        graded = np.full(len(pairs), UNJUDGED)
        graded[places] = _plain(judge).grades(np.stack(shares))
        count = math.ceil(count * len(places) / len(pairs))
    low = np.flatnonzero(graded == 0)
    chosen = np.sort(np.random.default_rng(plan.seed).permutation(low)[:count])
    texts = [pairs.texts(int(place)) for place in chosen]
    planted = plant_all([query for query, _ in texts], [passage for _, passage in texts], judge.rubric, seed=plan.seed)
    own = {int(place): i for i, place in enumerate(places)}
    return [replace(one, pair=own[place]) for one in planted if (place := int(chosen[one.pair])) in own]


def _plain(judge: OpenJudge) -> GradeCalibration:
    return plain_calibration(len(judge.rubric.labels), judge.rubric.min_grade)


def _effort(journal: JournalView) -> dict[str, float | None]:
    """Seconds, tokens and cost of all sessions, as the journal has them; a cost of None where no price was known."""
    values = [value for _, value in journal.items()]
    seconds = sum(value["seconds"] for value in values)
    costs = [value["cost"] for value in values if value["cost"] is not None]
    return {
        "asked": len(values),
        "seconds": round(seconds, 3),
        "tokens": round(sum(value["tokens"] for value in values)),
        "cost": round(sum(costs), _DIGITS) if costs else None,
        "labels_per_second": round(len(values) / seconds, 2) if seconds else 0.0,
    }


def open_job(folder: Path | str) -> Job:
    """A job that `run_job` finished, from its folder.

    Raises:
        DataError: a file of it is missing or broken.
    """
    folder = user_path(folder)
    if not (folder / JOB_FILE).is_file():
        raise DataError(
            f"{folder / JOB_FILE}: cannot be read (no such file); name the folder of a finished `searchtune judge run`"
        )
    facts = read_json_object(folder / JOB_FILE)
    try:
        calibration = GradeCalibration.from_json(facts["calibration"])
        planted = [(int(pair), str(name), str(key)) for pair, name, key in facts["canaries"]]
        if missing := sorted(_FACTS - facts.keys()):
            raise KeyError(", ".join(missing))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"{folder / JOB_FILE}: cannot be read ({error}); name the folder of a finished `searchtune judge run`"
        ) from error
    pairs = read_pairs(folder / PAIRS_FILE, PairFields(others="judges"), top=TOP_GRADE)
    journal = JournalView(folder / JOURNAL_FILE)
    size = len(calibration.shifts)
    found = [_reading(journal, pair_key(*pairs.texts(i)), size) for i in range(len(pairs))]
    shares = np.stack([row for row, _ in found])
    offsets = calibration.offsets(shares, pairs.queries)
    kinds: dict[str, FloatArray64] = {}
    for pair, name, key in planted:
        column = kinds.setdefault(name, np.full(len(pairs), np.nan))
        reading = _reading(journal, key, size)[0][None]
        column[pair] = float(calibration(reading, offsets[pair : pair + 1])[0] @ np.arange(size))
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
