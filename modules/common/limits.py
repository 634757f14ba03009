"""Ranges of settings, declared with their fields, and the one check of them. Imports no torch."""

from __future__ import annotations

import dataclasses
import math
import numbers
import types
import typing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modules.common.errors import UserError, shown

INTERVAL = tuple[float, float]  # The annotation of a field that is an interval, if its metadata say so.
MAX_ITEMS = 64  # Of a setting that is a list of numbers.


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers: from `low`, or above it, up to `high`, or below it."""

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: Any) -> bool:
        try:
            if not math.isfinite(value):
                return False
        except OverflowError:  # A whole number beyond the largest float.
            return False
        fits_low = value > self.low if self.above else value >= self.low
        return fits_low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        low, high = (str(bound) if isinstance(bound, int) else f"{bound:g}" for bound in (self.low, self.high))
        if self.high == math.inf:
            return f"above {low}" if self.above else f"{low} or more"
        if self.low == -math.inf:
            return f"below {high}" if self.below else f"{high} or less"
        return f"{'above' if self.above else 'from'} {low} to {'below ' if self.below else ''}{high}"


SIZE, LAYERS, COUNT = Limit(1, 65536), Limit(1, 1024), Limit(0, 65536)
TOKENS = Limit(3, 65536)  # <bos>, a token of text and <eos>.
ENTRIES, OPEN_ENTRIES = Limit(1, 2**24), Limit(0, 2**24)  # Of a vocabulary; of a codebook, 0: chosen by train.
UPDATES = Limit(1, 10**9)
LAST_LAYERS = Limit(-1, 1024)  # -1: all of them.
RATE, MULTIPLE = Limit(0, 10, above=True), Limit(0, 1_000_000, above=True)
WEIGHT, RATIO = Limit(0, 1_000_000), Limit(0, 1000)
SHARE, DECAY = Limit(0, 1), Limit(0, 1, below=True)


def limited(default: Any, limit: Limit) -> Any:
    """Return a dataclass field whose number, or every number in its tuple, lies in a range."""
    return dataclasses.field(default=default, metadata={"limit": limit})


def choice(default: str, known: tuple[str, ...]) -> Any:
    """Return a dataclass field whose word is one of those known."""
    return dataclasses.field(default=default, metadata={"choices": known})


def check_settings(settings: Any, section: str = "") -> None:
    """Raise UserError on the first field of a dataclass that has a wrong type or is out of its declared range.

    It is named with its `section`, empty for the outermost one. Fields that are None are not checked if they may be.
    """
    annotations = typing.get_type_hints(type(settings))
    for field in dataclasses.fields(settings):
        value, name = getattr(settings, field.name), f"{section}.{field.name}".lstrip(".")
        kind, optional = _without_none(annotations[field.name])
        if value is None and optional:
            continue
        if field.metadata.get("interval"):
            _check_interval(name, value, field.metadata["limit"])
            continue
        _check_type(name, kind, value)
        _check_range(name, value, field.metadata.get("limit"), field.metadata.get("choices"))


def _check_range(name: str, value: Any, limit: Limit | None, choices: tuple[str, ...] | None) -> None:
    if choices is not None and value not in choices:
        raise UserError(f"{name} must be one of {', '.join(map(str, choices))}, got {quoted(value)}")
    if limit is None:
        return
    items = value if isinstance(value, tuple) else (value,)
    if not items or len(items) > MAX_ITEMS:
        raise UserError(f"{name} must have from 1 to {MAX_ITEMS} numbers, got {len(items)}")
    if any(item not in limit for item in items):
        raise UserError(f"{name} must be {limit}, got {quoted(value)}")


def _check_type(name: str, kind: Any, value: Any) -> None:
    """Raise UserError unless `value` is what the annotation `kind` says."""
    if typing.get_origin(kind) is tuple:
        inner, *others = typing.get_args(kind)
        length = None if others == [...] else 1 + len(others)
        if not isinstance(value, tuple) or (length is not None and len(value) != length):
            count = {None: "a list of", 2: "two"}.get(length, str(length))
            raise UserError(f"{name} must be {count} {_NAMES.get(inner, ('values',))[0]}, got {quoted(value)}")
        for item in value:
            _check_type(name, inner, item)
    elif not _is_of(kind, value):
        _, expected = _NAMES.get(kind, ("", "a section of settings" if dataclasses.is_dataclass(kind) else "a text"))
        raise UserError(f"{name} must be {expected}, got {quoted(value)}")


_NAMES: dict[Any, tuple[str, str]] = {
    int: ("whole numbers", "a whole number"),
    float: ("numbers", "a number"),
    bool: ("values that are true or false", "true or false"),
    str: ("texts", "a text"),
    Path: ("paths", "a path"),
}


def _is_of(kind: Any, value: Any) -> bool:
    if kind in (int, float):
        number = numbers.Integral if kind is int else numbers.Real
        return isinstance(value, number) and not isinstance(value, bool)
    if kind is Path:
        return isinstance(value, (str, Path))
    return isinstance(value, kind if isinstance(kind, type) else str)  # Literals are texts.


def _check_interval(name: str, value: Any, limit: Limit) -> None:
    """Raise UserError unless `value` is two numbers in order, both in a range."""
    values = list(value) if isinstance(value, (tuple, list)) else [value]
    found = [item for item in values if _is_of(float, item) and item in Limit()]
    if len(values) != 2 or len(found) != 2 or found[0] > found[1]:
        raise UserError(f"{name} must be two numbers, the lower one first, got {quoted(values)}")
    if any(item not in limit for item in found):
        raise UserError(f"{name} must lie {limit}, got {quoted(values)}")


def _without_none(annotation: Any) -> tuple[Any, bool]:
    """Return an annotation without "| None", and whether that was there."""
    kinds = typing.get_args(annotation) if isinstance(annotation, types.UnionType) else (annotation,)
    given = [kind for kind in kinds if kind is not types.NoneType]
    return given[0], len(given) < len(kinds)


def quoted(value: Any) -> str:
    """Return a value for a message as JSON has it; a huge one by its kind."""
    try:
        return shown(repr(list(value) if isinstance(value, tuple) else value))
    except (RecursionError, ValueError):  # Nested too deeply, or a number of thousands of digits.
        return "a huge number" if isinstance(value, int) else "a value that is nested too deeply"
