"""What a workflow tells whoever watches it. The command line draws it; the default keeps silent."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchtune.training.fit import Step


class Progress:
    """Override what you want to show."""

    def note(self, message: str) -> None:
        """Something worth a line: a figure, a warning, a decision."""

    def stage(self, name: str) -> None:
        """A new part of the work begins."""

    def step(self, done: int, total: int, text: str) -> None:
        """Training reached step `done` of `total`."""


SILENT = Progress()


def tell_step(progress: Progress, step: Step, total: int) -> None:
    """One step of training: its loss, and a line with dev's figures where it has any."""
    progress.step(step.step, total, f"loss {step.loss:.3f}")
    if step.dev:
        words = ", ".join(f"{name} {value:.4f}" for name, value in step.dev.items())
        progress.note(f"step {step.step} of {total}: loss {step.loss:.3f}, dev {words}")
