"""A page of a plot, before its text is written and its picture drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Actor:
    """A character and the colour of its clothes, which is constant throughout a story."""

    kind: str
    color: str


@dataclass(frozen=True)
class Page:
    """The content of a page: `event` selects templates and layout, the other fields fill them.

    The first of `cast` is the hero.
    """

    event: str
    action: str
    place: str
    weather: str
    cast: tuple[Actor, ...]
    object: str | None = None
    tool: str | None = None
    obstacle: str | None = None
    vehicle: str | None = None
    jitter: tuple[int, ...] = (0, 0, 0, 0)

    def attributes(self) -> dict[str, Any]:
        """Return the ground truth of the page, for scoring only."""
        return {
            "hero": self.cast[0].kind,
            "characters": [actor.kind for actor in self.cast],
            "colors": [actor.color for actor in self.cast],
            "place": self.place,
            "object": self.object,
            "weather": self.weather,
            "action": self.action,
            "event": self.event,
        }
