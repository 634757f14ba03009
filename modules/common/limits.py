"""Ranges of settings, checked when a config is made. Imports no torch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from modules.common.errors import UserError


@dataclass(frozen=True)
class Limit:
    """A range of finite numbers: from `low`, or above it, up to `high`, or below it."""

    low: float
    high: float = math.inf
    above: bool = False
    below: bool = False

    def __contains__(self, value: float) -> bool:
        if not math.isfinite(value):
            return False
        fits_low = value > self.low if self.above else value >= self.low
        return fits_low and (value < self.high if self.below else value <= self.high)

    def __str__(self) -> str:
        if self.high == math.inf:
            return f"above {self.low:g}" if self.above else f"{self.low:g} or more"
        return f"{'above' if self.above else 'from'} {self.low:g} to {'below ' if self.below else ''}{self.high:g}"


SIZE, NOT_NEGATIVE = Limit(1), Limit(0)
RATE = Limit(0, above=True)
SHARE, DECAY = Limit(0, 1), Limit(0, 1, below=True)
MIN_TOKENS = Limit(3)  # <bos>, a token of text and <eos>.


def check_limits(section: str, config: Any, limits: Mapping[Limit, str]) -> None:
    """Raise UserError on the first setting of `config` out of its range; `limits` lists, by range, names in words.

    Every item of a tuple must lie in the range. `section` is the config's own name, empty for the whole config.
    """
    for limit, names in limits.items():
        for name in names.split():
            value = getattr(config, name)
            if not all(item in limit for item in (value if isinstance(value, tuple) else (value,))):
                shown = list(value) if isinstance(value, tuple) else value
                raise UserError(f"{f'{section}.{name}'.lstrip('.')} must be {limit}, got {shown}")
            if value == ():
                raise UserError(f"{f'{section}.{name}'.lstrip('.')} must have at least one number, got an empty list")


def check_choices(section: str, config: Any, choices: Mapping[str, tuple[str, ...]]) -> None:
    """Raise UserError on the first setting of `config` that is none of its `choices`, by name."""
    for name, known in choices.items():
        value = getattr(config, name)
        if value not in known:
            raise UserError(f"{f'{section}.{name}'.lstrip('.')} must be one of {', '.join(known)}, got {value!r}")
