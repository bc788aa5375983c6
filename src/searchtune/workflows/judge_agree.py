"""How far judges agree with people: finished jobs, other judges and their average, measured on the same pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from searchtune.data.judging import UNJUDGED, JudgePairs
from searchtune.data.judgments import with_grades
from searchtune.data.named import NamedRun, align, named_qrels
from searchtune.data.trec import read_trec_run
from searchtune.errors import ConfigError, DataError, did_you_mean
from searchtune.evaluation.judge_page import write_judge_page
from searchtune.evaluation.judge_report import JobFacts, JudgeReport, write_judge_report
from searchtune.evaluation.judging import JudgeEvidence, JudgeLabels, SystemScores, build_judge_report
from searchtune.evaluation.review import Review, ReviewPair, write_review
from searchtune.metrics.grade_calibration import log_odds
from searchtune.metrics.ranking import score
from searchtune.reading import user_path
from searchtune.specs.circularity import ModelFacts, refuse_circular
from searchtune.types import FloatArray64, IntArray, Judgment
from searchtune.words import count_words, find_terms
from searchtune.workflows.judge_job import Job

REPORT_FILE, PAGE_FILE, REVIEW_FILE = "judge.json", "judge.html", "review.html"
_TWO = 2
"""Grades of a judge that only says relevant or not."""


@dataclass(frozen=True)
class AgreementPlan:
    """What is compared with what."""

    headline: str
    """The judge that the report is about."""
    reference: str | None = None
    """The judge that it is compared with."""
    others: Mapping[str, int] = field(default_factory=dict)
    """Judges whose grades came with the pairs, and from which grade on each calls a pair relevant."""
    average: bool = False
    """Also judge by the mean of all jobs' probabilities of relevance."""
    runs: Sequence[Path] = ()
    """TREC runs of search systems, to be ranked by the labels of people and of each judge."""
    metric: str = "ndcg@10"
    human: Sequence[Judgment] = ()
    """Grades of people in place of those in the jobs."""
    human_from: int | None = None
    """From which grade on people call a pair relevant; None: as the rubric with the most grades does."""
    seed: int = 13
    notes: Sequence[str] = ()
    """Warnings that the report repeats."""


def agree(jobs: Mapping[str, Job], out: Path | str, plan: AgreementPlan) -> JudgeReport:
    """Measure finished jobs on one set of pairs against people; `out` gets the report, its page, and a page to review.

    Raises:
        ConfigError: a judge that is not there, or two judges or runs of one name.
        DataError: jobs on different pairs, or no pair with a grade of a person.
    """
    if not jobs:
        raise ConfigError("no job to measure: name at least one")
    first = next(iter(jobs.values()))
    for job in jobs.values():
        if [job.pairs.ids(i) for i in range(len(job.pairs))] != [first.pairs.ids(i) for i in range(len(first.pairs))]:
            raise DataError(f"{job.folder} and {first.folder} judged different pairs; judge the same ones to compare")
    pairs = with_grades(first.pairs, plan.human) if plan.human else first.pairs
    if not (pairs.grades != UNJUDGED).any():
        raise DataError(f"{first.folder}: no pair has a grade of a person; give labels to compare with (--human)")
    min_grade = plan.human_from or _min_grade(jobs)
    labels = _all_labels(jobs, pairs, min_grade, plan)
    if plan.runs:
        runs = _read_runs(plan.runs)
        labels = {
            name: replace(one, scores=_systems(pairs, one, runs, min_grade, plan)) for name, one in labels.items()
        }
    meanings = [str(meaning) for meaning in _rubric(jobs[plan.headline])["meanings"]] if plan.headline in jobs else []
    evidence = JudgeEvidence(
        collection=_collection(first),
        human=pairs.grades,
        queries=pairs.queries,
        judges=labels,
        min_grade=min_grade,
        headline=plan.headline,
        reference=plan.reference,
        grades=meanings if len(meanings) > int(pairs.grades.max()) else [],
        lengths=np.array([count_words(pairs.passages[int(doc)]) for doc in pairs.docs], dtype=np.int64),
        overlaps=_overlaps(pairs),
        provenance=_provenance(jobs),
        notes=plan.notes,
    )
    report = build_judge_report(evidence, seed=plan.seed)
    out = user_path(out)
    write_judge_report(report, out / REPORT_FILE)
    write_judge_page(report, out / PAGE_FILE)
    if plan.headline in jobs:
        write_review(_review(plan.headline, jobs[plan.headline], pairs, min_grade), out / REVIEW_FILE)
    return report


def check_circular(job: Job, used: Mapping[str, Sequence[ModelFacts]], *, allow: bool = False) -> tuple[str, ...]:
    """Refuse figures from a judge of itself; see `specs.circularity`."""
    model = job.facts["model"]
    judge = ModelFacts(model["name"], model["base_sha256"], model["adapter_sha256"])
    return refuse_circular(judge, used, allow=allow)


def _rubric(job: Job) -> dict[str, Any]:
    rubric: dict[str, Any] = job.facts["prompt"]["rubric"]
    return rubric


def _min_grade(jobs: Mapping[str, Job]) -> int:
    """From which grade on people call a pair relevant: as the rubric with the most grades has it."""
    rubric = max((_rubric(job) for job in jobs.values()), key=lambda rubric: len(rubric["labels"]))
    return int(rubric["min_grade"])


def _collection(job: Job) -> str:
    return f"{len(job.pairs):,} pairs of {len(job.pairs.query_ids)} queries"


def _all_labels(
    jobs: Mapping[str, Job], pairs: JudgePairs, min_grade: int, plan: AgreementPlan
) -> dict[str, JudgeLabels]:
    """Every judge by name: the jobs, their average, the judges that came with the pairs."""
    names = [*jobs, *(["average"] * plan.average), *plan.others]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise ConfigError(f"two judges are called {twice[0]!r}: give the job another name")
    labels = {name: _labels(job, pairs.grades, min_grade) for name, job in jobs.items()}
    if plan.average:
        labels["average"] = _average(jobs)
    for name, grade in plan.others.items():
        if name not in pairs.others:
            hint = did_you_mean(name, pairs.others) or "; the pairs came with none: judge them with --judges-field"
            raise ConfigError(f"no other judge is called {name!r}{hint}")
        labels[name] = JudgeLabels(pairs.others[name], kind="labels in the file", min_grade=grade, graded=False)
    return labels


def _read_runs(files: Sequence[Path]) -> dict[str, NamedRun]:
    """Runs by their tags, or by the names of their files where two have one tag."""
    runs = [read_trec_run(user_path(file)) for file in files]
    tags = [run.tag or _stem(file) for file, run in zip(files, runs, strict=True)]
    names = tags if len(set(tags)) == len(tags) else [_stem(file) for file in files]
    if len(set(names)) < len(names):
        raise ConfigError(f"runs {names}: two have the same name: give them tags or files of different names")
    return dict(zip(names, runs, strict=True))


def _stem(file: Path) -> str:
    return Path(file).name.split(".")[0]


def _coarser(job: Job, human: IntArray, min_grade: int) -> bool:
    """Whether a judge only says relevant or not, where people use more grades."""
    return len(job.calibration.shifts) == _TWO and (min_grade > 1 or int(human.max()) >= _TWO)


def _labels(job: Job, human: IntArray, min_grade: int) -> JudgeLabels:
    binary = _coarser(job, human, min_grade)
    facts = job.facts
    missing = [
        reason or "no grade"
        for reason, grade, person in zip(job.reasons, job.grades, human, strict=True)
        if grade < 0 and person != UNJUDGED
    ]
    return JudgeLabels(
        grades=job.grades,
        kind="reranker" if facts["identity"].get("what") == "reranker" else "judge",
        probabilities=None if binary else job.probabilities,
        calibrated=job.relevance,
        min_grade=1 if binary else None,
        graded=not binary,
        reasons={reason: missing.count(reason) for reason in sorted(set(missing))},
        planted=job.planted,
        job=JobFacts(
            seconds=facts["seconds"], cost=facts["cost"], labels_per_second=facts["labels_per_second"] or None
        ),
    )


def _average(jobs: Mapping[str, Job]) -> JudgeLabels:
    """Relevant where the jobs' probabilities lie above their thresholds on average, in units of log odds."""
    odds, bars = [], []
    for job in jobs.values():
        odds.append(log_odds(job.relevance))
        bars.append(float(log_odds(np.array([job.calibration.threshold]))[0]))
    mean = np.mean(odds, axis=0)
    unread = np.isnan(mean)
    grades = np.where(unread, -1, mean >= np.mean(bars)).astype(np.int64)
    return JudgeLabels(
        grades,
        kind=f"mean of {', '.join(jobs)}",
        calibrated=1 / (1 + np.exp(-mean)),
        min_grade=1,
        graded=False,
        reasons={"not read by all": int(unread.sum())} if unread.any() else {},
    )


def _overlaps(pairs: JudgePairs) -> FloatArray64:
    """The share of each query's words that the passage has. Shape: (pairs,)."""
    asked = [set(find_terms(text.lower())) for text in pairs.query_texts]
    words: dict[int, set[str]] = {}
    found = np.zeros(len(pairs))
    for i, (query, doc) in enumerate(zip(pairs.queries.tolist(), pairs.docs.tolist(), strict=True)):
        passage = words.setdefault(doc, set(find_terms(pairs.passages[doc].lower())))
        found[i] = len(asked[query] & passage) / max(1, len(asked[query]))
    return found


def _systems(
    pairs: JudgePairs, labels: JudgeLabels, runs: Mapping[str, NamedRun], min_grade: int, plan: AgreementPlan
) -> SystemScores:
    """The metric of every system by query, with people's labels and with the judge's."""
    human = _scored(pairs, pairs.grades, runs, min_grade, plan.metric)
    said = np.where(pairs.grades == UNJUDGED, -1, labels.grades)
    judge = _scored(pairs, said, runs, labels.min_grade or min_grade, plan.metric)
    return SystemScores(plan.metric, list(runs), human, judge)


def _scored(
    pairs: JudgePairs, grades: IntArray, runs: Mapping[str, NamedRun], min_grade: int, metric: str
) -> FloatArray64:
    """Shape: (queries, systems). A query without a grade is NaN."""
    keep = np.flatnonzero(grades >= 0)
    labels = named_qrels(
        [pairs.ids(int(i))[0] for i in keep], [pairs.ids(int(i))[1] for i in keep], grades[keep].astype(np.int64)
    )
    aligned = align(labels, runs)
    place = {query: i for i, query in enumerate(pairs.query_ids)}
    rows = np.array([place[aligned.query_ids[int(query)]] for query in aligned.qrels.queries], dtype=np.int64)
    found = np.full((len(pairs.query_ids), len(runs)), np.nan)
    for column, name in enumerate(runs):
        found[rows, column] = score(aligned.runs[name], aligned.qrels, [metric], min_grade=min_grade)[metric]
    return found


def _review(name: str, job: Job, pairs: JudgePairs, min_grade: int) -> Review:
    """The pairs side by side; people's grades as relevant or not where the judge says no more."""
    rubric, shares, human = _rubric(job), job.calibrated, pairs.grades
    if _coarser(job, human, min_grade):
        human = np.where(human == UNJUDGED, UNJUDGED, human >= min_grade).astype(np.int64)
    said = [
        ReviewPair(
            *(pairs.ids(i)[0], pairs.texts(i)[0], pairs.ids(i)[1], pairs.texts(i)[1]),
            first=None if human[i] == UNJUDGED else int(human[i]),
            second=None if grade < 0 else grade,
            second_probabilities=None if grade < 0 else [float(share) for share in shares[i]],
            reason=job.reasons[i],
        )
        for i, grade in enumerate(job.grades.tolist())
    ]
    return Review(f"{name} against people", "human", name, [str(it) for it in rubric["meanings"]], said)


def _provenance(jobs: Mapping[str, Job]) -> dict[str, Any]:
    return {
        name: {key: job.facts[key] for key in ("judge", "identity", "prompt", "fingerprint", "seed", "finished")}
        for name, job in jobs.items()
    }
