"""The error that a user can mend."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can mend: one sentence that says what, where and what to do.

    The CLI prints it and exits with 2.
    """
