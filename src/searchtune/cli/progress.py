"""Progress as a person sees it, all on stderr: lines, and a bar with ETA; in a log file a line now and then instead."""

from __future__ import annotations

import threading
import time
from contextlib import ExitStack
from typing import Any

from searchtune.clean_text import clean
from searchtune.counting import watched_by
from searchtune.workflows.progress import Progress

_PATIENCE = 2.0
"""Seconds after which a stage that says nothing gets a bar."""
_LINE_EVERY = 30.0
"""Seconds between two lines where there is no terminal to draw a bar on."""


class RichProgress(Progress):
    """Stages and notes as lines, counts as a bar that bears its stage's name. Use it as a context manager.

    A stage's count is what the workflow tells (`step`), or else what its long loops count by themselves.
    """

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
        self._stage = ""
        self._count = _Count()
        self._turn = threading.RLock()
        self._open = ExitStack()

    def __enter__(self) -> RichProgress:
        ended = threading.Event()
        watch = threading.Thread(target=self._look_after, args=(ended,), daemon=True)
        watch.start()
        self._open.callback(watch.join)
        self._open.callback(ended.set)
        self._open.enter_context(watched_by(self._counted))
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()
        self._stop()

    def note(self, message: str) -> None:
        self._console.print(f"  {clean(message)}", markup=False, soft_wrap=True)

    def stage(self, name: str) -> None:
        with self._turn:
            self._stop()
            self._stage = name.partition(" (")[0]
            self._count = _Count()
            self._console.print(f"- {clean(name)}", style="bold", markup=False, soft_wrap=True)

    def step(self, done: int, total: int, text: str) -> None:
        with self._turn:
            self._stage = self._stage or "working"
            self._count.told = True
            self._count.take(done, total, text)
            self._draw()

    def _counted(self, done: int, total: int) -> None:
        """A loop counts by itself: shown once the stage lasts, and only where the workflow tells no steps."""
        with self._turn:
            if self._stage and not self._count.told:
                self._count.take(done, total, "")
                if self._count.seconds > _PATIENCE:
                    self._draw()

    def _draw(self) -> None:
        count = self._count
        if self._task is None:
            self._bar.start()
            self._task = self._bar.add_task(self._stage, total=count.total, completed=count.done, text=count.text)
        elif self._bar.tasks[0].total != count.total or count.done < self._bar.tasks[0].completed:
            self._bar.reset(self._task, total=count.total, completed=count.done, text=count.text)
        self._bar.update(self._task, completed=count.done, text=count.text)

    def _look_after(self, ended: threading.Event) -> None:
        """Every second: a bar for a stage that says nothing, or the line that is due in a log file."""
        while not ended.wait(1.0):
            with self._turn:
                if not self._stage:
                    continue
                if not self._console.is_terminal:
                    if self._count.line_is_due():
                        self._console.print(f"  {self._stage}: {self._count.words()}", markup=False, soft_wrap=True)
                elif self._task is None and self._count.seconds > _PATIENCE:
                    self._draw()

    def _stop(self) -> None:
        if self._bar.live.is_started:  # rich ends a bar that is not running with an empty line
            self._bar.stop()
        if self._task is not None:
            self._bar.remove_task(self._task)
            self._task = None


class _Count:
    """How far a stage is, and since when."""

    def __init__(self) -> None:
        self.began = self.lined = time.monotonic()
        self.done, self.text = 0, ""
        self.total: int | None = None
        self.told = False
        """Whether the workflow itself counts."""
        self._first = (0, self.began)

    @property
    def seconds(self) -> float:
        """Since the stage began."""
        return time.monotonic() - self.began

    def take(self, done: int, total: int, text: str) -> None:
        """The newest count; one of another total, or a smaller one, begins anew."""
        if total != self.total or done < self.done:
            self._first = (done, time.monotonic()) if self.total is None and self.told else (0, self._since())
        self.done, self.total, self.text = done, total, text

    def line_is_due(self) -> bool:
        """Whether the last line is long enough ago; asking settles that it is written now."""
        now = time.monotonic()
        if now - self.lined < _LINE_EVERY:
            return False
        self.lined = now
        return True

    def words(self) -> str:
        """Count, rate and ETA; the time so far where nothing is counted."""
        if self.total is None:
            return f"{_clock(self.seconds)} so far"
        first, since = self._first
        rate = (self.done - first) / max(1e-9, time.monotonic() - since)
        ahead = "" if rate <= 0 else f", {rate:,.1f}/s, ETA {_clock((self.total - self.done) / rate)}"
        return f"{self.done:,} of {self.total:,}{ahead}" + (f", {self.text}" if self.text else "")

    def _since(self) -> float:
        return self.began if self.total is None else time.monotonic()


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"
