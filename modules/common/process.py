"""Settings of the whole process, for speed: garbage collection, and glibc malloc for CPU training and sampling; and
whether another process runs.

Programs make the settings; the library does not.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # From glibc's malloc.h.
COLLECTION_THRESHOLD = 100_000  # New objects between two garbage collections; Python's default is 700 to 2,000.


def tune_process() -> None:
    """Collect garbage less often and keep freed memory."""
    collect_less_often()
    keep_freed_memory()


def collect_less_often() -> None:
    """Raise the threshold of garbage collection, which took a tenth of the time of imports and found nothing."""
    gc.set_threshold(COLLECTION_THRESHOLD, *gc.get_threshold()[1:])


def keep_freed_memory() -> None:
    """Make glibc keep memory that tensors free: returning it and faulting it in again took a fifth of a CPU update.

    Without glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # The largest allowed value.
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)


def is_running(pid: int) -> bool:
    """Return whether a process with this number runs on this machine; on Windows, which cannot be asked, True."""
    if os.name == "nt":  # There os.kill would end the process.
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
