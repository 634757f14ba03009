"""Files and folders written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import itertools
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from modules.common.errors import UserError, first_line, shown
from modules.common.process import is_running

STAGING, OLD = ".unfinished", ".old"  # The mark of a folder of unfinished work; the ending of one that is replaced.
_LEFTOVER = re.compile(r"\.(.+)\.tmp-([0-9]+)")
# What systems, archives and editors leave in folders, beside names that begin with a dot.
_SYSTEM_NAMES = {"__macosx", "@eadir", "#recycle", "#snapshot", "$recycle.bin", "system volume information"}
_SYSTEM_NAMES |= {"lost+found", "__pycache__", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}


def is_hidden(name: str) -> bool:
    """Return whether a file or folder of this name is hidden or a system's own, and never a user's data."""
    return name.startswith((".", "~$")) or name.endswith("~") or name.lower() in _SYSTEM_NAMES


def visible(folder: Path) -> list[Path]:
    """Return what a folder contains, hidden and system files left out, sorted by name."""
    return sorted(path for path in folder.iterdir() if not is_hidden(path.name))


def visible_files(folder: Path) -> Iterator[Path]:
    """Yield the files below a folder, sorted, without hidden and system files and folders; links to folders stay out.

    A folder that does not exist has none.
    """
    for path in visible(folder) if folder.is_dir() else ():
        if path.is_dir() and not path.is_symlink():
            yield from visible_files(path)
        elif path.is_file():
            yield path


def read_json(path: Path, what: str) -> Any:
    """Return what a JSON file contains. Raises UserError, which calls it `what`, if it cannot be read or decoded."""
    try:
        if not path.is_file():  # Opening a pipe would block forever.
            raise UserError(f"the {what} {shown(path)} does not exist or is not a file")
        return json.loads(path.read_text(encoding="utf-8-sig"))
    except RecursionError:
        problem = "it is nested too deeply"
    except (OSError, ValueError) as error:
        problem = first_line(error)
    raise UserError(f"{shown(path)} is not a readable {what}: {problem}")


def check_writable(path: Path) -> None:
    """Make the folder of `path` and raise UserError if the file cannot be written there, before any work is done."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise _not_written(path, error) from None


def is_leftover(name: str) -> bool:
    """Return whether a file's name is that of a `write_whole` which was killed."""
    return bool(_LEFTOVER.fullmatch(name))


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside `path` and rename it, so that nobody reads half a file; return `path`.

    What earlier calls for this file left, in processes that were killed, is removed. Raises UserError if it cannot be
    written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _remove_leftovers(path)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _not_written(path, error) from error
    return path


@cache
def _leftovers(folder: Path) -> list[tuple[str, int, Path]]:
    """Return the leftovers in a folder, each after the name of its file and the number of its process.

    They are those of the first call: who writes a thousand files does not list them a thousand times.
    """
    matches = [(_LEFTOVER.fullmatch(entry.name), Path(entry.path)) for entry in os.scandir(folder)]
    return [(match[1], int(match[2]), path) for match, path in matches if match]


def _remove_leftovers(path: Path) -> None:
    with contextlib.suppress(OSError):
        for name, pid, leftover in _leftovers(path.parent.absolute()):
            if name == path.name and not is_running(pid) and leftover.is_file() and not leftover.is_symlink():
                leftover.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file or folder to damaged_NAME, with a number if that exists, and return the new path."""
    names = (f"damaged_{path.name}" + (f"_{number}" if number else "") for number in itertools.count())
    aside = next(path.with_name(name) for name in names if not os.path.lexists(path.with_name(name)))
    try:
        path.rename(aside)
    except OSError as error:
        raise _not_written(aside, error) from None
    return aside


def fresh_staging(folder: Path) -> None:
    """Make an empty folder for unfinished work; one that a killed run left is removed.

    Raises UserError if a folder of this name has files and is not such a one.
    """
    for path in (folder, folder.with_suffix(OLD)):
        _remove_own(path)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / STAGING).touch()


def _remove_own(folder: Path) -> None:
    """Remove a folder that has the mark, or is empty. Raises UserError if it has files but no mark."""
    if folder.exists() and not (folder / STAGING).is_file() and any(folder.iterdir()):
        raise UserError(f"{folder} was not made by this program, which would use it for unfinished work: move it away")
    remove_staging(folder)


def remove_staging(folder: Path) -> None:
    """Remove a folder that `fresh_staging` made, the mark last."""
    if not (folder / STAGING).is_file():
        return
    for path in folder.iterdir():
        if path.name != STAGING:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def replace_folder(folder: Path, new: Path) -> None:
    """Move `new` to `folder`.

    A folder that was there is kept beside `new`, with the mark and the ending .old, and put back if the move fails.
    """
    old = new.with_suffix(OLD)
    if folder.exists():
        _remove_own(old)
        (folder / STAGING).touch()
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
            (folder / STAGING).unlink()
        raise


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turn an OSError in resumable work below `folder` into a UserError."""
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{error.filename or folder}: {error.strerror or error}: make room or repair it; the same command goes on"
            " from there"
        ) from error


def publish_staging(folder: Path, staging: Path) -> None:
    """Move a finished folder that `fresh_staging` made to `folder`, in the place of what is there.

    Whenever a kill comes, one of the two is complete, and the staging folder is known by its mark.
    """
    replace_folder(folder, staging)
    (folder / STAGING).unlink()
    remove_staging(staging.with_suffix(OLD))


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path} ({error.strerror}): choose a writable output with free space")
