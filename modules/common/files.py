"""Files that people are given: written whole or not at all."""

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
    """Make the folder of `path`.

    Raises UserError where no file can be written there, before any work is done for it.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose a writable output with free space") from None


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside `path` and rename, so that no reader meets half a file.

    Raises UserError where it cannot be written.
    """
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(content)
        os.replace(temporary, path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink()
        raise UserError(f"cannot write {path} ({error.strerror}): choose a writable output with free space") from error
    return path


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Tell in one sentence what the disk refuses."""
    try:
        yield
    except OSError as error:
        where = error.filename or folder
        raise UserError(
            f"{where}: {error.strerror or error}: make room or mend it; the same command goes on from there"
        ) from error


def replace_folder(folder: Path, new: Path) -> None:
    """Move `new` to `folder`; what was there ends up beside `new` with the ending .old, or stays if the move fails."""
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
