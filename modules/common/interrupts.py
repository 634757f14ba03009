"""Ctrl-C and SIGTERM: finish the step, save, and exit with 128 + the signal's number."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ECHO_SECONDS = 1.0  # A launcher passes Ctrl-C on to workers that the terminal has told already.


class Interrupted(Exception):
    """The run was asked to stop, and has saved. `code` is the exit code: 128 + the signal's number."""

    def __init__(self, signal_number: int, checkpoint: Path | None) -> None:
        super().__init__(
            f"stopped by {signal.Signals(signal_number).name}; saved {checkpoint}; the same command goes on from there"
        )
        self.code = 128 + signal_number


@contextmanager
def stop_on_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM in a list for the loop to read; a later second one ends the program at once."""
    received: list[int] = []
    first = 0.0

    def handle(number: int, frame: Any) -> None:
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
    """Inside, SIGTERM ends the program as Ctrl-C does, by a KeyboardInterrupt."""

    def stop(number: int, frame: Any) -> None:
        raise KeyboardInterrupt(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """128 + the signal's number, as shells have it."""
    return 128 + (interrupt.args[0] if interrupt.args else signal.SIGINT)
