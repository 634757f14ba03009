"""The error that a user can fix."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix: one sentence with what is wrong, where, and what to do.

    The command line prints it and exits with 2.
    """


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if there is none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
