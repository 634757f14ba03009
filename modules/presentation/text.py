"""Text prepared for pages and pictures: unprintable characters removed, long lines wrapped."""

from __future__ import annotations

import unicodedata
from bisect import bisect_right
from collections.abc import Callable, Sequence

ELLIPSIS = "…"
_LONGEST_LINE = 400  # Characters. Measuring very long strings is slow.


def clean(text: str) -> str:
    """Remove what UTF-8, HTML or XML cannot contain: lone surrogates, control characters, U+FFFE and U+FFFF. Of white
    space among these, such as the vertical tab of slides, a space stays.
    """
    if text.isprintable():  # As pictures in data URIs are: a hundred thousand characters at once.
        return text
    return "".join(map(_allowed, text))


def _allowed(character: str) -> str:
    if character in "\t\n\r":
        return character
    if unicodedata.category(character) not in ("Cc", "Cs") and character not in "\ufffe\uffff":
        return character
    return " " if character.isspace() else ""


def split_after(text: str, lines: Sequence[str]) -> tuple[str, str]:
    """Return the part of a text, with single spaces, that its first wrapped lines show, and the rest."""
    rest = text
    for line in lines:
        rest = rest.removeprefix(line).removeprefix(" ")
    return text[: len(text) - len(rest)].rstrip(), rest


def wrap(text: str, width: float, measure: Callable[[str], float], max_lines: int | None = None) -> list[str]:
    """Split text into lines no wider than `width`.

    A word that is wider than a line, or a script without spaces, is broken anywhere.

    Args:
        text: Cleaned first; any white space separates words.
        width: In the unit of `measure`.
        measure: Returns the drawn width of a string.
        max_lines: Text beyond these lines is replaced by an ellipsis.
    """
    lines: list[str] = []
    line = ""
    for word in clean(text).split():
        joined = f"{line} {word}".strip()
        if _fits(joined, width, measure):
            line = joined
            continue
        if line:
            lines.append(line)
        *pieces, line = _break_word(word, width, measure)
        lines += pieces
        if max_lines is not None and len(lines) > max_lines:
            break
    lines = [*lines, line] if line else lines
    if max_lines is None or len(lines) <= max_lines:
        return lines
    return [*lines[: max_lines - 1], _shorten(lines[max_lines - 1], width, measure)]


def _break_word(word: str, width: float, measure: Callable[[str], float]) -> list[str]:
    """Split one word into pieces that fit, the last one possibly empty."""
    pieces = []
    while not _fits(word, width, measure):
        starts = [word[:end] for end in range(2, min(len(word), _LONGEST_LINE) + 1)]
        cut = 1 + bisect_right(starts, width, key=measure)
        pieces.append(word[:cut])
        word = word[cut:]
    return [*pieces, word]


def _shorten(line: str, width: float, measure: Callable[[str], float]) -> str:
    """Cut a line until it fits with an ellipsis behind it."""
    while line and measure(line + ELLIPSIS) > width:
        line = line[:-1]
    return line + ELLIPSIS


def _fits(text: str, width: float, measure: Callable[[str], float]) -> bool:
    return len(text) <= _LONGEST_LINE and measure(text) <= width
