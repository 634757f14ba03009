"""Vocabularies of the story world, and finding their words in a text."""

from __future__ import annotations

import re

NAMES = {
    "girl": "Mia",
    "boy": "Leo",
    "fox": "Rusty",
    "rabbit": "Lily",
    "bear": "Bruno",
    "frog": "Hugo",
    "cat": "Nala",
    "pig": "Rosie",
    "penguin": "Pip",
    "elephant": "Ella",
}
SHE = frozenset({"girl", "rabbit", "cat", "pig", "elephant"})
GARMENTS = {
    "girl": "dress",
    "boy": "shirt",
    "fox": "coat",
    "rabbit": "dress",
    "bear": "sweater",
    "frog": "shirt",
    "cat": "coat",
    "pig": "dress",
    "penguin": "sweater",
    "elephant": "coat",
}
CHARACTERS = tuple(NAMES)
COLORS = ("red", "blue", "green", "yellow", "purple", "pink")
PLACES = ("beach", "forest", "farm", "city", "castle", "mountains", "kitchen", "moon")
OBJECTS = ("ball", "kite", "balloon", "apple", "cake", "crown", "book", "flower", "star", "drum", "carrot", "robot")
WEATHERS = ("sunny", "rain", "snow", "night")
ACTIONS = (
    "want",
    "walk",
    "travel",
    "search",
    "cry",
    "lose",
    "meet",
    "use",
    "find",
    "give",
    "play",
    "celebrate",
    "sleep",
)


# A garment in the colour of the fur would hardly show.
HARD_TO_SEE = frozenset({("frog", "green"), ("pig", "pink")})
AT = {
    "beach": "on the beach",
    "forest": "in the forest",
    "farm": "on the farm",
    "city": "in the city",
    "castle": "at the castle",
    "mountains": "in the mountains",
    "kitchen": "in the kitchen",
    "moon": "on the moon",
}


# No word belongs to two labels: "lost" is left out (one searches for a lost ball), and so is "stars".
_WORDS: dict[str, dict[str, tuple[str, ...]]] = {
    "places": {"mountains": ("mountain",)},
    "weathers": {"sunny": ("sun", "sunshine"), "rain": ("rainy",), "snow": ("snowy",)},
    "actions": {
        "want": ("wants", "wish", "wishes", "dreams"),
        "walk": ("walks", "walking", "strolls", "hikes"),
        "travel": ("travels", "sails", "drives", "flies"),
        "search": ("searches", "look", "looks", "looking", "searching"),
        "cry": ("cries", "crying", "weeps", "sobs"),
        "lose": ("loses", "drops", "slips"),
        "meet": ("meets", "greets"),
        "use": ("uses", "climbs", "crosses", "unlocks", "lights", "slide"),
        "find": ("finds", "discovers", "spot", "spots"),
        "give": ("gives", "given", "offers"),
        "play": ("plays", "playing", "share", "shares"),
        "celebrate": ("celebrates", "cheer", "cheers", "dance", "dances"),
        "sleep": ("sleeps", "asleep", "snores"),
    },
}


def _lexicon() -> dict[str, tuple[str, str]]:
    groups = {
        "characters": CHARACTERS,
        "colors": COLORS,
        "places": PLACES,
        "objects": OBJECTS,
        "weathers": WEATHERS,
        "actions": ACTIONS,
    }
    words = {word: (group, word) for group, labels in groups.items() for word in labels}
    words.update(
        {f"{word}s": (group, word) for group in ("characters", "objects") for word in groups[group] if word != "star"}
    )
    words.update({name.lower(): ("characters", kind) for kind, name in NAMES.items()})
    for group, forms in _WORDS.items():
        words.update({word: (group, label) for label, others in forms.items() for word in others})
    return words


_LEXICON = _lexicon()


def mentioned(text: str) -> dict[str, set[str]]:
    """Return the labels that `text` mentions, by group; characters count by kind or name."""
    found: dict[str, set[str]] = {
        group: set() for group in ("characters", "colors", "places", "objects", "weathers", "actions")
    }
    for word in re.findall(r"[a-z]+", text.lower()):
        if word in _LEXICON:
            group, label = _LEXICON[word]
            found[group].add(label)
    return found


def with_article(noun: str) -> str:
    """Return the noun with "a" or "an"."""
    return f"{'an' if noun[0] in 'aeio' else 'a'} {noun}"
