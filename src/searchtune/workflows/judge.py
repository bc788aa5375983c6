"""Train a judge of relevance on pairs that people graded, prove that it reloads, and measure it on others."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from searchtune.data.judge_samples import balanced_sample, even_sample
from searchtune.data.judging import UNJUDGED, JudgePairs, joined_pairs, split_by_query, with_prefix
from searchtune.data.leakage import few
from searchtune.data.near import near_groups
from searchtune.errors import DataError, LeakError
from searchtune.evaluation.judge_report import JudgeReport
from searchtune.metrics.grade_calibration import GradeCalibration, fit_grade_calibration
from searchtune.models.adapters import add_lora
from searchtune.models.generator import load_causal_lm
from searchtune.models.sources import resolve_model
from searchtune.prompts.rubrics import Rubric
from searchtune.specs.judge import JudgeRecipe, PairSource
from searchtune.storage.atomic import write_json
from searchtune.storage.output import OutputPolicy
from searchtune.training.fit import TrainLog
from searchtune.types import FloatArray64
from searchtune.workflows.adapter import Verification
from searchtune.workflows.judge_agree import AgreementPlan, agree
from searchtune.workflows.judge_finish import TrainedJudge, write_judge
from searchtune.workflows.judge_fit import JudgeData, Split, fit_judge, graded_examples, read_split, training_examples
from searchtune.workflows.judge_job import JobPlan, run_job
from searchtune.workflows.judge_pairs import fingerprint_of, open_pairs, sampled
from searchtune.workflows.open_judge import open_judge, settle_rubric
from searchtune.workflows.progress import SILENT, Progress
from searchtune.workflows.run_folder import TrainingRun, training_run
from searchtune.workflows.training_set import Leaks


@dataclass(frozen=True)
class JudgeResult:
    """What a finished run left behind."""

    folder: Path
    adapter: Path
    log: TrainLog
    calibration: GradeCalibration
    verified: Verification
    report: JudgeReport | None
    """None where the recipe has no test pairs."""

    def summary(self) -> dict[str, Any]:
        """The main figures as plain values."""
        judges = {} if self.report is None else self.report.judges
        return {
            "folder": str(self.folder),
            "adapter": str(self.adapter),
            "best_step": self.log.best_step,
            "training_seconds": round(self.log.seconds, 2),
            "dev": self.log.best_dev,
            "calibration": self.calibration.to_json(),
            "test": {name: {figure: it.mean for figure, it in one.figures.items()} for name, one in judges.items()},
        }


class _Data(NamedTuple):
    """Pairs of other queries each; no test pairs where the recipe names none."""

    train: Split
    dev: Split
    test: JudgePairs | None


def train_judge(
    recipe: JudgeRecipe,
    out: Path | str,
    *,
    policy: OutputPolicy = "fail",
    leaks: Leaks = "fail",
    progress: Progress = SILENT,
) -> JudgeResult | None:
    """Train, calibrate on dev, save and verify a judge's adapter; judge the test pairs with base and tuned model.

    `out` gets `adapter/`, `recipe.json`, `train_log.json`, `checkpoints/` and, with test pairs, the jobs `base/` and
    `tuned/` and their report `judge.json`, `judge.html`, `review.html`.

    Returns:
        The result; None in all but the main process of a distributed run.

    Raises:
        LeakError: a training query is also, or nearly, a test query, and `leaks` is "fail".
        SearchtuneError: whatever else a user can mend; see `searchtune.errors`.
    """
    with training_run(recipe, out, policy, progress) as run:
        return _train(recipe, run, leaks)


def _train(recipe: JudgeRecipe, run: TrainingRun, leaks: Leaks) -> JudgeResult | None:
    progress, out = run.progress, run.out
    rubric = settle_rubric(recipe.rubric)
    progress.stage("reading the pairs")
    train, dev, test = _open_data(recipe, rubric, leaks, progress)
    root = resolve_model(recipe.base, recipe.revision)
    dtype = run.begin(fingerprint_of(train.pairs))
    progress.stage("loading the base model")
    model = load_causal_lm(root, dtype=dtype, device=run.device, quantise=recipe.quantise, attention="eager")
    adapter = add_lora(model, recipe.method, seed=recipe.seed, task_type="CAUSAL_LM")
    share = 100 * adapter.trainable / adapter.total
    progress.note(
        f"trainable params: {adapter.trainable:,} || all params: {adapter.total:,} || trainable%: {share:.4f}"
    )
    log = fit_judge(recipe, run, model, JudgeData(train, dev, rubric))
    if not run.main:
        return None
    write_json(out / "train_log.json", log.to_json())
    progress.stage("calibrating on dev")
    calibration = _calibrated(recipe, read_split(model, recipe, dev, rubric), dev.pairs, rubric)
    progress.note(f"relevant from a probability of {calibration.threshold:.2f} on, as is best on dev")
    progress.stage("saving the adapter and opening it in a fresh process")
    trained = TrainedJudge(
        recipe, rubric, root, model, adapter, log, calibration, train.pairs, train.examples, run.warnings
    )
    verified = write_judge(out / "adapter", trained)
    worst = max(verified.sentence_transformers, verified.peft)
    progress.note(f"reloaded = trained: probe scores differ by {worst:.1e} at most")
    report = None if test is None else _measure(recipe, root, test, out, dev.pairs, progress)
    return JudgeResult(out, out / "adapter", log, calibration, verified, report)


def _open_data(recipe: JudgeRecipe, rubric: Rubric, leaks: Leaks, progress: Progress) -> _Data:
    """Training, dev and test pairs, and whatever of them would only be missed after training."""
    pairs = _graded(recipe.train, rubric, "training")
    more = [_graded(source, rubric, "training") for source in recipe.more]
    test = None if recipe.test is None else _graded(recipe.test, rubric, "test", all_of_them=False)
    if test is not None:
        pairs, *more = (_without_leaks(part, test, leaks, progress) for part in (pairs, *more))
    parts = split_by_query(pairs, {"train": 1 - recipe.dev.share, "dev": recipe.dev.share}, seed=0)
    train, dev = parts["train"], sampled(parts["dev"], recipe.dev.max_examples)
    for name, part in (("training", train), ("dev", dev)):
        relevant = part.grades >= rubric.min_grade
        if relevant.all() or not relevant.any():
            kind = "relevant" if relevant.all() else "not relevant"
            raise DataError(
                f"all {len(part):,} {name} pairs are {kind} (grade {rubric.min_grade} or more is): give pairs of both "
                "kinds, of more queries, or a greater dev.share"
            )
    train = _drawn(recipe, [train, *more], rubric)
    counts = ", ".join(f"{int((train.grades == grade).sum()):,} of {grade}" for grade in range(rubric.top + 1))
    progress.note(f"training pairs: {len(train):,} ({counts}); dev: {len(dev):,} pairs of other queries")
    return _Data(
        Split(train, training_examples(recipe, train, rubric)), Split(dev, graded_examples(recipe, dev, rubric)), test
    )


def _drawn(recipe: JudgeRecipe, parts: Sequence[JudgePairs], rubric: Rubric) -> JudgePairs:
    """What is trained on, of the first source and of further ones, whose ids then begin with their number."""
    if recipe.per_query is not None:
        parts = [even_sample(part, recipe.per_query, rubric.min_grade, seed=recipe.seed) for part in parts]
    if recipe.per_grade is not None:
        parts = [balanced_sample(part, recipe.per_grade, seed=recipe.seed) for part in parts]
    train = joined_pairs([parts[0], *(with_prefix(part, f"{i}:") for i, part in enumerate(parts[1:], start=1))])
    if not len(train):
        raise DataError(
            f"no query has both a relevant passage (grade {rubric.min_grade} or more) and one that is not: leave "
            "per_query out, or give the task negatives"
        )
    return train


def _graded(source: PairSource, rubric: Rubric, what: str, *, all_of_them: bool = True) -> JudgePairs:
    """The pairs of a source, some or all of which people graded."""
    pairs = open_pairs(source, top=rubric.top)
    known = pairs.grades != UNJUDGED
    if not known.any():
        raise DataError(f"none of the {what} pairs has a human grade: name the field that holds it (grade_field)")
    return pairs.select(known) if all_of_them else pairs


def _without_leaks(pairs: JudgePairs, test: JudgePairs, leaks: Leaks, progress: Progress) -> JudgePairs:
    """The training pairs whose queries are not test queries too, as `leaks` wants it."""
    texts = [*pairs.query_texts, *test.query_texts]
    groups = np.array(near_groups([texts]), dtype=np.int64)
    shared = np.isin(groups[: len(pairs.query_texts)], groups[len(pairs.query_texts) :])
    if not shared.any():
        return pairs
    named = few([pairs.query_texts[i] for i in np.flatnonzero(shared).tolist()])
    if leaks == "fail":
        raise LeakError(
            f"{int(shared.sum())} training queries are also, or nearly, test queries: {named}; take them out, or pass "
            "--leaks drop (leave them out of training) or --leaks allow"
        )
    progress.note(f"{int(shared.sum())} training queries are also test queries ({leaks})")
    if leaks == "drop" and shared.all():
        raise LeakError("every training query is also, or nearly, a test query: nothing is left to train on")
    return pairs if leaks == "allow" else pairs.select(~shared[pairs.queries])


def _calibrated(recipe: JudgeRecipe, readings: FloatArray64, dev: JudgePairs, rubric: Rubric) -> GradeCalibration:
    """Fitted on dev, its queries brought to one level where the recipe wants it. Shape: readings (pairs, grades)."""
    queries = dev.queries if recipe.centre else None
    return fit_grade_calibration(readings, dev.grades, rubric.min_grade, queries=queries)


def _measure(
    recipe: JudgeRecipe, root: Path, test: JudgePairs, out: Path, dev: JudgePairs, progress: Progress
) -> JudgeReport:
    """Judge the test pairs with base and tuned model, each calibrated on dev, and report how they agree with people."""
    plan = JobPlan(canaries=recipe.canaries, seed=recipe.seed)
    rubric = settle_rubric(recipe.rubric)
    opened = open_judge(str(root), quantise=recipe.quantise, precision=recipe.precision, max_tokens=recipe.max_tokens)
    base = replace(opened, name=recipe.base).under(rubric, recipe.style)
    progress.stage("judging dev with the base")
    on_dev = run_job(base, dev, out / "base-dev", progress=progress)
    fitted = _calibrated(recipe, on_dev.probabilities, dev, rubric)
    progress.stage("judging test with the base")
    jobs = {"base": run_job(base, test, out / "base", replace(plan, calibration=fitted), progress=progress)}
    tuned = open_judge(str(out / "adapter"), base=str(root), precision=recipe.precision)
    progress.stage("judging test with the tuned judge")
    jobs["tuned"] = run_job(tuned, test, out / "tuned", plan, progress=progress)
    return agree(jobs, out, AgreementPlan(headline="tuned", reference="base", notes=progress.warnings))
