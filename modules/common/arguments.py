"""Flags: a parser whose errors are one line, and the types that say what a number must be. Imports nothing heavy."""

from __future__ import annotations

import argparse
import math
import re
from pathlib import Path
from typing import NoReturn

_FLAG = re.compile(r"--\w[\w-]*(=.*)?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser that takes no abbreviations, and whose errors are one line."""

    def __init__(self, **options) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usage and exit with 2."""
        self.exit(2, f"error: {' '.join(message.split())} (see {self.prog} --help)\n")


def normalise_flag(word: str) -> str:
    """--batch-size=4 -> --batch_size=4; words that are not flags stay as they are."""
    if not _FLAG.fullmatch(word):
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def positive_int(text: str) -> int:
    """A whole number from 1."""
    value = _parse(int, text, "a whole number")
    if value < 1:
        raise argparse.ArgumentTypeError(f"must be 1 or more, got {value}")
    return value


def whole_number(text: str) -> int:
    """A whole number from 0."""
    value = _parse(int, text, "a whole number")
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {value}")
    return value


def seed_number(text: str) -> int:
    """A whole number from 0 to 2^63 - 1."""
    value = _parse(int, text, "a whole number")
    if not 0 <= value < 2**63:
        raise argparse.ArgumentTypeError(f"must be from 0 to {2**63 - 1}, got {value}")
    return value


def a_path(text: str) -> Path:
    """A path that is not empty: an empty one, as of a shell's variable that is not set, would be the current folder."""
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    return Path(text)


def positive_float(text: str) -> float:
    """A finite number above 0."""
    value = _parse(float, text, "a number")
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _parse(kind: type, text: str, name: str):
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {name}, got {text!r}") from None
