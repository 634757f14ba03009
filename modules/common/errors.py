"""The error that a user can fix."""

from __future__ import annotations


class UserError(Exception):
    """An error that the user can fix: one sentence with what is wrong, where, and what to do.

    The command line prints it and exits with 2.
    """
