"""Plots: sequences of pages in which every event follows from the ones before."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from modules.storyworld.labels import CHARACTERS, COLORS, HARD_TO_SEE, OBJECTS, PLACES
from modules.storyworld.page import Actor, Page

# The first who is not the hero comes to help.
TOOL_OWNERS = {
    "ladder": ("bear", "girl"),
    "plank": ("pig", "frog"),
    "key": ("cat", "boy"),
    "lantern": ("fox", "rabbit"),
    "umbrella": ("frog", "girl"),
    "sled": ("penguin", "elephant"),
}
PLACE_FRIENDS = {
    "beach": ("elephant", "frog"),
    "forest": ("fox", "bear"),
    "farm": ("pig", "rabbit"),
    "city": ("boy", "cat"),
    "castle": ("girl", "elephant"),
    "mountains": ("penguin", "bear"),
    "kitchen": ("cat", "girl"),
    "moon": ("rabbit", "boy"),
}
OBSTACLE_TOOLS = {"rock": "ladder", "river": "plank", "box": "key", "cave": "lantern"}
WEATHER_TOOLS = {"rain": "umbrella", "snow": "sled", "night": "lantern"}
OBSTACLES = {
    "beach": ("rock", "river", "box", "cave"),
    "forest": ("rock", "river", "box", "cave"),
    "farm": ("river", "box"),
    "city": ("river", "box"),
    "castle": ("rock", "river", "box"),
    "mountains": ("rock", "river", "box", "cave"),
    "kitchen": ("box",),
    "moon": ("rock", "box", "cave"),
}
OUTDOORS = ("beach", "forest", "farm", "city", "castle", "mountains")


@dataclass
class Plot:
    """A plot under construction: its cast, its two places, its object and its pages so far."""

    rng: random.Random
    family: str
    hero: Actor
    home: str
    place: str
    weather: str
    object: str
    friend: Actor | None = None
    pages: list[Page] = field(default_factory=list)

    def chance(self, probability: float) -> bool:
        """Return True with probability 1/2."""
        return self.rng.random() < probability

    def add(self, event: str, action: str, place: str, together: bool = False, **details: Any) -> None:
        """Append a page, which includes the friend if `together`."""
        cast = (self.hero, self.friend) if together and self.friend else (self.hero,)
        jitter = tuple(self.rng.randint(-2, 2) for _ in range(4))
        self.pages.append(
            Page(event, action, place, details.pop("weather", self.weather), cast, jitter=jitter, **details)
        )

    def befriend(self, kinds: tuple[str, ...]) -> None:
        """Add the first of `kinds` that is not the hero as the friend, in another colour."""
        kind = next(kind for kind in kinds if kind != self.hero.kind)
        self.friend = _dress(self.rng, kind, without=self.hero.color)

    def go(self) -> None:
        """Move the hero from home to the place: on foot, or by the vehicle that goes there."""
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
        if len(self.pages) < 8 and self.chance(sleep):
            self.add("sleep", "sleep", self.home, object=self.object, weather="night")


def _dress(rng: random.Random, kind: str, without: str | None = None) -> Actor:
    return Actor(kind, rng.choice([color for color in COLORS if color != without and (kind, color) not in HARD_TO_SEE]))


def _quest(plot: Plot) -> None:
    """The hero wants something; the way to it is barred until somebody lends the right tool."""
    obstacle = plot.rng.choice(OBSTACLES[plot.place])
    tool = OBSTACLE_TOOLS[obstacle]
    plot.befriend(TOOL_OWNERS[tool])
    plot.add("want", "want", plot.home, object=plot.object)
    plot.go()
    if plot.chance(0.3):
        plot.add("seek", "search", plot.place, object=plot.object)
    plot.add("blocked", "cry", plot.place, object=plot.object, obstacle=obstacle)
    if plot.chance(0.5):
        plot.add("meet", "meet", plot.place, together=True, tool=tool)
    plot.add("use", "use", plot.place, together=True, object=plot.object, tool=tool, obstacle=obstacle)
    plot.end()


def _lost(plot: Plot) -> None:
    """The hero loses something, and finds it where it was lost."""
    if plot.home != plot.place:
        plot.add("play", "play", plot.home, object=plot.object)
        plot.go()
    elif plot.chance(0.5):
        plot.add("play", "play", plot.home, object=plot.object)
    plot.add("lose", "lose", plot.place, object=plot.object)
    if plot.chance(0.4) and len(plot.pages) < 3:
        plot.add("cry", "cry", plot.place)
    if plot.chance(0.6):
        plot.befriend(PLACE_FRIENDS[plot.place])
        plot.add("meet", "meet", plot.place, together=True)
    plot.add("search", "search", plot.place, together=True, object=plot.object)
    plot.add("find", "find", plot.place, together=True, object=plot.object)
    plot.end()


def _gift(plot: Plot) -> None:
    """The hero finds something and gives it to somebody sad; both go home happy."""
    plot.befriend(PLACE_FRIENDS[plot.place])
    plot.add("discover", "find", plot.home, object=plot.object)
    if plot.chance(0.3):
        plot.add("play", "play", plot.home, object=plot.object)
    if plot.home != plot.place:
        plot.go()
    plot.add("friend_cry", "cry", plot.place, together=True)
    plot.add("give", "give", plot.place, together=True, object=plot.object)
    if plot.chance(0.4):
        plot.add("play", "play", plot.place, together=True, object=plot.object)
    plot.end()


def _storm(plot: Plot) -> None:
    """Out with a toy, the hero is surprised by rain, snow or the night, and somebody has the right thing for it."""
    trouble = plot.rng.choice(tuple(WEATHER_TOOLS))
    tool = WEATHER_TOOLS[trouble]
    plot.befriend(TOOL_OWNERS[tool])
    plot.weather = "sunny"
    plot.add("play", "play", plot.home, object=plot.object)
    if plot.home != plot.place:
        plot.go()
    plot.weather = trouble
    plot.add("trouble", "cry", plot.place, object=plot.object)
    if plot.chance(0.5):
        plot.add("meet", "meet", plot.place, together=True, tool=tool)
    plot.add("use", "use", plot.place, together=True, object=plot.object, tool=tool)
    plot.weather = "night" if trouble == "night" else "sunny"
    plot.end()


def _trade(plot: Plot) -> None:
    """Somebody has what the hero wants, and parts with it for another thing, which the hero goes and finds."""
    other = plot.rng.choice([name for name in OBJECTS if name != plot.object])
    plot.befriend(PLACE_FRIENDS[plot.place])
    plot.add("want", "want", plot.home, object=plot.object)
    if plot.home != plot.place:
        plot.go()
    plot.add("meet", "meet", plot.place, together=True, object=plot.object)
    plot.add("friend_want", "want", plot.place, together=True, object=other)
    plot.add("discover", "find", plot.place, object=other)
    plot.add("give", "give", plot.place, together=True, object=other)
    plot.add("give_back", "give", plot.place, together=True, object=plot.object)
    plot.end(sleep=0.2)


_FAMILIES: dict[str, tuple[float, Callable[[Plot], None]]] = {
    "quest": (0.32, _quest),
    "lost": (0.26, _lost),
    "gift": (0.16, _gift),
    "storm": (0.16, _storm),
    "trade": (0.10, _trade),
}


def _places(rng: random.Random, family: str) -> tuple[str, str]:
    places = OUTDOORS if family == "storm" else PLACES
    home, place = rng.choice(places), rng.choice(places)
    if family == "quest" or {home, place} == {
        "moon",
        "kitchen",
    }:  # A quest leads away from home; no rocket lands in a kitchen.
        while home == place or {home, place} == {"moon", "kitchen"}:
            place = rng.choice(places)
    if family != "quest" and rng.random() < 0.3:
        place = home
    return home, place


def make_plot(rng: random.Random, hero: Actor | None = None) -> Plot:
    """Return a random plot, about `hero` if one is given."""
    family = rng.choices(list(_FAMILIES), [weight for weight, _ in _FAMILIES.values()])[0]
    home, place = _places(rng, family)
    weather = "night" if "moon" in (home, place) else rng.choice(("sunny", "sunny", "rain", "snow", "night"))
    plot = Plot(rng, family, hero or _dress(rng, rng.choice(CHARACTERS)), home, place, weather, rng.choice(OBJECTS))
    _FAMILIES[family][1](plot)
    return plot
