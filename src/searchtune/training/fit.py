"""The one training loop: seed, optimiser, schedule, clipping, checkpoints, exact resume, best weights and the log.

It runs on accelerate, so the same code trains in one process or in many. It does not know what it trains, on what
data, or how an evaluation works: an `Objective` gives batches and losses, and `on_eval` gives dev figures.
"""

from __future__ import annotations

import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedDataParallelKwargs
from torch import Tensor

from searchtune.errors import SearchtuneError
from searchtune.models.quiet import quiet
from searchtune.specs.recipe import Optimiser
from searchtune.training.checkpoint import (
    Checkpoint,
    newest_checkpoint,
    optimiser_tensors,
    prune_checkpoints,
    random_state,
    restore_optimiser,
    restore_random_state,
    save_checkpoint,
)
from searchtune.training.objective import Objective
from searchtune.training.optimisers import make_optimiser, trained_parameters

OnEval = Callable[[], Mapping[str, float]]


@dataclass(frozen=True)
class Step:
    """One line of the log. `seconds` is training time so far, evaluation and checkpoints left out."""

    step: int
    loss: float
    lr: float
    grad_norm: float
    seconds: float
    dev: dict[str, float] | None = None


@dataclass
class TrainLog:
    """What a run did. `best_step` is the step whose weights were kept."""

    steps: list[Step] = field(default_factory=list)
    best_step: int = 0
    best_dev: dict[str, float] | None = None
    """Dev figures of what was kept; None where the metric is not known."""
    base_dev: dict[str, float] | None = None
    """Dev figures before training, where they were taken."""
    strength: float = 1.0
    """The share of the trained change that was kept."""

    @property
    def seconds(self) -> float:
        """Seconds spent in training steps."""
        return self.steps[-1].seconds if self.steps else 0.0

    def to_json(self) -> dict[str, Any]:
        return {
            "steps": [asdict(s) for s in self.steps],
            "best_step": self.best_step,
            "best_dev": self.best_dev,
            "base_dev": self.base_dev,
            "strength": self.strength,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TrainLog:
        steps = [Step(**step) for step in data["steps"]]
        return cls(steps, data["best_step"], data["best_dev"], data.get("base_dev"), data["strength"])


class TrainingInterrupted(SearchtuneError):
    """SIGINT or SIGTERM came; a checkpoint was written first."""

    exit_code = 130


@dataclass(frozen=True)
class FitPlan:
    """How the loop runs, beside the optimiser's settings."""

    folder: Path
    """Checkpoints go to `folder/checkpoints`."""
    seed: int
    metric: str = "ndcg@10"
    evaluations: int = 0
    """How many times `on_eval` is called, evenly over the run, the last step included."""
    resume: bool = False
    choose: bool = True
    """Whether the best of these are kept; otherwise the last weights are."""


def fit(
    objective: Objective,
    optim: Optimiser,
    plan: FitPlan,
    *,
    on_eval: OnEval | None = None,
    on_step: Callable[[Step, int], None] | None = None,
) -> TrainLog:
    """Minimise `objective`, leave the best weights in `objective.trainable`, and return the log.

    With evaluations, "best" is the highest dev `plan.metric`, the first of equals; without (or without
    `plan.choose`), the last step. `on_step` gets each step
    and the number of steps in all.

    Raises:
        TrainingInterrupted: SIGINT or SIGTERM came; the run can be resumed.
        SearchtuneError: a loss was not finite, or there is nothing to train on.
    """
    run = _Run(objective, optim, plan)
    with _signals() as stop:
        for batch in run.remaining_batches():
            run.step(batch)
            if on_eval is not None and run.log.steps[-1].step in run.evaluation_steps:
                run.evaluate(on_eval)
            if on_step is not None:
                on_step(run.log.steps[-1], run.total)
            if run.asked_to_stop(bool(stop)):
                run.checkpoint()
                raise TrainingInterrupted(f"stopped at step {run.done} of {run.total}; --resume continues from there")
            if run.done % optim.checkpoint_every == 0 or run.done == run.total:
                run.checkpoint()
    run.keep_best()
    return run.log


class _Run:
    """The state of one call of `fit`."""

    def __init__(self, objective: Objective, optim: Optimiser, plan: FitPlan) -> None:
        torch.manual_seed(plan.seed)
        self.objective, self.optim, self.plan = objective, optim, plan
        self.module = objective.trainable
        self.names = trained_parameters(self.module, optim)
        self.per_epoch = objective.steps_per_epoch()
        self.epochs = optim.epochs_for(self.per_epoch)
        self.total = self.per_epoch * self.epochs
        if not self.total:
            raise SearchtuneError("nothing to train on: the train split gives less than one batch of two pairs")
        self.accelerator = Accelerator(
            cpu=next(iter(self.names)).device.type == "cpu",
            kwargs_handlers=[DistributedDataParallelKwargs(broadcast_buffers=False)],
        )
        self.log = TrainLog()
        self.done = 0
        self.best: dict[str, Tensor] = {}
        self.seconds = 0.0
        self.optimiser = make_optimiser(self.names, optim)
        if plan.resume and (checkpoint := newest_checkpoint(self.folder)):
            self._restore(checkpoint)
        with quiet():
            objective.trainable, self.optimiser = self.accelerator.prepare(self.module, self.optimiser)
        self.ratios = [group["ratio"] for group in self.optimiser.param_groups]
        count = min(plan.evaluations, self.total)
        self.evaluation_steps = {round(self.total * (i + 1) / count) for i in range(count)}

    @property
    def folder(self) -> Path:
        return self.plan.folder / "checkpoints"

    def remaining_batches(self) -> Iterator[Any]:
        """The batches from the current step on."""
        first = self.done // self.per_epoch
        for epoch in range(first, self.epochs):
            skip = self.done - epoch * self.per_epoch if epoch == first else 0
            yield from islice(self.objective.batches(epoch), skip, None)

    def step(self, batch: Any) -> None:
        """One optimiser step."""
        start = time.perf_counter()
        rate = learning_rate(self.done, self.total, self.optim)
        for group, ratio in zip(self.optimiser.param_groups, self.ratios, strict=True):
            group["lr"] = rate * ratio
        loss = self.objective.loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise SearchtuneError(
                f"the loss became {value} at step {self.done + 1}; lower optim.lr or use precision: fp32"
            )
        self.accelerator.backward(loss)
        norm = self.accelerator.clip_grad_norm_(list(self.names), self.optim.max_grad_norm)
        self.optimiser.step()
        self.optimiser.zero_grad()
        self.done += 1
        self.seconds += time.perf_counter() - start
        self.log.steps.append(Step(self.done, value, rate, float(norm), self.seconds))

    def evaluate(self, on_eval: OnEval) -> None:
        """Put dev figures into the log, and keep these weights if they are the best so far.

        A figure that is not a number (an area under a curve of one kind of example, say) is left out.
        """
        figures = {name: value for name, value in on_eval().items() if math.isfinite(value)}
        self.log.steps[-1] = Step(**{**asdict(self.log.steps[-1]), "dev": figures})
        metric, best = self.plan.metric, self.log.best_dev
        if metric in figures and (not self.plan.choose or best is None or figures[metric] > best[metric]):
            self.log.best_dev, self.log.best_step = figures, self.done
            self.best = self._weights() if self.plan.choose else {}

    def checkpoint(self) -> None:
        """Write where the run stands; one process writes, all wait."""
        if self.accelerator.is_main_process:
            state = {"log": self.log.to_json(), "random": random_state(), "seconds": self.seconds}
            weights = self._weights() | {f"best/{name}": tensor for name, tensor in self.best.items()}
            tensors = optimiser_tensors(self.optimiser, self.names)
            written = save_checkpoint(self.folder, self.done, weights, tensors, state)
            prune_checkpoints(written, self.optim.keep_checkpoints)
        self.accelerator.wait_for_everyone()

    def asked_to_stop(self, here: bool) -> bool:
        """Whether any process got a signal: all must stop after the same step, or they would wait for each other."""
        if self.accelerator.num_processes == 1:
            return here
        flag = torch.tensor([int(here)], device=self.accelerator.device)
        return bool(self.accelerator.reduce(flag, reduction="sum").item())

    def keep_best(self) -> None:
        """Leave the best weights in the unwrapped module."""
        self.objective.trainable = self.module
        if self.best:
            self._set_weights(self.best)
        else:
            self.log.best_step = self.done

    def _weights(self) -> dict[str, Tensor]:
        return {name: parameter.detach().cpu().clone() for parameter, name in self.names.items()}

    @torch.no_grad()
    def _set_weights(self, weights: Mapping[str, Tensor]) -> None:
        for parameter, name in self.names.items():
            parameter.copy_(weights[name])

    def _restore(self, checkpoint: Checkpoint) -> None:
        prefix = "best/"
        current = {name for name in checkpoint.weights if not name.startswith(prefix)}
        if current != set(self.names.values()):
            raise SearchtuneError(f"{self.folder}: the checkpoint trains other parameters; was the recipe changed?")
        self.best = {n.removeprefix(prefix): t for n, t in checkpoint.weights.items() if n.startswith(prefix)}
        self._set_weights(checkpoint.weights)
        restore_optimiser(self.optimiser, self.names, checkpoint.optimiser)
        restore_random_state(checkpoint.state["random"])
        self.log = TrainLog.from_json(checkpoint.state["log"])
        self.seconds = checkpoint.state["seconds"]
        self.done = checkpoint.step


def learning_rate(step: int, total: int, optim: Optimiser) -> float:
    """The rate of step `step` (from 0) of `total`: linear warm-up, then the schedule, which ends at 0."""
    warmup = round(optim.warmup * total)
    if step < warmup:
        return optim.lr * (step + 1) / warmup
    progress = (step - warmup) / max(1, total - warmup)
    if optim.schedule == "linear":
        return optim.lr * (1 - progress)
    return optim.lr * (1 + math.cos(math.pi * progress)) / 2 if optim.schedule == "cosine" else optim.lr


@contextmanager
def _signals() -> Iterator[list[int]]:
    """While active, the first SIGINT or SIGTERM is noted in the list that is yielded; a second one acts as usual."""
    received: list[int] = []
    before: dict[int, Any] = {}

    def note(number: int, _: Any) -> None:
        received.append(number)
        signal.signal(number, before[number])

    number: int
    for number in (signal.SIGINT, signal.SIGTERM):
        try:
            before[number] = signal.signal(number, note)
        except ValueError:  # not in the main thread: signals are someone else's business
            break
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
