"""Ctrl-C and SIGTERM: finish the step, save, and exit with 128 + the signal's number."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

ECHO_SECONDS = 1.0  # A launcher forwards Ctrl-C to workers that already received it from the terminal.


class Interrupted(Exception):
    """A signal stopped the run; `code` is the exit code, 128 + the signal's number.

    `checkpoint` is what the run goes on from, None if it has saved nothing yet.
    """

    def __init__(self, signal_number: int, checkpoint: Path | None) -> None:
        name = signal.Signals(signal_number).name
        saved = f"saved {checkpoint}; the same command goes on from there"
        super().__init__(f"stopped by {name}; {saved if checkpoint else 'the same command starts again'}")
        self.code = 128 + signal_number


class StopSignals(list[int]):
    """The numbers of the signals received so far, which a training loop reads between its updates."""

    def __init__(self) -> None:
        super().__init__()
        self._checkpoint: Path | None = None
        self._stops_at_once = False

    @contextmanager
    def at_once(self, checkpoint: Path | None) -> Iterator[None]:
        """Inside, a signal raises Interrupted right away: for long work that a run repeats when it resumes."""
        self._checkpoint, self._stops_at_once = checkpoint, True
        try:
            if self:
                raise Interrupted(self[0], checkpoint)
            yield
        finally:
            self._stops_at_once = False

    def receive(self, number: int) -> None:
        """Note a signal."""
        self.append(number)
        if self._stops_at_once:
            raise Interrupted(number, self._checkpoint)


@contextmanager
def stop_on_signals() -> Iterator[StopSignals]:
    """Collect SIGINT and SIGTERM for the training loop; a second one ends the program at once."""
    received = StopSignals()
    first = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.receive(number)
        elif time.monotonic() - first > ECHO_SECONDS:
            raise SystemExit(128 + number)

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def sigterm_as_ctrl_c() -> Iterator[None]:
    """Raise KeyboardInterrupt on SIGTERM, as on Ctrl-C."""

    def stop(number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """Return the exit code of an interrupt as shells define it: 128 + the signal's number."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
