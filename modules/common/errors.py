"""The error that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one sentence that says what, where and what to do.

    The CLI prints it and exits with 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if there is none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
