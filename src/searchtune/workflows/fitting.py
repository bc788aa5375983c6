"""Training as every stage watches it: enough steps, dev where it can tell weights apart, and the base as a rival."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from searchtune.specs.recipe import Optimiser
from searchtune.training.fit import FitPlan, TrainLog, fit
from searchtune.training.objective import Objective
from searchtune.workflows.progress import Progress, figures_in_words, tell_step
from searchtune.workflows.run_folder import TrainingRun

Figures = Mapping[str, float]
_FEW_CUT = 0.05
"""Below this share of the texts, that they are cut is a note."""


@dataclass(frozen=True)
class DevWatch:
    """How training is watched on dev."""

    figures: Callable[[], Figures]
    """Dev figures of the model as it now is; higher is better."""
    metric: str
    """The one by which weights are chosen."""
    times: int
    queries: int
    """How many queries (turns, questions) the figures are means over."""
    min_queries: int
    """With fewer nothing is chosen."""
    what: str = "queries"
    measure_base: bool = True
    """Whether the untrained model is a rival: not where its head was drawn at random."""
    base_figures: Callable[[], Figures] | None = None
    """The untrained model's figures, where they take no new pass; None where `figures` has to be asked."""
    rivals: Mapping[str, Figures] = field(default_factory=dict)
    """What else the adapter should be better than, by name."""

    @property
    def chooses(self) -> bool:
        """Whether dev is large enough to choose by."""
        return self.queries >= self.min_queries


class CutTexts(NamedTuple):
    """How many of some texts lose their ends."""

    cut: int
    of: int
    what: str


def tell_cut(progress: Progress, texts: CutTexts, key: str, limit: int, most: int | None = None) -> None:
    """Say how many texts are cut at `limit` tokens, and what to set; a warning from a twentieth on.

    `most` is how many tokens the base can read at all; None where it is not known.
    """
    if not texts.cut:
        return
    share = texts.cut / max(1, texts.of)
    said = f"{texts.cut:,} of {texts.of:,} {texts.what} ({share:.0%}) are cut at {limit:,} tokens"
    if share < _FEW_CUT:
        progress.note(said)
    elif most is not None and limit >= most:
        progress.warn(f"{said}, which is all that the base reads: split long texts, or take a base that reads more")
    else:
        wider = 2 * limit if most is None else min(most, 2 * limit)
        reads = "" if most is None else f"; the base reads up to {most:,}"
        progress.warn(f"{said} and their ends are not read: --set {key}={wider} reads more of them{reads}")


def fit_watched(
    objective: Objective,
    optim: Optimiser,
    run: TrainingRun,
    watch: DevWatch | None,
    *,
    stage: str = "training",
    folder: Path | None = None,
    settle: Callable[[TrainLog], None] | None = None,
) -> TrainLog:
    """Train, and tell what a reader must know: epochs that were raised, a dev too small, what was kept, and the base.

    Checkpoints go to `folder`, by default the run's. `settle` changes what was kept, and the log with it, before it is
    compared with its rivals.

    Raises:
        TrainingInterrupted, SearchtuneError: as `fit`.
    """
    progress = run.progress
    if watch is not None and not watch.times:
        watch = None
    _tell_steps(objective.steps_per_epoch(), optim, progress)
    base = None if watch is None else _before(watch, progress)
    progress.stage(stage)
    plan = FitPlan(
        folder or run.out,
        run.recipe.seed,
        "" if watch is None else watch.metric,
        0 if watch is None else watch.times,
        run.resume,
        choose=watch is None or watch.chooses,
    )
    log = fit(
        objective,
        optim,
        plan,
        on_eval=None if watch is None else watch.figures,
        on_step=lambda step, total: tell_step(progress, step, total),
    )
    log.base_dev = base
    if watch is not None:
        _tell_kept(log, watch, progress)
    if settle is not None:
        settle(log)
    if watch is not None:
        _tell_rivals(log, watch, progress)
    return log


def _tell_rivals(log: TrainLog, watch: DevWatch, progress: Progress) -> None:
    """Warn where what was kept is no better on dev than what was there before it."""
    if log.best_dev is None:
        return
    kept = log.best_dev[watch.metric]
    rivals = dict(watch.rivals) if log.base_dev is None else {"the base model": log.base_dev, **watch.rivals}
    for name, figures in rivals.items():
        rival = figures.get(watch.metric)
        if rival is None or kept > rival:
            continue
        how = "no better than" if kept == rival else "worse than"
        progress.warn(
            f"on dev the adapter is {how} {name}: {watch.metric} {kept:.4f} against {rival:.4f} "
            f"({watch.queries:,} {watch.what}); use it only if the test figures say otherwise, or try a lower "
            "optim.lr, fewer epochs or more training data"
        )


def _tell_steps(per_epoch: int, optim: Optimiser, progress: Progress) -> None:
    epochs = optim.epochs_for(per_epoch)
    if epochs > optim.epochs and per_epoch:
        progress.warn(
            f"{optim.epochs} epochs would be {optim.epochs * per_epoch} steps, in which an adapter hardly leaves its "
            f"start: raised to {epochs} epochs, {epochs * per_epoch} steps (optim.min_steps: {optim.min_steps}; 0 "
            "keeps the epochs). More training data would help more"
        )


def _before(watch: DevWatch, progress: Progress) -> dict[str, float] | None:
    """Dev figures before training, told with what dev is."""
    size = f"{watch.queries:,} {watch.what}"
    for name, figures in watch.rivals.items():
        progress.note(f"dev, {name}: {figures_in_words(figures)} ({size})")
    if not watch.chooses:
        progress.warn(
            f"dev has {size}, fewer than {watch.min_queries}: chance would choose between weights, so the last ones "
            "are kept, and whatever else is fitted on dev is as uncertain; give more dev labels (dev.min_queries sets "
            "the limit)"
        )
    if not watch.measure_base:
        return None
    progress.stage("reading dev with the base model")
    before = {name: value for name, value in (watch.base_figures or watch.figures)().items() if math.isfinite(value)}
    progress.note(f"dev before training: {figures_in_words(before)} ({size})")
    return before


def _tell_kept(log: TrainLog, watch: DevWatch, progress: Progress) -> None:
    last = log.steps[-1].step
    if log.best_dev is None:
        return
    figure = f"dev {watch.metric} {log.best_dev[watch.metric]:.4f}"
    equal = [
        str(step.step)
        for step in log.steps
        if step.dev and step.dev.get(watch.metric) == log.best_dev[watch.metric] and step.step != log.best_step
    ]
    why = "the best on dev" if watch.chooses else "the last: dev is too small to choose by"
    if equal and watch.chooses:
        why = f"the first of equals on dev, where steps {', '.join(equal)} reach the same"
    progress.note(f"kept: the weights after step {log.best_step} of {last}, {why} ({figure})")
