"""How this process deals with freed memory."""

from __future__ import annotations

import ctypes
import sys

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # Of glibc's malloc.h.


def keep_freed_memory() -> None:
    """Let glibc keep the memory that tensors free: to give it back and fault it in anew took a fifth of an update on a
    CPU.

    A setting of the whole process, so programs ask for it and the library does not. Elsewhere than with glibc it does
    nothing.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**25)  # The largest that it takes.
        mallopt(M_TRIM_THRESHOLD, 2**31 - 1)
