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
    """A signal stopped the run, after it saved a checkpoint; `code` is the exit code, 128 + the signal's number."""

    def __init__(self, signal_number: int, checkpoint: Path | None) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; saved {checkpoint}; the same command goes on from there"
        )
        self.code = 128 + signal_number


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list that the training loop reads; a second one ends the program at once."""
    received: list[int] = []
    first = 0.0

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal first
        if not received:
            first = time.monotonic()
            received.append(number)
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
