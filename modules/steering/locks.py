"""Locks: what an edit must not change."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from modules.common.errors import UserError

KINDS = ("text", "picture", "codes")


@dataclass(frozen=True)
class Locks:
    """Pages whose text or picture stays, and the codes (page, slot) that stay; all numbers from 0."""

    texts: frozenset[int] = frozenset()
    pictures: frozenset[int] = frozenset()
    codes: frozenset[tuple[int, int]] = frozenset()

    def merge(self, codes: Sequence[int], wanted: Sequence[int], page: int) -> tuple[int, ...]:
        """Return the `wanted` codes (S) of a page, but its present `codes` (S) where they are locked."""
        return tuple(
            old if (page, slot) in self.codes else new
            for slot, (old, new) in enumerate(zip(codes, wanted, strict=True))
        )


def parse_locks(words: Iterable[str], num_pages: int, num_slots: int) -> Locks:
    """Return the locks that `words` name: a page ("2"), a part of a page ("2.text", "2.picture", "2.codes"), one code
    ("2.5"), or a part of all pages ("text", "picture", "codes"). Numbers count from 1.

    Raises UserError for any other word, and for a page or a slot that there is not.
    """
    texts, pictures, codes = set[int](), set[int](), set[tuple[int, int]]()
    for word in words:
        first, _, rest = word.partition(".")
        if first in KINDS and not rest:
            pages, part = list(range(num_pages)), first
        else:
            pages, part = [_number(first, num_pages, "page", word) - 1], rest
        for page in pages:
            if part in ("", "text"):
                texts.add(page)
            if part in ("", "picture"):
                pictures.add(page)
            if part in ("", "codes"):
                codes |= {(page, slot) for slot in range(num_slots)}
            if part and part not in KINDS:
                codes.add((page, _number(part, num_slots, "slot", word) - 1))
    return Locks(frozenset(texts), frozenset(pictures), frozenset(codes))


def parse_code(word: str, num_slots: int, codebook_size: int) -> tuple[int, int]:
    """Return the slot, from 0, and the code that a word such as "5=117" names. Raises UserError."""
    slot, _, code = word.partition("=")
    number = _number(slot, num_slots, "slot", word) - 1
    if not (code.isascii() and code.isdigit() and len(code) < 10 and int(code) < codebook_size):
        raise UserError(f'"{word}": the code must be a number from 0 to {codebook_size - 1}: write SLOT=CODE')
    return number, int(code)


def parse_page_codes(
    words: Iterable[str], num_pages: int, num_slots: int, codebook_size: int
) -> Mapping[tuple[int, int], int]:
    """Return codes by page and slot, from 0, that words such as "3.5=117" name. Raises UserError."""
    found = {}
    for word in words:
        page, _, rest = word.partition(".")
        number = _number(page, num_pages, "page", word) - 1
        slot, code = parse_code(rest, num_slots, codebook_size)
        found[number, slot] = code
    return found


def _number(text: str, highest: int, name: str, word: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 10 and 1 <= int(text) <= highest):
        raise UserError(f'"{word}": the {name} must be a number from 1 to {highest}, got "{text}"')
    return int(text)
