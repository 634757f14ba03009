"""One process at a time writes into a run's folder."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import ClassVar, Self

from modules.common.errors import UserError


class RunLock:
    """Context manager that holds a run's folder for one process; the system lets go of it however the process ends.

    Raises:
        UserError: Another process holds the folder, or it cannot be written.
    """

    _held: ClassVar[set[int]] = set()

    def __init__(self, run_dir: Path) -> None:
        self.path = Path(run_dir) / ".lock"

    def __enter__(self) -> Self:
        import fcntl  # Here, because Windows lacks it: there one can still read checkpoints.

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
        except (
            OSError
        ) as error:  # Some cluster file systems have no locks; that alone should not forbid training on them.
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
        """Close a forked child's copies: an orphaned data worker would otherwise keep a dead run's folder locked."""
        while cls._held:
            os.close(cls._held.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=RunLock._forget)
