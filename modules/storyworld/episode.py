"""A plot under construction, and the steps that all families of plots take."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

from modules.storyworld.labels import COLORS, HARD_TO_SEE
from modules.storyworld.page import Actor, Page


@dataclass
class Plot:
    """A plot: its cast, its two places, its object and its pages so far.

    The prompt names the friend if `named`; the friend comes along from the first page if `accompanied`.
    """

    rng: random.Random
    family: str
    hero: Actor
    home: str
    place: str
    weather: str
    object: str
    friend: Actor | None = None
    named: bool = False
    accompanied: bool = False
    pages: list[Page] = field(default_factory=list)

    def chance(self, probability: float) -> bool:
        """Return True with a probability."""
        return self.rng.random() < probability

    def add(self, event: str, action: str, place: str, together: bool = False, **details: Any) -> None:
        """Append a page, which includes the friend if `together`."""
        cast = (self.hero, self.friend) if together and self.friend else (self.hero,)
        jitter = tuple(self.rng.randint(-2, 2) for _ in range(4))
        self.pages.append(
            Page(event, action, place, details.pop("weather", self.weather), cast, jitter=jitter, **details)
        )

    def befriend(self, kinds: tuple[str, ...]) -> None:
        """Unless there is a friend, add the first of `kinds` that is not the hero, in another colour."""
        if self.friend is None:
            kind = next(kind for kind in kinds if kind != self.hero.kind)
            self.friend = dress(self.rng, kind, without=self.hero.color)

    def go(self) -> None:
        """Move from home to the place: on foot if two go, else also by the vehicle that goes there."""
        if self.home == self.place:
            return
        if self.accompanied:
            self.add("walk", "walk", self.place, together=True)
            return
        if "moon" in (self.home, self.place):
            vehicle = "rocket"
        elif self.place == "kitchen" or self.chance(0.4):
            self.add("walk", "walk", self.place)
            return
        else:
            vehicle = "boat" if self.place == "beach" else "car"
        self.add("travel", "travel", self.place, vehicle=vehicle)

    def end(self, sleep: float = 0.35) -> None:
        """End the plot where it began with a celebration, and sometimes with a page of sleep."""
        event = "celebrate" if self.home == self.place else "return"
        self.add(event, "celebrate", self.home, together=True, object=self.object)
        if len(self.pages) < 8 and self.chance(sleep * (0.5 if self.accompanied else 1)):
            self.add("sleep", "sleep", self.home, object=self.object, weather="night")


def dress(rng: random.Random, kind: str, without: str | None = None) -> Actor:
    """Return a character in a random colour that shows on it, other than `without`."""
    return Actor(kind, rng.choice([color for color in COLORS if color != without and (kind, color) not in HARD_TO_SEE]))
