"""What a workflow tells whoever watches it. The command line draws it; the default keeps silent."""

from __future__ import annotations


class Progress:
    """Override what you want to show."""

    def note(self, message: str) -> None:
        """Something worth a line: a figure, a warning, a decision."""

    def stage(self, name: str) -> None:
        """A new part of the work begins."""

    def step(self, done: int, total: int, text: str) -> None:
        """Training reached step `done` of `total`."""


SILENT = Progress()
