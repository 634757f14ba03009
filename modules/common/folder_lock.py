"""A lock on a folder: one process writes at a time."""

from __future__ import annotations

import contextlib
import os
import warnings
from pathlib import Path
from typing import ClassVar, Self

from modules.common.errors import UserError


class FolderLock:
    """Context manager that locks a folder for one process; the system releases it however the process ends.

    The lock is the file `.lock` in the folder, which is made if absent; `beside`, it is a file next to a folder that is
    replaced as a whole. A file that a killed process left locks nothing. At the end the file is removed, and the folder
    too if it was made here and is empty.

    Raises:
        UserError: Another process has locked the folder, or it cannot be written.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, folder: Path, *, beside: bool = False) -> None:
        self.folder = Path(folder)
        self.path = self.folder.with_name(f".{self.folder.name}.lock") if beside else self.folder / ".lock"

    def __enter__(self) -> Self:
        self._is_new = not self.path.parent.exists()
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = self._open_locked()
        except OSError as error:
            raise UserError(
                f"cannot write into {self.path.parent} ({error.strerror}): choose a writable output folder"
            ) from None
        FolderLock._held.add(self._descriptor)
        return self

    def _open_locked(self) -> int:
        """Return the descriptor of the locked file, which an ending process may have removed in between."""
        while True:
            descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
            self._lock(descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), os.stat(self.path)):
                    return descriptor
            os.close(descriptor)

    def _lock(self, descriptor: int) -> None:
        try:
            import fcntl
        except ImportError:  # Windows has no such locks.
            return
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(descriptor)
            raise UserError(
                f"another process is writing into {self.folder}: wait for its end, stop it or choose another output"
                " folder"
            ) from error
        except OSError as error:  # Some cluster file systems have no locks; writing there is allowed.
            warnings.warn(
                f"{self.folder} cannot be locked ({error.strerror}): take care that only one process writes there",
                stacklevel=4,
            )

    def __exit__(self, *_: object) -> None:
        if self._descriptor not in FolderLock._held:
            return  # A forked child does not end its parent's lock.
        FolderLock._held.discard(self._descriptor)
        with contextlib.suppress(OSError):
            if not os.lstat(self.path).st_size:  # A file that says something is not ours.
                self.path.unlink()
        os.close(self._descriptor)
        if self._is_new:
            with contextlib.suppress(OSError):
                self.path.parent.rmdir()  # Fails, as it should, once it has files.

    @classmethod
    def _forget(cls) -> None:
        """Close the locks in a forked child: an orphaned data worker would keep a dead run's folder locked."""
        while cls._held:
            os.close(cls._held.pop())


def is_locked(folder: Path) -> bool:
    """Return whether another process has locked a folder."""
    try:
        with FolderLock(folder):
            return False
    except UserError:
        return True


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=FolderLock._forget)
