"""What a workflow tells whoever watches it. The command line draws it; the default keeps silent."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from searchtune.training.fit import Step


class Progress:
    """Override what you want to show."""

    warnings: Sequence[str] = ()
    """Those given so far, where they are kept (`WarningRecord`)."""

    def note(self, message: str) -> None:
        """Something worth a line: a figure, a warning, a decision."""

    def warn(self, message: str) -> None:
        """Something that whoever reads the figures later should know too."""
        self.note(f"warning: {message}")

    def stage(self, name: str) -> None:
        """A new part of the work begins."""

    def step(self, done: int, total: int, text: str) -> None:
        """Training reached step `done` of `total`."""


SILENT = Progress()


class WarningRecord(Progress):
    """Passes everything on, and keeps the warnings for the report, each once."""

    def __init__(self, shown: Progress) -> None:
        self._shown = shown
        self.warnings: list[str] = []

    def note(self, message: str) -> None:
        self._shown.note(message)

    def warn(self, message: str) -> None:
        if message not in self.warnings:
            self.warnings.append(message)
        self._shown.warn(message)

    def stage(self, name: str) -> None:
        self._shown.stage(name)

    def step(self, done: int, total: int, text: str) -> None:
        self._shown.step(done, total, text)


def tell_step(progress: Progress, step: Step, total: int) -> None:
    """One step of training: its loss, and a line with dev's figures where it has any."""
    progress.step(step.step, total, f"loss {step.loss:.3f}")
    if step.dev:
        progress.note(f"step {step.step} of {total}: loss {step.loss:.3f}, dev {figures_in_words(step.dev)}")


def figures_in_words(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4f}" for name, value in figures.items())
