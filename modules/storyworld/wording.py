"""Write the text of a page: a template of its event, filled with characters, place and object."""

from __future__ import annotations

import random
import re

from modules.storyworld.labels import AT, GARMENTS, NAMES, SHE, with_article
from modules.storyworld.page import Actor, Page
from modules.storyworld.templates import TEMPLATES

_DAY = {"sunny": "One sunny day", "rain": "One rainy day", "snow": "One snowy day", "night": "One night"}
_NEXT_DAY = {
    "sunny": "On another sunny day",
    "rain": "On another rainy day",
    "snow": "On another snowy day",
    "night": "On another night",
}
_SKY = {
    "sunny": ("The sun is warm.", "The sun is bright."),
    "rain": ("The rain falls and falls.", "Rain taps on everything."),
    "snow": ("Soft snow is falling.", "The snow is white and cold."),
    "night": ("The night is dark and still.", "It is a quiet night."),
}
_ALONE_OR_TOGETHER = ("want", "walk", "search", "find", "discover", "play", "lose", "trouble", "celebrate", "return")
# In the kitchen the weather is outside.
_INDOORS = {
    "sunny": ("The sun is at the window.",),
    "rain": ("Rain taps on the window.",),
    "snow": ("Snow falls outside the window.",),
    "night": ("The night is dark outside.",),
}


class Writer:
    """Writes the pages of one story in order, and introduces every character once."""

    def __init__(self, rng: random.Random) -> None:
        self.rng = rng
        self.introduced: set[str] = set()

    def write(self, page: Page, opening: bool = False) -> str:
        """Return the text of a page; `opening` marks the first page of an episode."""
        days = _NEXT_DAY if self.introduced else _DAY
        template = self.rng.choice(TEMPLATES[_key(page)])
        sky = self.rng.choice((_INDOORS if page.place == "kitchen" else _SKY)[page.weather])
        fields = {
            "hero": self._call(page.cast[0]),
            "at": AT[page.place],
            "to": f"to the {page.place}",
            "day": days[page.weather] if opening else self.rng.choice(("Then", "Soon", "Now")),
            "sky": sky,
            **_pronouns(page.cast[0], ""),
        }
        if len(page.cast) > 1:
            friend = page.cast[1]
            fields.update(friend=self._call(friend), friend_name=NAMES[friend.kind], **_pronouns(friend, "friend_"))
        if page.object:
            fields.update(object=page.object, an_object=with_article(page.object))
        text = template.format(**fields)
        if opening and days is _NEXT_DAY and "{day}" not in template:
            text = f"Another time, {text if template[0] == '{' else text[0].lower() + text[1:]}"
        return re.sub(r"(^|[.!?] )([a-z])", lambda match: match[1] + match[2].upper(), text)

    def _call(self, actor: Actor) -> str:
        """Return a phrase for a character: complete when it is introduced, shorter later."""
        name, worn = NAMES[actor.kind], f"{actor.color} {GARMENTS[actor.kind]}"
        his = "her" if actor.kind in SHE else "his"
        if actor.kind not in self.introduced:
            self.introduced.add(actor.kind)
            return self.rng.choice((f"{name} the {actor.kind} in {his} {worn}", f"{name} the {actor.kind} in a {worn}"))
        return self.rng.choice(
            (name, name, f"the {actor.kind}", f"{name} in {his} {worn}", f"the {actor.kind} in the {worn}")
        )


def _key(page: Page) -> str:
    """Return the key of the templates that fit the page."""
    if page.event in ("blocked", "use"):
        return f"{page.event} {page.obstacle or page.tool}"
    if page.event == "travel":
        return f"travel {page.vehicle}"
    if page.event == "meet" and page.tool:
        return f"meet {page.tool}"
    if page.event == "meet" and page.object:
        return "meet object"
    event = f"trouble {page.weather}" if page.event == "trouble" else page.event
    return f"{event} together" if len(page.cast) > 1 and page.event in _ALONE_OR_TOGETHER else event


def _pronouns(actor: Actor, prefix: str) -> dict[str, str]:
    he, him, his = ("she", "her", "her") if actor.kind in SHE else ("he", "him", "his")
    return {f"{prefix}he": he, f"{prefix}him": him, f"{prefix}his": his}
