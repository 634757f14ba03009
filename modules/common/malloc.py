"""glibc malloc tuning for CPU training and sampling."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # From glibc's malloc.h.


def keep_freed_memory() -> None:
    """Make glibc keep memory that tensors free: returning it and faulting it in again took a fifth of a CPU update.

    This is a setting of the whole process, so programs call it and the library does not. Without glibc it does nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # The largest allowed value.
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
