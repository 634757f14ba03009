"""Prompts: one line that names hero and object, often the place, sometimes the colour or the friend."""

from __future__ import annotations

import random

from modules.storyworld.labels import AT, GARMENTS, NAMES, SHE, mentioned, with_article
from modules.storyworld.page import Actor
from modules.storyworld.plots import Plot

_ANY = (
    "{hero} and {the} {object}",
    "{hero} and {the} {object} {at}",
    "a story about {hero} and {the} {object}",
    "tell me a story about {hero} and {an_object} {at}",
    "{hero} {at} with {an_object}",
)
_FORMS = {
    "quest": (
        "{hero} wants {an_object}",
        "{hero} looks for {an_object} {at}",
        "tell me a story about {hero} who gets {an_object} {at}",
        "{friend} helps {hero} to get {an_object}",
        "{hero} dreams of {an_object}",
    ),
    "lost": (
        "{hero} looks for {his} lost {object} {at}",
        "{hero} loses {his} {object} {at}",
        "{hero} and the lost {object}",
        "tell me a story about {hero} who finds {his} lost {object} {at}",
    ),
    "gift": (
        "{hero} finds {an_object} {home}",
        "{hero} gives {an_object} to {friend}",
        "{hero} gives {an_object} to {friend} {at}",
        "tell me a story about {hero} who makes {friend} happy with {an_object}",
        "a story about {hero} who finds {an_object} {home}",
    ),
    "storm": (
        "{hero} plays with {his} {object} {home}",
        "{hero} and {his} {object} {trouble}",
        "{friend} helps {hero} and {his} {object} {trouble}",
        "tell me a story about {hero} {trouble} with {an_object}",
    ),
    "trade": (
        "{hero} wants {an_object}",
        "{hero} gets {an_object} from {friend}",
        "{hero} meets {friend} who has {an_object}",
        "tell me a story about {hero} who wants {an_object}",
    ),
}
_ACTIONS_IN = {form: mentioned(form)["actions"] for forms in (_ANY, *_FORMS.values()) for form in forms}
_TROUBLE = {"rain": "in the rain", "snow": "in the snow", "night": "at night"}


def _call(rng: random.Random, actor: Actor) -> str:
    name, kind = NAMES[actor.kind], with_article(actor.kind)
    worn = f"in a {actor.color} {GARMENTS[actor.kind]}"
    return rng.choice(
        (
            name,
            kind,
            f"the {actor.kind}",
            f"{name} the {actor.kind}",
            f"{name} {worn}",
            f"{kind} {worn}",
            f"a little {actor.kind}",
        )
    )


def write_prompt(rng: random.Random, plot: Plot) -> str:
    """Return a random prompt that the plot fulfils."""
    happening = {page.action for page in plot.pages}
    forms = _FORMS[plot.family] if rng.random() < 0.65 else _ANY
    line = rng.choice([form for form in forms if _ACTIONS_IN[form] <= happening])
    trouble = next((page.weather for page in plot.pages if page.event == "trouble"), plot.weather)
    line = line.format(
        hero=_call(rng, plot.hero),
        friend=_call(rng, plot.friend) if plot.friend else "",
        object=plot.object,
        an_object=with_article(plot.object),
        the=rng.choice(("the", "his" if plot.hero.kind not in SHE else "her")),
        his="her" if plot.hero.kind in SHE else "his",
        at=AT[plot.place],
        home=AT[plot.home],
        trouble=_TROUBLE.get(trouble, ""),
    )
    style = rng.random()
    if style < 0.3:
        return line
    if style < 0.45:
        return line.lower()
    if style < 0.5:
        return line.upper()
    return f"{line[0].upper()}{line[1:]}" + ("." if style < 0.8 else "")
