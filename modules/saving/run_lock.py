"""A lock on a run folder: one process writes at a time."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import ClassVar, Self

from modules.common.errors import UserError


class RunLock:
    """Context manager that locks a run folder for one process; the system releases it however the process ends.

    Raises:
        UserError: Another process has locked the folder, or it cannot be written.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / ".lock"

    def __enter__(self) -> Self:
        import fcntl  # Windows lacks it, but can still read checkpoints.

        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise UserError(
                f"Cannot write into {self.path.parent} ({error.strerror}): choose a writable output folder."
            ) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(self._descriptor)
            raise UserError(
                f"Another process is training into {self.path.parent}: stop it or choose another output folder."
            ) from error
        except OSError as error:  # Some cluster file systems have no locks; training on them is allowed.
            warnings.warn(
                f"{self.path.parent} cannot be locked ({error.strerror}): take care to start one training only",
                stacklevel=2,
            )
        RunLock._held.add(self._descriptor)
        return self

    def __exit__(self, *_: object) -> None:
        if self._descriptor in RunLock._held:
            RunLock._held.discard(self._descriptor)
            os.close(self._descriptor)

    @classmethod
    def _forget(cls) -> None:
        """Close the locks in a forked child: an orphaned data worker would keep a dead run's folder locked."""
        while cls._held:
            os.close(cls._held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RunLock._forget)
