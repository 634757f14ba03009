"""Faults of the machine told in one sentence: a full disk, too little memory, folders that may not be read or written,
packages that are missing or do not fit.

Code that can say more, such as which checkpoint is intact, raises a UserError itself; this is for all others.
"""

from __future__ import annotations

import errno
import re

from modules.common.errors import UserError, shown

MEMORY = (
    "there is too little memory: lower --batch_size and raise --gradient_accumulation_steps, or ask for fewer pages at"
    " once; train --dry_run tells what a training needs"
)
_FULL = "make room on the disk, or choose another output; the same command goes on"
_FORBIDDEN = "change its permissions, or choose another folder"
_TOO_MANY = "allow more open files with ulimit -n 4096, or close other programs"
_ADVICE: dict[int | None, str] = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), _FULL),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), _FORBIDDEN),
    **dict.fromkeys((errno.EMFILE, errno.ENFILE), _TOO_MANY),
}
# What libraries say in errors of other types, with the meaning of each.
_MEMORY_WORDS = re.compile(
    r"out of memory|can't allocate memory|cannot allocate memory|not enough memory|bad_alloc|_STATUS_ALLOC_FAILED"
    r"|could not create a (?:primitive|memory)",
    re.IGNORECASE,
)
_ERROR_NUMBER = re.compile(r"\(os error (\d+)\)")  # As Rust's libraries write it.


def fault_of(error: Exception) -> UserError | None:
    """Return a fault of the machine as a UserError: what, where, what to do; None for an error of another kind."""
    if isinstance(error, ImportError):
        return _of_package(error)
    if _is_of_memory(error):
        return UserError(MEMORY)
    number = getattr(error, "errno", None) if isinstance(error, OSError) else None
    if number is None and (found := _ERROR_NUMBER.search(str(error))):
        number = int(found[1])
    if number is None and not isinstance(error, OSError):
        return None
    place = shown(getattr(error, "filename", None) or "")
    reason = getattr(error, "strerror", None) or shown(error)
    where = f"{place}: {reason}" if place else reason
    return UserError(f"{where}: {_ADVICE.get(number, 'repair it, or give another file or folder')}")


def _of_package(error: ImportError) -> UserError | None:
    from modules.common.versions import version_problem

    is_ours = (error.name or "").partition(".")[0] == "modules"
    problem = None if is_ours else version_problem(error)
    return None if problem is None else UserError(problem)


def are_too_many_files(error: Exception) -> bool:
    """Return whether a file could not be opened because too many are, which tells nothing about the file."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def _is_of_memory(error: Exception) -> bool:
    if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno == errno.ENOMEM):
        return True
    return isinstance(error, RuntimeError) and bool(_MEMORY_WORDS.search(str(error)))  # Torch's are RuntimeErrors.
