"""Progress of long work: a bar on a terminal, a line every 20 seconds in a log file."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

SECONDS_BETWEEN_LINES = 20.0
TOO_SHORT = 0.3  # Seconds: a first call that is shorter is mostly the program's start.
_hidden = ContextVar("hidden", default=False)
T = TypeVar("T")


class ProgressLine:
    """Progress of one task of `total` units (None if unknown): description, units done, time left and a note.

    With `later`, the work of the tasks that follow, in units of this one, the time until all are done is shown too: by
    that work, or until `ends`, a time of `time.monotonic`.
    """

    def __init__(
        self,
        description: str,
        total: int | None,
        done: int = 0,
        visible: bool = True,
        later: float = 0.0,
        ends: float | None = None,
    ) -> None:
        self._later, self._ends = later, ends
        self.description, self.total, self.done, self.note = description, total, done, ""
        self._started, self._first, self._last_line = time.monotonic(), done, 0.0
        console = Console(stderr=True)
        visible = visible and not _hidden.get()
        self._visible, self._bar = visible, None
        if visible and console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}"),
                console=console,
                speed_estimate_period=300,
            )
            self._task = self._bar.add_task(description, total=total, completed=done, note="")
            self._bar.start()
        self._console = console

    def update(self, done: int, note: str = "") -> None:
        """Show that `done` units are done."""
        self.done, self.note = done, note
        if self._bar is not None:
            whole = f"{self._left(done)}  " if self._later else ""
            self._bar.update(self._task, completed=done, note=whole + note)
        elif self._visible and (time.monotonic() - self._last_line > SECONDS_BETWEEN_LINES or done == self.total):
            self._last_line = time.monotonic()
            text = f"{self.description} {done}/{self.total or '?'}  {self._left(done)}  {note}"
            print(text.rstrip(), file=self._console.file, flush=True)

    def _left(self, done: int) -> str:
        """Return the time left for this task and, if others follow, for all; nothing while it is unknown."""
        rate = (done - self._first) / max(1e-9, time.monotonic() - self._started)
        if not self.total or rate <= 0:
            return ""
        seconds = (self.total - done) / rate
        whole = seconds + self._later / rate if self._ends is None else max(seconds, self._ends - time.monotonic())
        return f"{seconds:.0f} s left ({duration(whole)} for all)" if self._later else f"{seconds:.0f} s left"

    def close(self) -> None:
        """Remove the bar from the terminal."""
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def duration(seconds: float) -> str:
    """Return a length of time in words: "40 s", "7 min", "2 h 5 min"."""
    minutes = round(seconds / 60)
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


@contextmanager
def hidden_progress() -> Iterator[None]:
    """Inside, no progress is shown."""
    token = _hidden.set(True)
    try:
        yield
    finally:
        _hidden.reset(token)


def seconds_of(work: Callable[[], object]) -> float:
    """Return how long a piece of work takes; it is done twice if the first time is too short to count."""
    taken = 0.0
    for _ in range(2):
        started = time.perf_counter()
        work()
        taken = time.perf_counter() - started
        if taken > TOO_SHORT:
            break
    return taken


def announce(seconds: float, but_for: str = "") -> None:
    """Say how long the work that begins will take."""
    print(f"about {duration(seconds)} in all{but_for}, as measured on the first items", file=sys.stderr, flush=True)


@contextmanager
def progress_line(description: str, total: int | None, visible: bool = True) -> Iterator[ProgressLine]:
    """Show a `ProgressLine`, and close it at the end."""
    line = ProgressLine(description, total, visible=visible)
    try:
        yield line
    finally:
        line.close()


def track(description: str, parts: Sequence[T], visible: bool = True) -> Iterator[T]:
    """Iterate over `parts` and show the progress."""
    with progress_line(description, len(parts), visible) as line:
        for done, part in enumerate(parts, 1):
            yield part
            line.update(done)
