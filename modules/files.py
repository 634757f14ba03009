"""Files that people are given: written whole or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from pathlib import Path

from modules.story import UserError


def check_writable(path: Path) -> None:
    """Make the folder of `path`. Raises UserError where no file can be written there, before any work is done for it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.is_dir():
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
    except OSError as error:
        raise UserError(f"cannot write {path} ({error.strerror}): choose a writable output with free space") from None


def write_whole(path: Path, content: bytes) -> Path:
    """Write beside `path` and rename, so that no reader meets half a file. Raises UserError where it cannot be written."""
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
