"""Files and folders written completely or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from modules.common.errors import UserError


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


def write_whole(path: Path, content: bytes) -> Path:
    """Write a file beside `path` and rename it, so that nobody reads half a file; return `path`.

    Raises UserError if it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise _not_written(path, error) from error
    return path


def replace_folder(folder: Path, new: Path) -> None:
    """Move `new` to `folder`.

    A folder that was there is kept beside `new` with the ending .old, and put back if the move fails.
    """
    old = new.with_suffix(".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        new.rename(folder)
    except BaseException:
        if old.exists():
            old.rename(folder)
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


def _not_written(path: Path, error: OSError) -> UserError:
    return UserError(f"cannot write {path} ({error.strerror}): choose a writable output with free space")
