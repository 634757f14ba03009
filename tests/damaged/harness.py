"""Runs a command on a damaged input within a time, and judges the outcome."""

from __future__ import annotations

import contextlib
import faulthandler
import io
import resource
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType

import download_data
import story_generative_model

SECONDS, GROWTH = 60, 1 << 20  # Of an input: its time, and the KiB by which it may raise the memory's peak.
LONGEST_LINE = 2600  # Characters of a message: its two thousand, and a path before it.
MAINS: dict[str, Callable[[Sequence[str]], int]] = {
    "download_data.py": download_data.main,
    "story_generative_model.py": story_generative_model.main,
}


@dataclass(frozen=True)
class Case:
    """A damaged input: its name, and the words of the command that reads it, the program first."""

    name: str
    words: tuple[str, ...]
    must_work: bool = False


@dataclass
class Counts:
    """What became of the inputs of one kind."""

    worked: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)
    slowest: tuple[float, str] = (0.0, "")


class TooSlow(BaseException):
    """An input took too long; not an Exception, so that no handler of the program takes it."""


@contextlib.contextmanager
def time_limit() -> Iterator[None]:
    """Raise TooSlow after `SECONDS`; code that never comes back to Python ends the test run with its stack."""

    def stop(_number: int, _frame: FrameType | None) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, SECONDS)
    faulthandler.dump_traceback_later(6 * SECONDS, exit=True, file=sys.__stderr__)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        signal.signal(signal.SIGALRM, before)


def problem(case: Case) -> tuple[str, int | None]:
    """Run a case; return what is wrong with its outcome, "" if nothing is, and its exit code.

    It must work (0; 1 where `validate` names faults), or end with 2 and one last line on stderr.
    """
    out, err = io.StringIO(), io.StringIO()
    peak, code = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, None
    try:
        with time_limit(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), warnings.catch_warnings():
            code = MAINS[case.words[0]](case.words[1:])
    except TooSlow:
        return f"took over {SECONDS} s: {traceback.format_exc(limit=-4)}", None
    except SystemExit as stop:
        code = stop.code
    except BaseException as error:
        return f"{type(error).__name__}: {str(error)[:300]}\n{traceback.format_exc(limit=-3)}", None
    if resource.getrusage(resource.RUSAGE_SELF).ru_maxrss > peak + GROWTH:
        return "took over 1 GiB of memory", code
    if case.must_work and code != 0:
        return f"is refused: {(out.getvalue() + err.getvalue())[-400:]}", code
    return _said_wrong(code, out.getvalue(), err.getvalue()), code


def _said_wrong(code: object, out: str, err: str) -> str:
    """Return what is wrong with an exit code and what was printed."""
    lines = [line for line in err.splitlines() if line.startswith("error: ") or ".py: " in line[:40]]
    if "Traceback" in out + err:
        return f"prints a traceback: {err[-600:]}"
    if code in (0, 1):
        return "" if not lines or code == 0 else f"exits with 1 and an error: {lines[-1][:300]}"
    if code != 2:
        return f"exits with {code}: {err[-300:]}"
    if len(lines) != 1 or err.splitlines()[-1] != lines[0]:
        return f"{len(lines)} lines of errors, the last line is no error: {err[-600:]!r}"
    if len(lines[0]) > LONGEST_LINE or not lines[0].isprintable():
        return f"a line of {len(lines[0])} characters, or with control characters: {lines[0][:300]!r}"
    return ""


def run_all(cases: Iterable[Case]) -> Counts:
    """Run the cases of a kind, and count what became of them."""
    counts = Counts()
    for case in cases:
        started = time.monotonic()
        wrong, code = problem(case)
        counts.slowest = max(counts.slowest, (time.monotonic() - started, case.name))
        if wrong:
            counts.wrong.append(f"{case.name}: {wrong}")
        elif code == 2:
            counts.refused += 1
        else:
            counts.worked += 1
    return counts


def remove_links(folder: Path) -> None:
    """Remove links and special files, which pytest's own cleaning would follow or read."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            path.unlink()
