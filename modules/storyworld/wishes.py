"""What a prompt asks for: characters, who gives and who helps, and colours of clothes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from modules.storyworld.labels import COLORS, GARMENTS, NAMES

_KINDS = {**{kind: kind for kind in NAMES}, **{name.lower(): kind for kind, name in NAMES.items()}}
_CHARACTER = re.compile(rf"\b({'|'.join(_KINDS)})\b")
_WORN = re.compile(rf"\b({'|'.join(COLORS)}) (?:{'|'.join(sorted(set(GARMENTS.values())))})\b")
_GIVES, _GIVEN = re.compile(r"\b(?:gives?|makes?)\b"), re.compile(r"\b(?:gets?|given)\b.*?\b(?:from|by)\b")
_HELPS, _HELPED = re.compile(r"\bhelps?\b"), re.compile(r"\b(?:helped by|help of|help from)\b")


@dataclass(frozen=True)
class Wish:
    """A prompt of the story world, in lower case."""

    text: str

    @classmethod
    def of(cls, prompt: str) -> Wish:
        """Read a prompt."""
        return cls(prompt.lower())

    @cached_property
    def characters(self) -> tuple[str, ...]:
        """The kinds of the characters in the order in which they are named."""
        return tuple(dict.fromkeys(kind for _, kind in self._named))

    @cached_property
    def colors(self) -> dict[str, str]:
        """The colour of the clothes by kind, where one is named; a colour of a thing is none."""
        worn = [(match[1], self._before(match.start())) for match in _WORN.finditer(self.text)]
        return {kind: color for color, kind in worn if kind}

    @cached_property
    def giver(self) -> tuple[str, str] | None:
        """Giver and receiver, if the prompt names both."""
        return self._pair(self._before_verb(_GIVES) or self._after_verb(_GIVEN)) if self.helper is None else None

    @cached_property
    def helper(self) -> tuple[str, str] | None:
        """Helper and helped, if the prompt names both."""
        return self._pair(self._after_verb(_HELPED) or self._before_verb(_HELPS))

    @cached_property
    def _named(self) -> list[tuple[int, str]]:
        return [(match.start(), _KINDS[match[1]]) for match in _CHARACTER.finditer(self.text)]

    def _before(self, position: int) -> str | None:
        return next((kind for start, kind in reversed(self._named) if start < position), None)

    def _before_verb(self, verb: re.Pattern[str]) -> str | None:
        match = verb.search(self.text)
        return self._before(match.start()) if match else None

    def _after_verb(self, verb: re.Pattern[str]) -> str | None:
        match = verb.search(self.text)
        return next((kind for start, kind in self._named if start >= match.end()), None) if match else None

    def _pair(self, subject: str | None) -> tuple[str, str] | None:
        """Return the subject and the other one of two characters."""
        others = [kind for kind in self.characters if kind != subject]
        return (subject, others[0]) if subject is not None and len(others) == 1 else None
