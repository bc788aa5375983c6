"""Progress as a person sees it: lines and a bar with ETA, all on stderr."""

from __future__ import annotations

from typing import Any

from searchtune.clean_text import clean
from searchtune.workflows.progress import Progress


class RichProgress(Progress):
    """Stages and notes as lines, steps as a bar that bears its stage's name. Use it as a context manager."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[text]}"),
            TimeElapsedColumn(),
            TextColumn("ETA"),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task: Any = None
        self._stage = "working"

    def __enter__(self) -> RichProgress:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def note(self, message: str) -> None:
        self._console.print(f"  {clean(message)}", markup=False, soft_wrap=True)

    def stage(self, name: str) -> None:
        self._stop()
        self._stage = name.partition(" (")[0]
        self._console.print(f"- {name}", style="bold", markup=False, soft_wrap=True)

    def step(self, done: int, total: int, text: str) -> None:
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._stage, total=total, completed=done, text="")
        self._bar.update(self._task, completed=done, text=text)

    def _stop(self) -> None:
        if self._bar.live.is_started:  # rich ends a bar that is not running with an empty line
            self._bar.stop()
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None
