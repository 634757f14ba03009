"""Prompts: one line that names hero and object, often the place or the friend, sometimes colours and the ending.

In every sentence with a verb of giving the subject is the hero, so that the grammar alone assigns the roles.
"""

from __future__ import annotations

import random

from modules.storyworld.episode import Plot
from modules.storyworld.labels import AT, COLORS, GARMENTS, NAMES, SHE, mentioned, with_article
from modules.storyworld.page import Actor

_ALONE = (
    "{hero} and {the} {object}",
    "{hero} and {the} {object} {at}",
    "a story about {hero} and {the} {object}",
    "tell me a story about {hero} and {an_object} {at}",
    "{hero} {at} with {an_object}",
)
_TOGETHER = (
    "{hero} and {friend} with {an_object}",
    "{hero}, {friend} and {an_object} {at}",
    "a story about {hero}, {friend} and {the} {object}",
    "tell me a story about {hero} with {friend} and {an_object} {at}",
)
_FORMS = {  # By family: without the friend, and with it.
    "quest": (
        (
            "{hero} wants {an_object}",
            "{hero} looks for {an_object} {at}",
            "tell me a story about {hero} who gets {an_object} {at}",
            "{hero} dreams of {an_object}",
        ),
        (
            "{friend} helps {hero} to get {an_object}",
            "{hero} gets {an_object} with the help of {friend}",
            "{hero} is helped by {friend} to get {an_object} {at}",
            "{hero} wants {an_object} and {friend} helps {him}",
            "tell me a story about {friend} who helps {hero} to get {an_object}",
        ),
    ),
    "lost": (
        (
            "{hero} looks for {his} lost {object} {at}",
            "{hero} loses {his} {object} {at}",
            "{hero} and the lost {object}",
            "tell me a story about {hero} who finds {his} lost {object} {at}",
        ),
        (
            "{hero} and {friend} look for the lost {object}",
            "{hero} and {friend} search {at} for {the} {object}",
            "{friend} helps {hero} to find {his} {object} {at}",
            "{hero} finds {his} lost {object} with the help of {friend}",
            "{hero} is helped by {friend} to find the lost {object}",
        ),
    ),
    "gift": (
        (
            "{hero} finds {an_object} {home}",
            "a story about {hero} who finds {an_object} {home}",
            "{hero} gives away {an_object}",
        ),
        (
            "{hero} gives {an_object} to {friend}",
            "{hero} gives {an_object} to {friend} {at}",
            "{hero} gives {friend} {an_object}",
            "tell me a story about {hero} who gives {friend} {an_object}",
            "tell me a story about {hero} who makes {friend} happy with {an_object}",
        ),
    ),
    "present": (
        ("{hero} wants {an_object}", "{hero} is given {an_object} {at}", "a story about {hero} who gets {an_object}"),
        (
            "{hero} gets {an_object} from {friend}",
            "{hero} is given {an_object} by {friend}",
            "{hero} wants {an_object} and {friend} gives it to {him}",
            "{hero} is happy because {friend} gives {him} {an_object}",
            "tell me a story about {hero} who gets {an_object} from {friend} {at}",
        ),
    ),
    "storm": (
        (
            "{hero} plays with {his} {object} {home}",
            "{hero} and {his} {object} {trouble}",
            "tell me a story about {hero} {trouble} with {an_object}",
        ),
        (
            "{friend} helps {hero} and {his} {object} {trouble}",
            "{hero} is helped by {friend} {trouble} with {the} {object}",
            "{hero} and {his} {object} get help from {friend} {trouble}",
        ),
    ),
    "trade": (
        ("{hero} wants {an_object}", "tell me a story about {hero} who wants {an_object}"),
        ("{hero} gets {an_object} from {friend}", "{hero} meets {friend} who has {an_object}"),
    ),
    "share": (
        ("{hero} shares {an_object}", "{hero} shares {his} {object} {at}"),
        (
            "{hero} and {friend} share {an_object}",
            "{hero} and {friend} share {an_object} {at}",
            "{hero} shares {an_object} with {friend}",
            "{hero} shares {his} {object} with {friend} {at}",
            "tell me a story about {hero} and {friend} who share {an_object}",
        ),
    ),
}
_ACTIONS_IN = {
    form: mentioned(form)["actions"]
    for group in ((_ALONE, _TOGETHER), *_FORMS.values())
    for forms in group
    for form in forms
}
_TROUBLE = {"rain": "in the rain", "snow": "in the snow", "night": "at night"}
_WEATHER = {"sunny": "on a sunny day", "rain": "on a rainy day", "snow": "on a snowy day", "night": "at night"}
_ADJECTIVES = ("big", "little", "new", "old", "shiny")


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


def _thing(rng: random.Random, name: str) -> str:
    """Return the object's name, at times with an adjective.

    Things have no colours of their own, so the story does not follow an adjective, but no coat follows it either.
    """
    if rng.random() < 0.8:
        return name
    return f"{rng.choice(COLORS if rng.random() < 0.6 else _ADJECTIVES)} {name}"


def _ending(rng: random.Random, plot: Plot) -> list[str]:
    """Return a sentence about how the plot ends, or none."""
    last = plot.pages[-1]
    if rng.random() < 0.4 or last.action not in ("sleep", "celebrate"):
        return []
    he = "she" if plot.hero.kind in SHE else "he"
    when = rng.choice(("in the end", "at the end", "then"))
    if last.action == "sleep":
        return [f"{when} {he} {rng.choice((f'sleeps {AT[last.place]}', 'goes to sleep'))}"]
    they = "they celebrate" if len(last.cast) > 1 else f"{he} celebrates"
    return [f"{when} {they} {AT[last.place]}" if rng.random() < 0.6 else f"{when} {they}"]


def write_prompt(rng: random.Random, plot: Plot) -> str:
    """Return a random prompt that the plot fulfils; it names the friend if the plot says so."""
    happening = {page.action for page in plot.pages}
    with_friend = plot.named and plot.friend is not None
    forms = _FORMS[plot.family] if rng.random() < 0.75 else (_ALONE, _TOGETHER)
    form = rng.choice(
        [form for form in forms[with_friend] if _ACTIONS_IN[form] <= happening] or (_ALONE, _TOGETHER)[with_friend]
    )
    line = _fill(rng, form, plot)
    if rng.random() < 0.65:
        return _punctuate(rng, [line])
    line += f" {AT[plot.place]}" if "{at}" not in form and "{home}" not in form and rng.random() < 0.5 else ""
    weather = "" if "{trouble}" in form or rng.random() < 0.3 else _WEATHER[_weather(plot)]
    if rng.random() < 0.5:
        return _punctuate(rng, [f"{line} {weather}".strip(), *_ending(rng, plot)])
    return _punctuate(rng, [line, *_details(rng, plot, line, weather), *_ending(rng, plot)])


def _details(rng: random.Random, plot: Plot, line: str, weather: str) -> list[str]:
    """Return sentences about the first place, the weather and the clothes, as far as the line leaves them open."""
    sentences = [f"the story begins {AT[plot.pages[0].place]}"] if rng.random() < 0.5 else []
    sentences += [f"it is {weather.removeprefix('on ')}"] if weather.startswith("on ") else []
    actors = [plot.hero, plot.friend] if plot.named and plot.friend else [plot.hero]
    open_actors = [actor for actor in actors if actor.color not in line and rng.random() < 0.6]
    clothes = [f"{NAMES[actor.kind]} has a {actor.color} {GARMENTS[actor.kind]}" for actor in open_actors]
    return [*sentences, *([" and ".join(clothes)] if clothes else [])]


def _fill(rng: random.Random, form: str, plot: Plot) -> str:
    """Return a form filled with the plot's characters, object and places."""
    thing, she = _thing(rng, plot.object), plot.hero.kind in SHE
    return form.format(
        hero=_call(rng, plot.hero),
        friend=_call(rng, plot.friend) if plot.friend else "",
        object=thing,
        an_object=with_article(thing),
        the=rng.choice(("the", "her" if she else "his")),
        his="her" if she else "his",
        him="her" if she else "him",
        at=AT[plot.place],
        home=AT[plot.home],
        trouble=_TROUBLE.get(_weather(plot), ""),
    ).strip()


def _weather(plot: Plot) -> str:
    """Return the weather of the plot, in a storm that of the trouble."""
    return next((page.weather for page in plot.pages if page.event == "use"), plot.pages[0].weather)


def _punctuate(rng: random.Random, sentences: list[str]) -> str:
    """Return the sentences in one of the styles in which users write."""
    style = rng.random()
    if len(sentences) == 2 and rng.random() < 0.3:
        sentences = [", and ".join(sentences)]
    line = ". ".join(sentences)
    if style < 0.3:
        return line
    if style < 0.45:
        return line.lower()
    if style < 0.5 and len(line) < 60:
        return line.upper()
    line = ". ".join(f"{sentence[0].upper()}{sentence[1:]}" for sentence in sentences)
    return line + ("." if len(sentences) > 1 or style < 0.8 else "")
