"""The error that a user can fix."""

from __future__ import annotations

MAX_SHOWN, MAX_MESSAGE = 200, 2000


class UserError(Exception):
    """An error that the user can fix: one sentence with what is wrong, where, and what to do.

    The command line prints it and exits with 2.
    """


def shown(value: object) -> str:
    """Return a value for a message: cut to `MAX_SHOWN` characters, without control characters."""
    try:
        text = str(value)
    except (RecursionError, ValueError):  # Nested too deeply, or a number of thousands of digits.
        text = f"a huge {type(value).__name__}"
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}..."


def one_line(error: object) -> str:
    """Return a message or another text on one line, control characters escaped, cut to `MAX_MESSAGE` characters."""
    text = " ".join(str(error).split())
    text = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text[: MAX_MESSAGE + 1])
    return text if len(text) <= MAX_MESSAGE else f"{text[:MAX_MESSAGE]}..."


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the name of its type if there is none."""
    return (str(error).splitlines() or [""])[0] or type(error).__name__
