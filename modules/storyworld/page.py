"""One page of a plot before it is written and drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Actor:
    """A character in its clothes; both stay the same all through a story."""

    kind: str
    color: str


@dataclass(frozen=True)
class Page:
    """What happens: `event` says which words and which layout, the rest what they are filled with.

    The hero leads `cast`.
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
