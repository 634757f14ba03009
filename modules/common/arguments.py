"""Flags: a parser with one-line errors, argument types, and flags made from the fields of a dataclass.

Imports nothing heavy.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import types
import typing
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from modules.common.errors import shown
from modules.common.limits import INTERVAL, Limit

T = TypeVar("T")

_FLAG = re.compile(r"--\w[\w-]*(=.*)?", re.DOTALL)


class Parser(argparse.ArgumentParser):
    """A parser that accepts no abbreviations and prints errors on one line."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Print `message` without the usage and exit with 2."""
        self.exit(2, f"error: {' '.join(message.split())} (see {self.prog} --help)\n")


def normalise_flag(word: str) -> str:
    """Return the flag with underscores: --batch-size=4 -> --batch_size=4; words that are not flags stay as they are."""
    if not _FLAG.fullmatch(word):
        return word
    name, equals, value = word.partition("=")
    return f"--{name[2:].replace('-', '_')}{equals}{value}"


def integer(low: int, high: int | None = None) -> Callable[[str], int]:
    """Return an argument type: a whole number from `low`, up to `high` where one is given."""

    def parse(text: str) -> int:
        value = _parse(int, text, "a whole number")
        if value < low or (high is not None and value > high):
            raise argparse.ArgumentTypeError(f"must be {_range(low, high)}, got {shown(value)}")
        return value

    return parse


positive_int = integer(1)
whole_number = integer(0)
seed_number = integer(0, 2**63 - 1)


def a_path(text: str) -> Path:
    """Parse a path that the system can look up.

    An empty one, as from an unset shell variable, is an error: it would mean the current folder.
    """
    if not text:
        raise argparse.ArgumentTypeError("must not be empty")
    try:
        os.lstat(text)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        pass  # Whoever opens it says so.
    except (OSError, ValueError) as error:  # A name that is too long, a zero byte.
        reason = getattr(error, "strerror", None) or error
        raise argparse.ArgumentTypeError(f"{shown(text)} is no usable path ({reason})") from None
    return Path(text)


def positive_float(text: str) -> float:
    """Parse a finite number above 0."""
    value = _parse(float, text, "a number")
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, got {text}")
    return value


def _parse(kind: Callable[[str], Any], text: str, name: str) -> Any:
    try:
        return kind(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be {name}, got {shown(text)!r}") from None


# -- flags made from the fields of a dataclass


def setting(
    default: Any = dataclasses.MISSING,
    help: str = "",
    *,
    low: float | None = None,
    high: float | None = None,
    alias: str = "",
    **options: Any,
) -> Any:
    """Return a dataclass field from which `add_dataclass_flags` makes a flag.

    The flag's type follows from the annotation: int, float, str, Path (also with `| None`), bool, which makes a switch,
    or tuple[float, float], two numbers in order. Values lie from `low` to `high` and among the `choices` of `options`,
    if given; see `check_settings`. `options` are those of `add_argument` and take precedence. `alias` is an older name
    that still works but is not listed.
    """
    limit = Limit(-math.inf if low is None else low, math.inf if high is None else high)
    metadata: dict[str, Any] = {"help": help, "alias": alias, "options": options, "choices": options.get("choices")}
    if low is not None or high is not None:
        metadata["limit"] = limit
    if isinstance(default, tuple) and all(isinstance(item, (int, float)) for item in default):
        metadata |= {"limit": limit, "interval": True}
    return dataclasses.field(default=default, metadata=metadata)


def add_dataclass_flags(
    parser: argparse._ActionsContainer, cls: type, only: Collection[str] | None = None, **defaults: Any
) -> None:
    """Add a flag for every field of the dataclass `cls` that was made by `setting`, or for those named in `only`.

    `defaults` replace the fields' defaults on the command line. A default that is a number or a word is added to the
    help.
    """
    annotations = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        if "options" not in field.metadata or not (only is None or field.name in only):
            continue
        default = defaults.get(field.name, field.default)
        options = _flag_options(annotations[field.name], default, field.metadata) | field.metadata["options"]
        text = field.metadata["help"]
        if isinstance(default, (int, float, str, Path)) and not isinstance(default, bool) and "(default" not in text:
            text += f" (default {default})"
        if annotations[field.name] == INTERVAL:
            text += f" (default {' '.join(map(str, default))})"
        parser.add_argument(f"--{field.name}", help=text.replace("%", "%%"), **options)
        if alias := field.metadata["alias"]:
            hidden = options | {"dest": field.name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
            parser.add_argument(f"--{alias}", **hidden | {"required": False})


def from_flags(cls: type[T], args: argparse.Namespace, **values: Any) -> T:
    """Build the dataclass `cls` from `values` and, for the fields not among them, the flags of the same name."""
    names = [field.name for field in dataclasses.fields(cls) if hasattr(args, field.name)]  # type: ignore[arg-type]
    given = {name: getattr(args, name) for name in names}
    # argparse makes a list of a flag with several values.
    given = {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}
    return cls(**given | values)


def _flag_options(annotation: Any, default: Any, limits: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options of `add_argument` that follow from a field's annotation, default and limits."""
    if annotation is bool:
        return {"action": "store_true"}
    if annotation == INTERVAL:
        return {"type": _any_number, "nargs": 2, "default": default}
    kinds = [kind for kind in typing.get_args(annotation) if kind is not types.NoneType] or [annotation]
    parsers: dict[Any, tuple[Callable[[str], Any], str | None]] = {
        int: (_any_integer, "N"),
        float: (_any_number, "X"),
        Path: (a_path, "PATH"),
    }
    parse, metavar = parsers.get(kinds[0], (str, None))
    limit = limits.get("limit")
    if kinds[0] is int and limit is not None and math.isfinite(limit.low):
        parse = integer(limit.low, limit.high if math.isfinite(limit.high) else None)
    listed = {} if metavar is None or limits["choices"] else {"metavar": metavar}
    return {"type": parse} | listed | ({"required": True} if default is dataclasses.MISSING else {"default": default})


def _range(low: float | None, high: float | None) -> str:
    if low is None:
        return f"{high} or less"
    return f"{low} or more" if high is None else f"from {low} to {high}"


def _any_integer(text: str) -> int:
    return _parse(int, text, "a whole number")


def _any_number(text: str) -> float:
    return _parse(float, text, "a number")
