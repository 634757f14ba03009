"""Plots: the events of one episode, from its family, its characters and its places."""

from __future__ import annotations

import random
from collections.abc import Callable

from modules.storyworld.episode import Plot, dress
from modules.storyworld.families import gift, lost, present, quest, share, storm, trade
from modules.storyworld.labels import CHARACTERS, OBJECTS, PLACES
from modules.storyworld.page import Actor

MAX_PAGES = 8
OUTDOORS = ("beach", "forest", "farm", "city", "castle", "mountains")
_FAMILIES: dict[str, tuple[float, Callable[[Plot], None]]] = {
    "quest": (0.25, quest),
    "lost": (0.21, lost),
    "gift": (0.16, gift),
    "present": (0.08, present),
    "storm": (0.13, storm),
    "trade": (0.06, trade),
    "share": (0.11, share),
}
# A short plot needs this page; a trade does not fit into three pages.
_KEY_EVENT = {"quest": "use", "lost": "find", "gift": "give", "present": "receive", "storm": "use", "share": "share"}
_NAMED_FRIEND, _COMPANION, _SHORT = 0.6, 0.5, 0.2  # Shares of the plots.


def make_plot(rng: random.Random, before: Plot | None = None, longest: int = MAX_PAGES) -> Plot:
    """Return a random plot of at most `longest` pages.

    After the plot `before` its characters have another episode, about another object.
    """
    while True:
        length = rng.randint(1, min(3, longest)) if longest < 4 or rng.random() < _SHORT else None
        plot = _draw(rng, before, length)
        if len(plot.pages) <= longest:
            return plot


def _draw(rng: random.Random, before: Plot | None, length: int | None) -> Plot:
    """Return a random plot, of `length` pages if that is given."""
    families = [name for name in _FAMILIES if length is None or name in _KEY_EVENT]
    family = rng.choices(families, [_FAMILIES[name][0] for name in families])[0]
    hero = before.hero if before else dress(rng, rng.choice(CHARACTERS))
    friend = before.friend if before else _named_friend(rng, hero)
    accompanied = family == "share" or (friend is not None and rng.random() < _COMPANION)
    home, place = _places(rng, family, stay=length is not None, on_foot=accompanied)
    weather = "night" if "moon" in (home, place) else rng.choice(("sunny", "sunny", "rain", "snow", "night"))
    thing = rng.choice([name for name in OBJECTS if before is None or name != before.object])
    plot = Plot(rng, family, hero, home, place, weather, thing, friend, named=friend is not None)
    plot.accompanied = accompanied
    _FAMILIES[family][1](plot)
    if length is not None:
        _shorten(plot, length)
    return plot


def _named_friend(rng: random.Random, hero: Actor) -> Actor | None:
    """Return any other character, for the prompt to name, or None for one that fits the plot."""
    if rng.random() >= _NAMED_FRIEND:
        return None
    return dress(rng, rng.choice([kind for kind in CHARACTERS if kind != hero.kind]), without=hero.color)


def _shorten(plot: Plot, length: int) -> None:
    """Keep the key page, the ending from two pages on, and the opening from three on."""
    key = next(page for page in plot.pages if page.event == _KEY_EVENT[plot.family])
    ending = next(page for page in reversed(plot.pages) if page.action == "celebrate")
    plot.pages = {1: [key], 2: [key, ending], 3: [plot.pages[0], key, ending]}[length]


def _places(rng: random.Random, family: str, stay: bool, on_foot: bool) -> tuple[str, str]:
    """Return the home and the place of a plot; they are the same if the plot must `stay`."""
    places = OUTDOORS if family == "storm" else PLACES
    home, place = rng.choice(places), rng.choice(places)
    if stay or (on_foot and "moon" in (home, place)):  # Only a rocket, for one, goes to the moon.
        return home, home
    apart = family == "quest"  # A quest leads away from home.
    while (apart and home == place) or {home, place} == {"moon", "kitchen"} or (on_foot and place == "moon"):
        place = rng.choice(places)  # No rocket lands in a kitchen.
    if not apart and rng.random() < 0.3:
        place = home
    return home, place
