"""Arithmetic coding (Rissanen and Langdon 1979) of a few symbols, in whole numbers of any size: nothing is rounded.

`Encoder` and `Decoder` have the same two verbs, so that one function can describe what is written and what is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

TOTAL = 1 << 20  # What the frequencies of a symbol's alternatives add up to, at most.


def frequencies(probabilities: Tensor) -> list[int]:
    """Return whole numbers of at least 1 for float64 probabilities (K,); probabilities that differ by rounding alone
    give the same ones, but for a chance of `TOTAL` times the difference.
    """
    free = TOTAL - len(probabilities)
    return [1 + int(value) for value in (probabilities * free * (1 - 1e-9)).tolist()]


class Coder(Protocol):
    """Writes what is known, or reads it, where `known` means nothing; both return it."""

    def symbol(self, known: int, counts: Sequence[int], /) -> int:
        """One of K symbols with the frequencies `counts` (K,)."""

    def number(self, known: int, count: int, /) -> int:
        """A whole number below `count`, all of which are as likely."""


class Encoder:
    """Narrows an interval of fractions, [low, low + width) / denominator, symbol by symbol."""

    def __init__(self) -> None:
        self._low, self._width, self._denominator = 0, 1, 1

    def symbol(self, known: int, counts: Sequence[int]) -> int:
        self._narrow(sum(counts[:known]), counts[known], sum(counts))
        return known

    def number(self, known: int, count: int) -> int:
        self._narrow(known, 1, count)
        return known

    def digits(self, base: int) -> list[int]:
        """Return the fewest digits of a fraction of the interval."""
        length, scale = 0, 1
        while (first := -(-self._low * scale // self._denominator)) * self._denominator >= (
            self._low + self._width
        ) * scale:
            length, scale = length + 1, scale * base
        return [first // base**place % base for place in reversed(range(length))]

    def _narrow(self, start: int, count: int, total: int) -> None:
        self._low = self._low * total + self._width * start
        self._width, self._denominator = self._width * count, self._denominator * total


class Decoder:
    """Reads what an `Encoder` wrote as `digits`."""

    def __init__(self, digits: Sequence[int], base: int) -> None:
        self._place, self._size = 0, base ** len(digits)  # The fraction within the interval of what was read.
        for digit in digits:
            self._place = self._place * base + digit

    def symbol(self, _known: int, counts: Sequence[int]) -> int:
        target, start, symbol = self._place * sum(counts) // self._size, 0, 0
        while target >= start + counts[symbol]:
            start, symbol = start + counts[symbol], symbol + 1
        self._narrow(start, counts[symbol], sum(counts))
        return symbol

    def number(self, _known: int, count: int) -> int:
        number = self._place * count // self._size
        self._narrow(number, 1, count)
        return number

    def _narrow(self, start: int, count: int, total: int) -> None:
        self._place, self._size = self._place * total - start * self._size, self._size * count
