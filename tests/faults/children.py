"""Commands in a forked child, on a machine that fails: its disk, its memory, its files, or it is killed."""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import resource
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import download_data
import story_generative_model

MAINS = {"data": download_data.main, "story": story_generative_model.main}
EVENTS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir"}  # Between any two of them a kill may come.
SECONDS = 120


@dataclass(frozen=True)
class Ended:
    """How a child ended: its exit code, the negative number of a signal that killed it, and its last output."""

    code: int
    error: str

    def line(self) -> str:
        """Return the one line of an error. It must be the last, and there must be no other."""
        lines = [line for line in self.error.splitlines() if line.startswith(("error: ", "download_data.py: "))]
        assert self.code == 2 and "Traceback" not in self.error, (self.code, self.error[-1500:])
        assert len(lines) == 1 and self.error.splitlines()[-1] == lines[0], self.error[-1500:]
        return lines[0]


def in_child(words: list[str], prepare: Callable[[], None] = lambda: None) -> Ended:
    """Run a command, "data" or "story" and its words, in a child that `prepare` makes ill."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        os.close(reader)
        os.set_inheritable(writer, True)
        _run(words, prepare, writer)
    os.close(writer)
    timer = threading.Timer(SECONDS, os.kill, (child, signal.SIGKILL))
    timer.start()
    with os.fdopen(reader, "rb") as pipe:
        error = pipe.read().decode(errors="replace")
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    timer.cancel()
    return Ended(code, error)


def _run(words: list[str], prepare: Callable[[], None], writer: int) -> None:
    """Run a command and end the process. Nothing of the parent's is flushed or cleaned up."""
    out, err, code = io.StringIO(), io.StringIO(), 70
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            warnings.simplefilter("default")
            prepare()
            code = MAINS[words[0]](words[1:])
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else 70
    except BaseException:
        err.write(traceback.format_exc())
    finally:
        os.write(writer, err.getvalue()[-30_000:].encode(errors="replace"))
        os._exit(code)


def largest_file(size: int) -> Callable[[], None]:
    """Return what limits files to `size` bytes: a full disk, without one."""

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    return limit


def open_files(more: int) -> Callable[[], None]:
    """Return what allows so many `more` open files."""

    def limit() -> None:
        number = max(map(int, os.listdir("/proc/self/fd"))) + 1 + more
        resource.setrlimit(resource.RLIMIT_NOFILE, (number, number))

    return limit


def memory(more: int) -> Callable[[], None]:
    """Return what allows so many `more` bytes of memory."""

    def limit() -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        size = pages * resource.getpagesize() + more
        resource.setrlimit(resource.RLIMIT_AS, (size, size))

    return limit


def without_rights() -> None:
    """Give up the capabilities of root, before which no permission counts (Linux: capset, version 3)."""
    header, nothing = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert ctypes.CDLL(None).capset(header, nothing) == 0


def killed_before(number: int) -> Callable[[], None]:
    """Return what kills the process before the change `number`, from 0, of the names of files."""

    def arm() -> None:
        left = [number]

        def watch(event: str, _args: tuple) -> None:
            if event in EVENTS:
                if left[0] == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                left[0] -= 1

        sys.addaudithook(watch)

    return arm


def contents(folder: Path) -> dict[str, bytes]:
    """Return the visible files of a folder, or a file, by their paths."""
    if folder.is_file():
        return {folder.name: folder.read_bytes()}
    paths = [path for path in folder.rglob("*") if path.is_file()]
    names = {path: path.relative_to(folder) for path in paths}
    return {
        name.as_posix(): path.read_bytes()
        for path, name in names.items()
        if not any(part.startswith(".") for part in name.parts)
    }
